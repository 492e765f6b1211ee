"""A real server, over real sockets: slow and greedy clients, a full queue, signals, memory, the docs' clients."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from manyhot.errors import UserError
from manyhot.serving.limits import Limits
from manyhot.serving.server import serve

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
PLACE = "/v1/predict"
RAW = {"content-type": "application/octet-stream"}


@contextlib.contextmanager
def served(run: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Address and process of a server."""
    command = [sys.executable, "-m", "manyhot", "serve", str(run), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://(\S+)/", process.stdout.readline())
            assert found
            yield found[1], process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def address(trained: Path) -> Iterator[str]:
    """Of a server with small bounds."""
    with served(trained, "--max-body", "0.5", "--timeout", "2", "--max-pixels", "50") as (address, process):
        yield address
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 143
        assert "Traceback" not in said


@pytest.fixture(scope="module")
def photograph(tiny_table: Path) -> bytes:
    return (tiny_table.parent / "30.png").read_bytes()


def packed(width: int, height: int) -> bytes:
    """A picture of many pixels and few bytes."""
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def large() -> bytes:
    """A picture that takes a while to decode."""
    return packed(10_000, 9_000)


def asked(address: str, body, headers=RAW, place=PLACE) -> http.client.HTTPResponse:
    """The answer, also where the server takes no more of the body."""
    connection = http.client.HTTPConnection(address, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest("POST", place)
        for name, value in headers.items():
            connection.putheader(name, value)
        if isinstance(body, bytes):
            connection.putheader("content-length", str(len(body)))
        connection.endheaders()
        with contextlib.suppress(ConnectionError):
            for block in [body] if isinstance(body, bytes) else body:
                connection.send(block if isinstance(body, bytes) else b"%x\r\n%b\r\n" % (len(block), block))
            if not isinstance(body, bytes):
                connection.send(b"0\r\n\r\n")
        answer = connection.getresponse()
        answer.said = answer.read()  # type: ignore[attr-defined]
        return answer


def count(address: str, name: str) -> float:
    connection = http.client.HTTPConnection(address, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])


def wait_for(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def test_many_clients_get_the_same_scores(address, photograph):
    one = json.loads(asked(address, photograph).said)
    with ThreadPoolExecutor(16) as pool:
        found = [json.loads(answer.said) for answer in pool.map(lambda _: asked(address, photograph), range(100))]
    for other in found:
        assert other["pictures"][0]["scores"] == pytest.approx(one["pictures"][0]["scores"], abs=2e-6)


def test_bodies_that_are_too_long_or_hold_a_bomb_are_refused(address):
    chunked = {**RAW, "transfer-encoding": "chunked"}
    assert asked(address, bytes(600_000)).status == 413
    assert asked(address, (bytes(50_000) for _ in range(12)), chunked).status == 413
    assert asked(address, (bytes(50_000) for _ in range(2)), chunked).status == 415
    sent = packed(10_000, 6_000)
    start = time.monotonic()
    bomb = asked(address, sent)
    assert time.monotonic() - start < 1
    assert (bomb.status, b"60 megapixels" in bomb.said) == (413, True)
    assert asked(address, b"text").status == 415


def test_a_slow_sender_is_cut_off_and_holds_up_nobody(address, photograph):
    host, port = address.split(":")
    head = f"POST {PLACE} HTTP/1.1\r\nhost: {address}\r\ncontent-type: image/png\r\ncontent-length: 9999\r\n\r\n"
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((host, int(port)), 60)) for _ in range(40)]
        start = time.monotonic()
        for one in slow:
            one.sendall(head.encode() + photograph[:20])
        while time.monotonic() - start < 1:
            for one in slow:
                one.sendall(b"x")
            assert asked(address, photograph).status == 200
        for one in slow:
            assert one.recv(100).startswith(b"HTTP/1.1 408 ")
    assert count(address, "manyhot_body_bytes") == 0


def test_a_client_that_does_not_read_holds_up_nobody(address):
    host, port = address.split(":")
    large = io.BytesIO()
    Image.effect_noise((700, 700), 90).save(large, "JPEG", quality=60)
    body = large.getvalue()
    head = f"POST /v1/heatmap?class=red HTTP/1.1\r\nhost: {address}\r\ncontent-type: image/jpeg\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect((host, int(port)))
            one.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        for _ in range(5):
            assert asked(address, body).status == 200


def test_a_request_that_breaks_off_leaves_nothing(address, photograph):
    host, port = address.split(":")
    head = f"POST {PLACE} HTTP/1.1\r\nhost: {address}\r\ncontent-type: image/png\r\ncontent-length: 9999\r\n\r\n"
    for sent in (head[:30], head, head + "x" * 500):
        with socket.create_connection((host, int(port)), 60) as one:
            one.sendall(sent.encode())
    wait_for(lambda: count(address, "manyhot_body_bytes") == 0 and count(address, "manyhot_pictures_inside") == 0)
    assert asked(address, photograph).status == 200


def test_the_interface_finds_no_fault(address):
    schemathesis = pytest.importorskip("schemathesis")

    def call_all() -> None:
        schema = schemathesis.openapi.from_url(f"http://{address}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) >= 6
        for operation in operations:

            @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy())
            def call(case):
                answer = case.call()
                assert answer.status_code < 500
                if answer.headers["content-type"] == ["application/json"]:
                    case.operation.validate_response(answer)

            call()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(call_all).result()


def test_memory_stays_flat(address, photograph):
    def ask(number: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            assert all(one.status == 200 for one in pool.map(lambda _: asked(address, photograph), range(number)))

    ask(100)
    before = count(address, "process_resident_memory_bytes")
    ask(300)
    assert count(address, "process_resident_memory_bytes") - before < 25e6


def test_the_clients_of_the_docs(address, photograph, tmp_path):
    for name in ("dog.jpg", "cat.jpg"):
        (tmp_path / name).write_bytes(photograph)
    text = DOCS.read_text(encoding="utf-8").replace("127.0.0.1:8322", address).replace("class=dog", "class=red")
    python = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", python], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["dog.jpg", "cat.jpg"]
    if shutil.which("curl"):
        shell = re.search(r"```sh\n(.*?)```", text, re.DOTALL)[1]
        done = subprocess.run(["sh", "-ec", shell], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.count('"error": null') == 3
        with Image.open(tmp_path / "heat.png") as heat:
            assert heat.size == (48, 40)


def test_a_full_queue_then_a_stop_that_finishes_what_was_taken(trained, photograph, large):
    """Decoding a picture of 90 megapixels takes a while, in which a server of two places is full."""
    with served(trained, "--queue", "2") as (address, process), ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(asked, address, large) for _ in range(2)]
        wait_for(lambda: count(address, "manyhot_pictures_inside") == 2)
        full = asked(address, photograph)
        assert full.status == 503
        assert int(full.getheader("retry-after")) >= 1
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: _refuses(address))
        assert not any(one.done() for one in taken)
        assert [one.result().status for one in taken] == [200, 200]
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (143, "")


def test_the_place_of_a_client_that_left_is_free_again(trained, photograph, large):
    with served(trained, "--queue", "3") as (address, process):
        host, port = address.split(":")
        head = f"POST {PLACE} HTTP/1.1\r\nhost: {address}\r\ncontent-type: image/png\r\n"
        for _ in range(3):
            with socket.create_connection((host, int(port)), 60) as one:
                one.sendall(f"{head}content-length: {len(large)}\r\n\r\n".encode() + large)
                time.sleep(0.05)
        wait_for(lambda: count(address, "manyhot_pictures_inside") == 0)
        assert count(address, 'manyhot_pictures_total{outcome="dropped"}') >= 2
        assert count(address, 'manyhot_pictures_total{outcome="scored"}') <= 1
        assert asked(address, photograph).status == 200
        with ThreadPoolExecutor(1) as pool, contextlib.suppress(OSError, http.client.HTTPException):
            pool.submit(asked, address, large)
            wait_for(lambda: count(address, "manyhot_pictures_inside") == 1)
            process.send_signal(signal.SIGINT)
            wait_for(lambda: _refuses(address))
            process.send_signal(signal.SIGINT)  # the second one does not wait
            process.wait(5)
        assert process.returncode in {-signal.SIGINT, 130}


def _refuses(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0", "token": None}, "needs a token"),  # noqa: S104
        ({"host": "127.0.0.1", "token": "short"}, "16 characters or more"),
        ({"host": "203.0.113.7", "token": "0123456789abcdef"}, "cannot be had"),
    ],
)
def test_an_address_must_be_safe_and_ours(settings, words):
    with pytest.raises(UserError, match=words):
        serve(None, port=0, limits=Limits(), ready=lambda _: None, **settings)  # type: ignore[arg-type]
