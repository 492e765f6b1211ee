"""Two runs side by side, and the gallery as a folder without a server."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from manyhot.predictions import Predictions

pytest.importorskip("playwright")
from playwright.sync_api import expect

SHOWN = ".tile:not([hidden])"
HOSTILE = "<img src=x onerror=alert(1)>"


def rows_in(page, box: str) -> list[int]:
    return [row for _, row in sorted(page.evaluate(
        f"[...document.querySelectorAll('{box} {SHOWN}')].map(t => [+t.dataset.index, +t.dataset.row])"
    ))]  # fmt: skip


def test_two_runs_differ_where_an_oracle_says(start, opened, gallery_run, predictions, tmp_path):
    rng = np.random.default_rng(3)
    other = replace(predictions, scores=rng.random(predictions.scores.shape, dtype=np.float32))
    shuffled = rng.permutation(60)
    other.take(shuffled.tolist()).save(tmp_path / "other.parquet")
    page = opened(start(gallery_run, "--compare", tmp_path / "other.parquet").url)
    page.get_by_role("link", name="Compare").click()
    expect(page.locator(f"#compare {SHOWN}").first).to_be_visible()
    away = np.abs(predictions.scores - other.scores)
    expected = sorted(range(60), key=lambda row: (-away[row].max(), row))
    shown = rows_in(page, "#compare")
    assert shown == expected[: len(shown)]
    row, c = expected[0], int(away[expected[0]].argmax())
    first = page.locator(f"#compare {SHOWN}[data-index='0']")
    a, b = (f"{one.scores[row, c]:.2f}" for one in (predictions, other))
    expect(first.locator(".score")).to_have_text(f"A {a} B {b}")
    expect(first.locator(".decided")).to_have_text(predictions.classes[c])
    cells = page.locator("#compare tbody tr", has_text="dog").locator("td").all_inner_texts()
    differ = (predictions.scores[:, 1] > predictions.thresholds[1]) != (other.scores[:, 1] > predictions.thresholds[1])
    assert (cells[3], cells[4]) == (str(differ.sum()), f"{away[:, 1].mean():.3f}")

    page.get_by_role("button", name="dog", exact=True).click()
    expect(page.locator("#class-name")).to_have_text("dog")
    expect(page.locator("#count")).to_have_text("60 of 60 pictures")
    order = sorted(range(60), key=lambda row: (-away[row, 1], row))
    shown = rows_in(page, "#grid")
    assert shown == order[: len(shown)]
    expect(page.locator(f"#grid {SHOWN}[data-index='0'] .score")).to_have_text(
        f"A {predictions.scores[order[0], 1]:.2f} B {other.scores[order[0], 1]:.2f}"
    )
    page.go_back()
    first.focus()
    page.locator(".tiles").focus()
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator("#picture h2")).to_have_text(predictions.ids[row])
    assert "compare" not in page.url


@pytest.fixture
def exported(gallery_run: Path, tmp_path: Path) -> Path:
    command = [sys.executable, "-m", "manyhot", "browse", gallery_run, "--export", tmp_path / "shared", "--number", "9"]
    subprocess.run(command, check=True, capture_output=True)
    return tmp_path / "shared"


def look_through(page, predictions: Predictions, address: str) -> None:
    expect(page.locator("#count")).to_have_text("9 of 60 pictures")
    for c, name in enumerate(predictions.classes):
        page.locator(f"#class-{c}").click()
        expect(page.locator("#class-name")).to_have_text(name)
        assert rows_in(page, "#grid") == np.argsort(-predictions.scores[:, c], kind="stable")[:9].tolist()
    wrong = (predictions.scores[:, 1] > predictions.thresholds[1]) & (predictions.labels[:, 1] == 0)
    page.locator("#class-1").click()
    page.select_option("#order", "fp")
    expect(page.locator("#count")).to_have_text(f"{min(9, wrong.sum())} of 60 pictures")
    expect(page.locator("#counted")).to_contain_text(f"FP {wrong.sum()}")
    row = int(np.flatnonzero(wrong)[predictions.scores[wrong, 1].argmax()])
    page.locator("#grid").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#sheet h2")).to_have_text(predictions.ids[row])
    expect(page.locator("#sheet tbody tr", has_text="dog").locator("td").first).to_have_text(
        f"{predictions.scores[row, 1]:.3f}"
    )
    assert page.evaluate("[...document.images].every(one => one.naturalWidth > 0 && !one.src.endsWith('/x'))")
    link = page.url
    page.keyboard.press("Escape")
    expect(page.locator("#sheet")).to_be_hidden()
    page.goto("about:blank")
    page.goto(link)
    expect(page.locator("#sheet h2")).to_have_text(predictions.ids[row])
    assert link.startswith(address)


def test_an_export_opens_from_a_file(opened, exported, predictions):
    page = opened(exported.joinpath("index.html").as_uri())
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    look_through(page, predictions, exported.as_uri())
    assert all(url.startswith((exported.as_uri(), "about:")) for url in asked)
    expect(page.locator(f"#rail .name >> text={HOSTILE}")).to_have_count(1)
    for width in (390, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_export_opens_from_any_web_server(opened, exported, predictions):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(exported.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/shared/"
        look_through(opened(address), predictions, address)
        server.shutdown()


def test_what_does_not_fit_is_refused(gallery_run, predictions, tmp_path):
    replace(predictions, ids=("strange", *predictions.ids[1:])).save(tmp_path / "other.parquet")
    command = [sys.executable, "-m", "manyhot", "browse", gallery_run, "--compare", tmp_path / "other.parquet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.search(r"1 only in .*: picture-00; 1 only in .*: strange", done.stderr.replace("\n", " "))
    assert "Traceback" not in done.stderr
