"""The report in a browser: opens from disk, alone, on a phone and in the dark."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyhot.data.manifest import Manifest, Row
from manyhot.metrics.summary import measure
from manyhot.predictions import Predictions
from manyhot.report.page import write_report

CLASSES = (
    "cat",
    "dog",
    "<img src=x onerror=console.error(1)>",
    "a-class-name-without-any-space-and-rather-long",
    "none",
)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    random = np.random.default_rng(0)
    labels = (random.random((24, len(CLASSES))) < 0.4).astype(np.int8)
    labels[:, -1] = 0
    scores = random.random(labels.shape).astype(np.float32)
    ids = tuple(f"picture-{i}" for i in range(24))
    rows = []
    for i, id_ in enumerate(ids):
        Image.new("RGB", (120, 90), (10 * i, 120, 80)).save(folder / f"{id_}.jpg")
        rows.append(Row(id_, f"{id_}.jpg", "val", labels[i].tolist()))
    (folder / "picture-2.jpg").unlink()
    return write_report(
        folder / "report",
        predictions=Predictions(ids, ("val",) * 24, scores, labels, CLASSES),
        metrics=measure(scores, labels, CLASSES),
        history=[{"epoch": e, "train_loss": 1 / e, "val_map": 1 - 0.5 / e, "lr": 1e-3} for e in (1, 2, 3)],
        manifest=Manifest.from_rows(folder, CLASSES, rows, label_rule="made up"),
        title="A report",
        facts=[],
    )


@pytest.fixture
def opened(browser, page_file):
    """Opens the page and keeps what it said and asked for."""
    contexts = []

    def open_page(width: int, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.said, page.requests = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(page_file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [360, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_alone_and_fits(opened, page_file, width, scheme):
    page = opened(width, scheme)
    assert page.said == []
    assert [url for url in page.requests if not url.startswith("data:")] == [page_file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".gone").first.inner_text().split() == ["missing", "picture-2"]


def test_text_stands_out_in_light_and_dark(opened):
    luminance = """(selector) => {
        const style = getComputedStyle(document.querySelector(selector));
        const value = (colour) => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number); return (r + g + b) / 765; };
        return [value(getComputedStyle(document.body).backgroundColor), value(style.color), value(style.fill)];
    }"""
    for scheme in ("light", "dark"):
        background, _, fill = opened(1280, scheme).evaluate(luminance, ".plot text")
        assert abs(background - fill) > 0.35, scheme
        background, ink, _ = opened(1280, scheme).evaluate(luminance, "h1")
        assert abs(background - ink) > 0.6, scheme
        assert (background > 0.5) == (scheme == "light")


def test_the_theme_can_be_switched(opened):
    page = opened(800)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.get_by_role("button", name="Light").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == before


def test_the_class_table_sorts_with_undefined_last(opened):
    page = opened(1280)
    column = "[...document.querySelectorAll('#class-table tbody tr')].map(row => row.cells[1].innerText.trim())"
    unsorted = page.evaluate(column)
    heading = page.get_by_role("button", name="AP", exact=True)
    heading.focus()
    page.keyboard.press("Enter")
    known = sorted((value for value in unsorted if value != "–"), reverse=True)
    assert page.evaluate(column) == [*known, "–"]
    heading.click()
    assert page.evaluate(column) == [*known[::-1], "–"]
    heading.click()
    assert page.evaluate(column) == unsorted


def test_pictures_are_drawn_where_the_tiles_are(opened):
    page = opened(1280)
    tile = page.locator(".pic").first
    assert tile.evaluate("e => getComputedStyle(e).backgroundImage").startswith('url("data:image/jpeg;base64,')
    box = tile.bounding_box()
    assert box["width"] > 80
    assert box["height"] > 80
