"""Chromium and the real server for the tests of pages.

Chromium is skipped where it is absent, unless MANYHOT_REQUIRE names "browser".
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from manyhot.predictions import Predictions

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium that reaches no network of its own accord."""
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        _absent("playwright is not installed")
    expect.set_options(timeout=30_000)  # on a busy machine the page is slower, not wrong
    with sync_playwright() as playwright:
        system = next(
            (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
        )
        own = playwright.chromium.executable_path
        path = system or (own if Path(own).exists() else None)
        if path is None:
            _absent("there is no Chromium")
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


class Server:
    """`manyhot browse` on a free port."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "manyhot", "browse", *map(str, arguments), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        match = re.search(r"http://\S+", self.process.stdout.readline())
        assert match, self.process.communicate()[1]
        self.url = match[0]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.communicate(timeout=20)


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def started(*arguments: object) -> Server:
        servers.append(Server(*arguments))
        return servers[-1]

    yield started
    for server in servers:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def trained_url(trained: Path) -> Iterator[str]:
    """Address of a gallery of the trained run, which tests leave as it is; its model is loaded once."""
    server = Server(trained)
    yield server.url
    server.stop(signal.SIGKILL)


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """A page that may reach this machine alone; at the end nothing was asked of another, and nothing went wrong."""
    pages: list[Any] = []
    said: list[str] = []
    abroad: list[str] = []

    def guard(route: Any) -> None:
        if re.match(r"(file:///|http://127\.0\.0\.1:\d+/|blob:|data:)", route.request.url):
            route.continue_()
        else:
            abroad.append(route.request.url)
            route.abort()

    def open_page(url: str, width: int = 1280, height: int = 860, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.route("**/*", guard)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        pages.append(page)
        return page

    open_page.ignored = []
    yield open_page
    for page in pages:
        page.context.close()
    assert [text for text in said if not any(one in text for one in open_page.ignored)] == []
    assert abroad == []


def _absent(reason: str) -> NoReturn:
    if "browser" in os.environ.get("MANYHOT_REQUIRE", ""):
        pytest.fail(f"MANYHOT_REQUIRE asks for a browser, but {reason}")
    pytest.skip(reason)


@pytest.fixture
def predictions(gallery_run: Path) -> Predictions:
    """The table of scores of `gallery_run`."""
    return Predictions.load(gallery_run / "evaluation" / "val" / "predictions.parquet")
