"""Chromium for the tests of pages: skipped where it is absent, unless MANYHOT_REQUIRE names "browser"."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

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
        from playwright.sync_api import sync_playwright
    except ImportError:
        _absent("playwright is not installed")
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


def _absent(reason: str) -> NoReturn:
    if "browser" in os.environ.get("MANYHOT_REQUIRE", ""):
        pytest.fail(f"MANYHOT_REQUIRE asks for a browser, but {reason}")
    pytest.skip(reason)
