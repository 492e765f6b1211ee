"""What nobody means to ask: thousands of paths, and all that the description of the interface allows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings

from manyhot.web.app import create_app
from manyhot.web.guard import Guard
from manyhot.web.opening import open_gallery

PIECES = [
    "api", "static", "pictures", "classes", "review", "export", "compare", "live", "pairs", "gallery", "thumbnail",
    "image", "ranking", "suspects", "undo", "main.js", "0", "1", "3", "59", "60", "-1", "1e9", "99999999999999999999",
    "0x1", "٣", "NaN", "null", "..", ".", "", "%2e%2e", "%252e%252e", "%2f", "%5c", "..%2f..%2fcanary.jpg", "%00",
    "%c0%ae", "%ff", "canary.jpg", "etc", "passwd", "<img src=x onerror=alert(1)>", "%0d%0aset-cookie:a=b", "~root",
    "C:", "\\..\\..", "con", "a" * 3000, "{row}", "%7Brow%7D", "💥",
]  # fmt: skip
QUERIES = [
    "", "", "", "rows=1", "rows=1,2,3", "rows=", "rows=-1", "rows=9999", "rows=" + "1," * 900 + "1", "rows=%00",
    "as=csv", "as=voc", "as=manifest", "as=../x", "placeholder=1", "placeholder=x", "token=a", "rows=1&rows=2", "%",
    "&&==", "a[]=1",
]  # fmt: skip


async def asked(app, method: str, raw: str, query: str) -> int:
    """The status of an answer to a path exactly as it is written, as uvicorn would hand it on."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": unquote(raw), "raw_path": raw.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8321")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8321),
    }  # fmt: skip
    found: list[int] = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        if message["type"] == "http.response.start":
            found.append(message["status"])

    await app(scope, receive, send)
    return found[0]


def apart(work: Callable[[], None]) -> None:
    """Runs it in a thread of its own: the browser's tests leave an event loop at work in the first one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def test_two_thousand_paths_find_no_fault(gallery_run: Path, monkeypatch):
    import manyhot.data.images as images

    read: list[str] = []
    opened = images.Image.open
    monkeypatch.setattr(images.Image, "open", lambda file, *a, **b: read.append(str(file)) or opened(file, *a, **b))
    app = Guard(create_app(open_gallery(gallery_run)))
    dice = random.Random(5)
    codes: dict[int, int] = {}

    async def ask_all() -> None:
        for _ in range(2000):
            raw = "/" + "/".join(dice.choices(PIECES, k=dice.randint(1, 5)))
            method = dice.choice(["GET"] * 8 + ["POST", "PUT", "DELETE", "HEAD", "TRACE"])
            code = await asked(app, method, raw, dice.choice(QUERIES))
            assert code < 500, (method, raw, code)
            codes[code] = codes.get(code, 0) + 1

    apart(lambda: asyncio.run(ask_all()))
    assert {200, 404, 405} <= set(codes)
    assert not any("canary" in path for path in read)


def test_what_the_description_allows_finds_no_fault(gallery_run: Path):
    schemathesis = pytest.importorskip("schemathesis")

    def call_all() -> None:
        schema = schemathesis.openapi.from_asgi("/api", create_app(open_gallery(gallery_run, compare=gallery_run)))
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) >= 14
        for operation in operations:

            @settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy())
            def call(case):
                assert case.call().status_code < 500

            call()

    apart(call_all)
