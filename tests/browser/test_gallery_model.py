"""The gallery's views of what a model sees: heat, boxes, a tried picture."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import urllib.request

import numpy as np
import polars as pl
import pytest
from PIL import Image
from scipy import ndimage

from manyhot.data.manifest import Manifest
from manyhot.detections import Detections
from manyhot.predictions import Predictions

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect

CLASSES = ("red", "green", "blue")


def asked(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:  # noqa: S310
        return bytes(answer.read())


def heat_of(url: str) -> np.ndarray:
    body = asked(url)
    width, height = struct.unpack("<II", body[:8])
    return np.frombuffer(body, np.uint8, offset=8).reshape(height, width)


def colours(page: Page) -> np.ndarray:
    """The 256 colours of heat, [256, 3], as the page computes them."""
    listed = page.evaluate("import('/static/colours.js').then(m => [...m.HEAT])")
    return np.array(listed, float).reshape(256, 3)


def drawn(page: Page, size: tuple[int, int]) -> np.ndarray:
    """What the screen shows at the centre of every pixel of the picture, [height, width, 3]."""
    box = page.locator(".large svg").bounding_box()
    scale = min(box["width"] / size[0], box["height"] / size[1])
    left = box["x"] + (box["width"] - scale * size[0]) / 2
    top = box["y"] + (box["height"] - scale * size[1]) / 2
    with Image.open(io.BytesIO(page.screenshot())) as image:
        pixels = np.asarray(image.convert("RGB"), float)
    xs = np.round(left + scale * (np.arange(size[0]) + 0.5) - 0.5).astype(int)
    ys = np.round(top + scale * (np.arange(size[1]) + 0.5) - 0.5).astype(int)
    return pixels[np.ix_(ys, xs)]


def heated(page: Page, key: str) -> None:
    expect(page.locator(f'.large[data-heat="{key}"]')).to_be_visible(timeout=120_000)  # the model may have to be loaded


def test_heat_lies_on_the_picture_where_the_model_sees_it(opened, trained, trained_url):
    def asked_heat(row: int, c: int) -> np.ndarray:
        return heat_of(f"{trained_url}api/pictures/{row}/heat?class_index={c}")

    row, c = max(((row, c) for row in range(6) for c in range(3)), key=lambda one: np.ptp(asked_heat(*one)))
    heat = asked_heat(row, c)
    assert heat.shape == (40, 48)
    assert np.ptp(heat) > 50
    page = opened(f"{trained_url}?class={CLASSES[c]}&row={row}&layers=heat&opacity=1")
    heated(page, f"row {row}/{c}")
    lut = colours(page)
    assert np.abs(drawn(page, (48, 40)) - lut[heat]).max() < 16  # smooth between values, right at the pixels
    assert np.abs(drawn(page, (48, 40))[:, 2:] - lut[heat[:, :-2]]).max() > 30

    other = asked_heat(row, (c + 1) % 3)
    page.get_by_label("Class of the heat map").select_option(CLASSES[(c + 1) % 3])
    heated(page, f"row {row}/{(c + 1) % 3}")
    expect(page).to_have_url(re.compile(f"of={CLASSES[(c + 1) % 3]}"))
    assert np.abs(drawn(page, (48, 40)) - lut[other]).max() < 16

    cut = int(np.median(other)) / 255
    page.locator("[data-action=cut]").focus()
    page.locator("[data-action=cut]").evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", f"{cut:.2f}"
    )
    expect(page).to_have_url(re.compile("cut=0"))
    floor = int(255 * float(f"{cut:.2f}") + 0.5)  # as JavaScript rounds
    expect(page.locator(f'.large[data-cut="{floor}"]')).to_be_visible()
    page.wait_for_timeout(300)
    shown = np.abs(drawn(page, (48, 40)) - lut[other]).max(axis=2) < 16
    square = np.ones((3, 3), bool)  # at the border of what is cut the drawing is smooth
    kept, gone = (ndimage.binary_erosion(one, square, 3, border_value=1) for one in (other >= floor, other < floor))
    assert kept.any()
    assert shown[kept].all()
    assert not shown[gone].any()

    page.keyboard.press("ArrowRight")  # the slider's own key, not the next picture's
    expect(page.locator("#picture h2")).to_have_text(Predictions.load(
        trained / "evaluation" / "val" / "predictions.parquet").ids[row])  # fmt: skip
    page.locator("#picture").focus()
    page.keyboard.press("h")
    expect(page.locator(".heat-settings")).to_be_hidden()
    expect(page).to_have_url(re.compile("layers=(&|$)"))


def test_heat_grows_lighter_step_by_step(opened, trained_url):
    lut = colours(opened(trained_url)) / 255
    linear = np.where(lut <= 0.04045, lut / 12.92, ((lut + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)  # CIE 1976 L*
    steps = np.diff(lightness)
    assert steps.min() > -0.3  # bytes are rounded
    assert np.diff(lightness[::8]).min() > 1.2
    assert lightness[-1] - lightness[0] > 70


def test_boxes_are_drawn_where_the_tables_say(opened, trained, trained_url):
    manifest = Manifest.load(trained / "manifest.parquet").split("val")
    found = Detections.load(trained / "localization" / "val" / "detections.parquet")
    row = next(row for row in range(len(manifest)) if manifest.labels[row, 0] == 1 and manifest.boxes(row))
    page = opened(trained_url + f"?class=red&row={row}")
    expect(page.locator(".truth-layer rect")).to_have_count(len(manifest.boxes(row)))

    def corners(selector: str) -> list[list[float]]:
        keys = "['x', 'y', 'width', 'height'].map(k => +e.getAttribute(k))"
        return page.locator(selector).evaluate_all(f"all => all.map(e => {keys})")

    wanted = [[box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0] for box in manifest.boxes(row)]
    assert corners(".truth-layer rect") == wanted
    own = [
        i
        for i, (id_, name) in enumerate(zip(found.ids, found.names, strict=True))
        if (id_, name) == (manifest.ids[row], "red")
    ]
    assert own
    got = corners(".found-layer rect.own")
    np.testing.assert_allclose(
        sorted(got), sorted([x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in found.boxes[own].tolist()), atol=1e-4
    )
    expect(page.locator("[data-action=found]")).to_have_attribute("title", "by gradcam, extreme")
    page.keyboard.press("b")
    expect(page.locator(".truth-layer")).to_be_hidden()
    expect(page.locator(".found-layer")).to_be_hidden()
    expect(page).to_have_url(re.compile("layers="))
    again = opened(page.url)
    expect(again.locator("[data-action=truth]")).to_have_attribute("aria-pressed", "false")
    expect(again.locator(".truth-layer")).to_be_hidden()


def test_weak_boxes_are_counted_and_not_drawn(start, opened, trained_run):
    path = trained_run / "localization" / "val" / "detections.parquet"
    found = Detections.load(path)
    (first, *_), (name, *_) = found.ids, found.names
    best = max(
        float(score)
        for id_, own, score in zip(found.ids, found.names, found.scores, strict=True)
        if (id_, own) == (first, name)
    )
    more = [(first, name, best * share, (corner, 0, 8, 8)) for corner, share in ((1, 0.05), (2, 0.099), (3, 0.5))]
    rows = [*zip(found.ids, found.names, found.scores.tolist(), found.boxes.tolist(), strict=True), *more]
    Detections.from_rows(rows, found.classes, found.source).save(path)
    row = Manifest.load(trained_run / "manifest.parquet").split("val").ids.index(first)
    page = opened(start(trained_run).url + f"?class={name}&row={row}&layers=found")
    expect(page.locator(".found-layer rect.own")).not_to_have_count(0)
    corners = page.locator(".found-layer rect.own").evaluate_all("all => all.map(e => e.getAttribute('x'))")
    assert "3" in corners
    assert not {"1", "2"} & set(corners)
    drawn = page.locator(".found-layer rect").count()
    expect(page.locator("[data-action=found]")).to_have_text(f"detections {drawn} of {drawn + 2}")
    expect(page.locator("[data-action=found]")).to_have_attribute("title", re.compile("below a tenth"))


def test_no_model_is_said_in_words(start, opened, gallery_run, trained_run):
    opened.ignored.append("409 (Conflict)")
    page = opened(start(gallery_run).url + "?class=cat&row=1&layers=heat")
    expect(page.locator(".heat-settings [role=status]")).to_contain_text("there is no trained model here")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Try it").click()
    expect(page.locator("#try")).to_contain_text("The run has no trained model yet")
    table = trained_run / "evaluation" / "val" / "predictions.parquet"
    other = opened(start(table, "--data", trained_run / "manifest.parquet").url + "?row=1&layers=heat")
    expect(other.locator(".heat-settings [role=status]")).to_contain_text("scores from a table")
    other.keyboard.press("Escape")
    other.get_by_role("link", name="Try it").click()
    expect(other.locator("#try")).to_contain_text("Start the gallery with a run")


def test_a_dropped_picture_scores_as_by_predict(opened, trained, trained_url, tiny_table, tmp_path):
    picture = tmp_path / "<img src=x onerror=alert(1)>.png"
    with Image.open(tiny_table.parent / "45.png") as image:
        image.resize((120, 100)).save(picture)
    command = [sys.executable, "-m", "manyhot", "predict", trained, picture, "--out", tmp_path / "p.csv"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    scores = pl.read_csv(tmp_path / "p.csv").select(CLASSES).row(0, named=True)
    files = set(trained.rglob("*"))

    page = opened(trained_url + "?view=try")
    data = page.evaluate_handle(
        """([bytes, name]) => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"})); return data; }""",
        [list(picture.read_bytes()), picture.name],
    )
    expect(page.locator(".drop")).to_be_visible()
    with page.expect_response("**/api/try/scores") as answer:
        page.locator("#try .drop").dispatch_event("drop", {"dataTransfer": data})
    np.testing.assert_allclose(answer.value.json()["scores"], [scores[name] for name in CLASSES], rtol=1e-5)
    expect(page.locator("#try .bars li")).to_have_count(3)
    shown = dict(zip(page.locator("#try .bars .name").all_inner_texts(),
                     page.locator("#try .bars .figure").all_inner_texts(), strict=True))  # fmt: skip
    assert shown == {name: f"{score:.3f}" for name, score in scores.items()}
    expect(page.locator("#try [role=status]").first).to_contain_text(picture.name)
    best = max(range(3), key=lambda c: scores[CLASSES[c]])
    heated(page, f"tried 1/{best}")
    assert page.locator("#try .large svg").get_attribute("viewBox") == "0 0 120 100"

    page.reload()  # nothing is left of it, here or there
    expect(page.locator(".drop")).to_be_visible()
    expect(page.locator("#try .bars")).to_have_count(0)
    assert set(trained.rglob("*")) == files

    page.locator("#try").get_by_role("button", name="Choose a picture").focus()
    asked_for = "new Promise(go => document.querySelector('#try input').addEventListener('click', go, {once: true}))"
    page.evaluate(f"void (window.asked = {asked_for}.then(event => event.preventDefault()))")
    page.keyboard.press("Enter")
    page.evaluate("window.asked")
    page.set_input_files("#try input[type=file]", picture)
    expect(page.locator("#try .bars li")).to_have_count(3)
    opened.ignored.append("415 (Unsupported Media Type)")
    page.set_input_files("#try input[type=file]", {
        "name": "a.svg", "mimeType": "image/svg+xml", "buffer": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    })  # fmt: skip
    expect(page.locator("#try [role=status]").first).to_contain_text("a.svg")
    expect(page.locator("#try [role=status]").first).to_contain_text("more than a picture")
    expect(page.locator("#try .bars")).to_have_count(0)


@pytest.mark.parametrize("width", [360, 1280])
def test_every_view_fits_and_names_its_controls(opened, trained_url, tiny_table, width):
    for view in ("?class=red&row=3&layers=truth,found,heat", "?view=review&layers=heat", "?view=live", "?view=try"):
        page = opened(trained_url + view, width, 800, "dark" if width == 360 else "light")
        if view == "?view=try":
            expect(page.locator(".drop")).to_be_visible()
            page.set_input_files("#try input[type=file]", tiny_table.parent / "45.png")
        if view == "?view=live":
            expect(page.locator(".logged")).to_be_visible()
        else:
            expect(page.locator("[data-heat]")).to_be_visible(timeout=120_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for box in (".page:not([hidden])", "dialog[open]"):
            assert page.evaluate(f"(e => !e || e.scrollWidth <= e.clientWidth)(document.querySelector('{box}'))"), view
        nameless = page.evaluate(
            """[...document.querySelectorAll("button, input, select, [role=listbox], [role=option], [role=img]")]
            .filter(e => e.checkVisibility() && !(e.getAttribute("aria-label") || e.innerText || e.labels?.length))
            .map(e => e.outerHTML)"""
        )
        assert nameless == []
