"""The gallery beside a run: how it learns, the pictures that it logs, and the review of its labels."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from manyhot.data.manifest import Manifest
from manyhot.metrics.label_errors import find_label_errors

pytest.importorskip("playwright")
from playwright.sync_api import expect

CLASSES = ("red", "green", "blue")


def test_the_live_page_follows_a_training_process(start, opened, tiny_recipe, tiny_table, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "manyhot", "train", tiny_recipe, "--data", tiny_table, "--out", run]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as training:
        while not (run / "recipe.yaml").exists():
            assert training.poll() is None, training.stderr.read()
            time.sleep(0.05)
        page = opened(start(run).url)
        expect(page.locator("#live [role=status]").first).to_contain_text("of 4 epochs done")
        expect(page.locator("#live [role=status]").first).to_contain_text("4 of 4 epochs done", timeout=120_000)
        assert training.wait(timeout=60) == 0, training.stderr.read()
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert len(history) == 4

    def points(title: str) -> list[tuple[float, float]]:
        path = page.get_by_role("img", name=re.compile(f"^{title}:")).locator("path.line").first.get_attribute("d")
        return [tuple(map(float, one.split())) for one in re.split("[ML]", path)[1:]]

    for title, values in [("Validation mAP", [line["val_map"] for line in history])] + [
        (f"AP of {name}", [line["val_ap"][name] for line in history]) for name in CLASSES
    ]:
        for i, ((x, y), value) in enumerate(zip(points(title), values, strict=True)):
            assert x == pytest.approx(38 + i / 3 * (300 - 38 - 10), abs=0.06)
            assert (178 - 32 - y) / (178 - 8 - 32) == pytest.approx(value, abs=4e-4)
    page.locator("#live summary").click()
    cells = [row.split("\t") for row in page.locator("#live tbody").inner_text().splitlines()]
    for row, line in zip(reversed(cells), history, strict=True):
        assert int(row[0]) == line["epoch"]
        for text, key in zip(row[1:4], ("train_loss", "val_loss", "val_map"), strict=True):
            assert float(text) == pytest.approx(line[key], abs=6e-5)


def logged(folder: Path, name: str, colour: str) -> None:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (64, 48), colour).save(folder / "new.tmp", "PNG")
    (folder / "new.tmp").rename(folder / name)


def test_logged_pictures_appear_by_themselves(start, opened, gallery_run):
    views, hostile = gallery_run / "views", "ep2_iter9_batch0_image1_<img src=x onerror=alert(1)>.png"
    page = opened(start(gallery_run).url + "?view=live")
    expect(page.locator(".logged")).to_contain_text("The run has logged no picture yet")
    logged(views, "augmented_ep1_iter1_batch0_image0_cat.png", "red")
    expect(page.locator(".view-tile")).to_have_count(1)
    logged(views, hostile, "green")
    expect(page.locator(".view-tile figcaption")).to_have_text([hostile, "augmented_ep1_iter1_batch0_image0_cat.png"])
    page.get_by_label("Find a picture of the run by name").fill("AUGMENTED")
    expect(page.locator(".view-tile")).to_have_count(1)
    expect(page.locator(".logged output")).to_have_text("1 of 2")
    expect(page).to_have_url(re.compile("seek=AUGMENTED"))
    link = page.url
    logged(views, "augmented_ep2_iter5_batch0_image0_dog.png", "blue")
    expect(page.locator(".view-tile")).to_have_count(2)
    expect(page.get_by_label("Find a picture of the run by name")).to_be_focused()

    shutil.rmtree(views)  # the run is started anew
    (gallery_run / "history.jsonl").unlink()
    expect(page.locator(".logged")).to_contain_text("The run has logged no picture yet")
    logged(views, "augmented_ep1_iter1_batch0_image0_cat.png", "yellow")
    other = opened(link)
    for one in (page, other):
        expect(one.locator(".view-tile")).to_have_count(1)
    page.get_by_role("button", name="Show augmented_ep1").press("Enter")
    expect(page.get_by_role("dialog").locator("img")).to_be_visible()
    assert page.evaluate("document.querySelector('.view-large').naturalWidth") == 64
    page.keyboard.press("Escape")
    expect(page.locator("#live")).to_contain_text("No epoch is done yet")


def test_the_review_goes_through_all_classes(start, opened, gallery_run, predictions):
    server = start(gallery_run)
    page = opened(server.url + "?view=review")
    found = find_label_errors(predictions.scores, predictions.labels)
    words = {"k": "keep", "f": "flip", "d": "difficult", "s": "skip"}
    expected: list[tuple[str, str, str]] = []

    def expect_place(at: int) -> None:
        row, c = found.images[at], found.classes[at]
        expect(page.locator("#review .asked b")).to_have_text(predictions.classes[c])
        expect(page.locator("#review .asked")).to_contain_text(f"{predictions.scores[row, c]:.3f}")

    for i, key in enumerate("kfdskfffkd"):
        expect_place(i)
        with page.expect_response("**/api/review"):
            page.keyboard.press(key)
        row, c = found.images[i], found.classes[i]
        expected.append((predictions.ids[row], predictions.classes[c], words[key]))
    expect(page.locator("#reviewed")).to_have_text("10 reviewed")
    assert len({name for _, name, _ in expected}) > 1
    with page.expect_response("**/api/review/undo"):
        page.keyboard.press("u")
    expect(page.locator("#reviewed")).to_have_text("9 reviewed")
    expect_place(9)
    page.context.close()
    server.stop(signal.SIGKILL)

    again = start(gallery_run)
    page = opened(again.url + "?view=review")
    expect(page.locator("#reviewed")).to_have_text("9 reviewed")
    expect_place(9)  # the first that is not decided
    lines = list(csv.DictReader(io.StringIO(httpx.get(again.url + "api/review/export?as=csv").text)))
    assert [(line["id"], line["class"], line["action"]) for line in lines] == expected[:9]

    manifest = Manifest.load(gallery_run / "manifest.parquet")
    labels = manifest.labels.copy()
    for id_, name, action in expected[:9]:
        row, c = manifest.ids.index(id_), manifest.classes.index(name)
        labels[row, c] = {"flip": 0 if labels[row, c] == 1 else 1, "difficult": -1}.get(action, labels[row, c])
    (gallery_run / "new.parquet").write_bytes(httpx.get(again.url + "api/review/export?as=manifest").content)
    np.testing.assert_array_equal(Manifest.load(gallery_run / "new.parquet").labels, labels)


def test_reviewed_labels_leave_as_voc_lists(start, opened, trained_run):
    server = start(trained_run)
    page = opened(server.url + "?view=review")
    expect(page.locator("#review .asked")).to_be_visible()
    with page.expect_response("**/api/review"):
        page.keyboard.press("f")
    page.locator("#reviewed").click()
    with page.expect_download() as download:
        page.get_by_role("link", name=re.compile("VOC Main lists")).click()
    manifest = Manifest.load(trained_run / "manifest.parquet")
    (decision,) = [json.loads(line) for line in (trained_run / "label-decisions.jsonl").read_text().splitlines()]
    with zipfile.ZipFile(download.value.path()) as archive:
        listed = {
            name: dict(line.split() for line in archive.read(f"Main/{name}_val.txt").decode().splitlines())
            for name in CLASSES
        }
    val = manifest.split("val")
    for row, id_ in enumerate(val.ids):
        for c, name in enumerate(CLASSES):
            label = int(val.labels[row, c])
            if (id_, name) == (decision["id"], decision["class"]):
                label = 0 if label == 1 else 1
            assert listed[name][id_] == {1: "1", 0: "-1", -1: "0"}[label]
