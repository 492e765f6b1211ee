"""Serving: several pictures in one pass against one at a time, and memory over many requests.

Run `python benchmarks/serving.py` (the embedded digits, minutes), or name a model and its pictures: `--model RUN --data
VOCdevkit/VOC2012`. A recipe's name gives its network with random weights, which take as long as trained ones. Two
servers run side by side, `manyhot serve` as it comes and with `--max-batch 1`; the same clients send the same pictures
to one and the other in turn, so that both meet the same machine. Every answer is checked: status 200, and the scores
that both give to a picture agree.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from manyhot.data.manifest import Manifest
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.sources import open_source
from manyhot.models.bundle import BundleConfig, save_bundle
from manyhot.models.classifier import create_classifier
from manyhot.recipe import load_recipe, shipped

AGREE = 2e-4  # the last bits of a score depend on who else is in the pass


@dataclass
class Server:
    """A running server, and what its clients saw."""

    address: tuple[str, int]
    pid: int
    seconds: float = 0.0
    processor: float = 0.0
    latencies: list[float] = field(default_factory=list)
    answers: dict[int, list[float]] = field(default_factory=dict)


def untrained(name: str, folder: Path, data: Manifest) -> Path:
    """A bundle of a recipe's network with random weights."""
    recipe = load_recipe(name)
    preprocessing = Preprocessing.from_recipe(recipe.input, (0.45,) * 3, (0.25,) * 3)
    section = recipe.model.model_copy(update={"weights": "none"})
    model = create_classifier(section, len(data.classes), preprocessing.cropping.count)
    config = BundleConfig(
        manyhot="0", recipe=recipe.name, model=section, classes=data.classes, task=data.task,
        label_rule=data.label_rule, activation="sigmoid", preprocessing=preprocessing, stride=model.geometry.stride,
        offset=model.geometry.offset, thresholds=(0.5,) * len(data.classes), epoch=0, val_map=None,
    )  # fmt: skip
    save_bundle(folder, config, model.state_dict())
    return folder


@contextmanager
def serving(model: Path, *options: str) -> Iterator[Server]:
    """A server process, while the block lasts."""
    command = [sys.executable, "-m", "manyhot", "serve", str(model), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            found = re.search(r"http://(\S+):(\d+)/", process.stdout.readline())
            assert found, "the server did not start"
            yield Server((found[1], int(found[2])), process.pid)
        finally:
            process.terminate()
            process.wait(60)
            assert process.returncode == 143, process.returncode


def request_of(content: bytes) -> bytes:
    """A picture file as the body of a request."""
    head = "POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/octet-stream\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


class Client:
    """One connection that asks for one picture after the other."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number, self.start, self.read = -1, 0.0, b""

    def ask(self, number: int, request: bytes) -> None:
        """Send a request whole."""
        self.number, self.start, self.read = number, time.perf_counter(), b""
        self.socket.sendall(request)

    def heard(self) -> bytes | None:
        """The body of the answer once it is complete."""
        self.read += self.socket.recv(65_536)
        head, end, body = self.read.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if not end or length is None or len(body) < int(length[1]):
            return None
        assert head.startswith(b"HTTP/1.1 200"), self.read
        return body


def ask_all(server: Server, requests: list[bytes], numbers: list[int], clients: int) -> None:
    """Ask for the pictures of these numbers by so many clients at once, each waiting for its answer."""
    left = iter(numbers)
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        begun, spent, busy = time.perf_counter(), processor_seconds(server), 0
        for number in (one for _, one in zip(range(clients), left, strict=False)):
            client = Client(server.address)
            stack.callback(client.socket.close)
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.ask(number, requests[number])
            busy += 1
        while busy:
            for key, _ in selector.select(60):
                client = key.data
                body = client.heard()
                if body is None:
                    continue
                server.latencies.append(time.perf_counter() - client.start)
                if client.number not in server.answers:
                    server.answers[client.number] = list(json.loads(body)["pictures"][0]["scores"].values())
                number = next(left, None)
                if number is None:
                    selector.unregister(client.socket)
                    busy -= 1
                else:
                    client.ask(number, requests[number])
        server.seconds += time.perf_counter() - begun
        server.processor += processor_seconds(server) - spent


def processor_seconds(server: Server) -> float:
    """Of all threads, so far."""
    fields = Path(f"/proc/{server.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(server: Server) -> float:
    """MB of memory."""
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found
    return int(found[1]) / 1000


def mean_batch(server: Server) -> float:
    """Pictures in a pass, by the server's own count."""
    with socket.create_connection(server.address) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        text = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()
    return _value(text, "manyhot_batch_pictures_sum") / _value(text, "manyhot_batch_pictures_count")


def _value(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)", text, re.MULTILINE)
    assert found, name
    return float(found[1])


def main() -> None:
    """Both servers in turn, block by block; then many requests to one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits-small", help="a run, a bundle, or a recipe's name")
    parser.add_argument("--data", default="digits", help="a source of pictures")
    parser.add_argument("--pictures", type=int, default=200, help="of them, sent again and again")
    parser.add_argument("--requests", type=int, default=2000, help="to each server")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--block", type=int, default=250, help="requests before the other server's turn")
    parser.add_argument("--memory", type=int, default=10_000, help="requests over which memory is read; 0: none")
    options = parser.parse_args()
    data = open_source(options.data)
    order = np.random.default_rng(0).permutation(len(data))[: options.pictures]
    contents = [data.paths[row].read_bytes() for row in order.tolist()]
    requests = [request_of(content) for content in contents]
    results = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        named = options.model in shipped()
        model = untrained(options.model, Path(folder) / "model", data) if named else Path(options.model)
        batched = stack.enter_context(serving(model))
        single = stack.enter_context(serving(model, "--max-batch", "1"))
        memory = [(0, resident(batched))]
        for server in (batched, single):
            ask_all(server, requests, list(range(min(64, len(requests)))), options.clients)  # warm-up
            server.seconds, server.processor, server.latencies = 0.0, 0.0, []
        numbers = [i % len(requests) for i in range(options.requests)]
        for turn, start in enumerate(range(0, options.requests, options.block)):
            for server in (batched, single) if turn % 2 else (single, batched):
                ask_all(server, requests, numbers[start : start + options.block], options.clients)
        for number, scores in batched.answers.items():
            assert np.abs(np.subtract(scores, single.answers[number])).max() < AGREE, number
        size = sum(map(len, contents)) / len(contents) / 1000
        print(
            f"{options.model}: {options.requests} requests of one picture ({size:.0f} kB) to each server from ", end=""
        )
        print(f"{options.clients} clients; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        rates = {}
        for name, server in (("batching", batched), ("one at a time", single)):
            rates[name] = options.requests / server.seconds
            half, most = np.percentile(server.latencies, [50, 99])
            print(f"{name:14} {rates[name]:8.1f} pictures/s  median {1000 * half:6.1f} ms  99 % {1000 * most:6.1f} ms"
                  f"  processor {1000 * server.processor / options.requests:6.2f} ms a picture"
                  f"  {mean_batch(server):5.1f} pictures a pass", flush=True)  # fmt: skip
        ours, theirs = rates["batching"], rates["one at a time"]
        print(f"ratio {ours / theirs:.2f}; every answer 200, largest difference of a score below {AGREE:g}", flush=True)
        results.append({
            "benchmark": f"serving: {options.model}", "ratio": round(ours / theirs, 3), "peer": "--max-batch 1",
            "ours": round(ours, 1), "theirs": round(theirs, 1), "unit": "pictures/s", "n": options.requests,
        })  # fmt: skip
        done, marks = options.requests, [1000, *range(2000, options.memory + 1, 2000)] if options.memory else []
        memory.append((done, resident(batched)))
        for mark in (one for one in marks if one > done):
            ask_all(batched, requests, [i % len(requests) for i in range(done, mark)], options.clients)
            done = mark
            memory.append((done, resident(batched)))
        for number, megabytes in memory:
            print(f"memory after {number:6} requests {megabytes:8.1f} MB")
        results.append({
            "benchmark": f"serving: {options.model}, memory", "value": round(memory[-1][1] - memory[1][1], 1),
            "peer": f"after {memory[1][0]} requests", "ours": round(memory[-1][1], 1), "theirs": round(memory[1][1], 1),
            "unit": "MB", "n": done,
        })  # fmt: skip
    print(json.dumps(results))


if __name__ == "__main__":
    main()
