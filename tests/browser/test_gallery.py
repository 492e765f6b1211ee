"""The gallery as people meet it: Chromium on the real server, which runs as a process of its own."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import urllib.request

import numpy as np
import pytest

from manyhot.metrics.label_errors import find_label_errors
from manyhot.predictions import Predictions

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect

HOSTILE = "<img src=x onerror=alert(1)>"
SHOWN = ".tile:not([hidden])"

expect.set_options(timeout=30_000)  # on a busy machine the page is slower, not wrong


def rows_in_sight(page: Page) -> list[int]:
    tiles = page.evaluate(f"[...document.querySelectorAll('{SHOWN}')].map(t => [+t.dataset.index, +t.dataset.row])")
    return [row for _, row in sorted(tiles)]


def settled(page: Page, count: str) -> None:
    expect(page.locator("#count")).to_have_text(count)
    expect(page.locator("#grid")).not_to_have_attribute("aria-busy", "true")


def test_classes_are_ranked_as_in_the_parquet(start, opened, gallery_run, predictions):
    page = opened(start(gallery_run).url)
    for c, name in enumerate(predictions.classes):
        page.locator(f"#class-{c}").click()
        expect(page.locator("#class-name")).to_have_text(name)
        settled(page, "60 of 60 pictures")
        descending = np.argsort(-predictions.scores[:, c], kind="stable").tolist()
        assert rows_in_sight(page)[0] == descending[0]
        page.locator("#grid").focus()
        page.keyboard.press("End")
        expect(page.locator(f"{SHOWN}[data-index='59']")).to_have_attribute("data-row", str(descending[-1]))
        page.keyboard.press("Home")
        expect(page.locator(f"{SHOWN}[data-index='0'] .score")).to_have_text(
            f"{predictions.scores[descending[0], c]:.3f}"
        )
    page.select_option("#order", "bottom")
    expect(page.locator(f"{SHOWN}[data-index='0']")).to_have_attribute("data-row", str(descending[-1]))


def test_orders_are_those_of_an_oracle(start, opened, gallery_run, predictions):
    page = opened(start(gallery_run).url + "?class=dog", 1280, 2000)
    scores, labels = predictions.scores[:, 1].astype(np.float64), predictions.labels[:, 1]
    settled(page, "60 of 60 pictures")

    page.select_option("#order", "near")
    expect(page).to_have_url(re.compile("order=near"))
    settled(page, "60 of 60 pictures")
    away = np.abs(scores[rows_in_sight(page)] - 0.6)
    assert (np.diff(away) >= 0).all()
    assert away[0] == np.abs(scores - 0.6).min()

    page.select_option("#order", "loss")
    known = int((labels >= 0).sum())
    settled(page, f"{known} of 60 pictures")
    chance = np.where(labels == 1, scores, 1 - scores)[rows_in_sight(page)]
    assert (np.diff(chance) >= -1e-7).all()

    page.select_option("#order", "suspect")
    expect(page).to_have_url(re.compile("order=suspect"))
    settled(page, f"{known} of 60 pictures")
    expect(page.locator(f"{SHOWN}[data-index='0']")).to_have_attribute(
        "data-row", str(find_label_errors(predictions.scores[:, 1:2], predictions.labels[:, 1:2]).images[0])
    )


def test_the_threshold_recounts_filters_and_marks(start, opened, gallery_run, predictions):
    page = opened(start(gallery_run).url + "?class=cat")
    scores, labels = predictions.scores[:, 0], predictions.labels[:, 0]
    settled(page, "60 of 60 pictures")
    for t in (0.5, 0.31, 0.777, 0.0, 1.0):
        page.locator("#threshold-number").fill(str(t))
        page.locator("#threshold-number").press("Enter")
        above = scores.astype(np.float64) > t
        expected = {
            "tp": above & (labels == 1), "fp": above & (labels == 0), "fn": ~above & (labels == 1),
            "tn": ~above & (labels == 0), "ignored": labels == -1,
        }  # fmt: skip
        for kind, rows in expected.items():
            expect(page.locator(f".filter.{kind}")).to_have_attribute("data-count", str(rows.sum()))
    page.locator("#threshold-reset").click()
    page.locator("#threshold").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#threshold-number")).to_have_value("0.501")
    for kind in ("fp", "fn"):
        page.locator(f".filter.{kind}").click()
    above = scores > 0.501
    wrong = np.flatnonzero(np.where(above, labels == 0, labels == 1))
    settled(page, f"{len(wrong)} of 60 pictures")
    assert sorted(rows_in_sight(page)) == wrong.tolist()
    assert set(page.locator(f"{SHOWN} .truth").evaluate_all("all => all.map(e => e.className)")) <= {
        "truth fp",
        "truth fn",
    }


def test_ten_reviewed_by_keyboard_survive_a_kill(start, opened, gallery_run, predictions):
    server = start(gallery_run)
    page = opened(server.url + "?class=dog&order=suspect")
    known = int((predictions.labels[:, 1] >= 0).sum())
    settled(page, f"{known} of 60 pictures")
    page.locator("#grid").focus()
    keys = "kfdskkffds"
    expected = []
    order = find_label_errors(predictions.scores[:, 1:2], predictions.labels[:, 1:2]).images
    words = {"k": "keep", "f": "flip", "d": "difficult", "s": "skip"}
    for i, key in enumerate(keys):
        with page.expect_response("**/api/review"):
            page.keyboard.press(key)
        expected.append((predictions.ids[order[i]], words[key]))
    expect(page.locator("#reviewed")).to_have_text("10 reviewed")
    with page.expect_response("**/api/review/undo"):
        page.keyboard.press("u")
    expect(page.locator("#reviewed")).to_have_text("9 reviewed")
    with page.expect_response("**/api/review"):
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("s")
    page.context.close()
    server.stop(signal.SIGKILL)

    again = start(gallery_run)
    page = opened(again.url + "?class=dog&order=suspect")
    expect(page.locator("#reviewed")).to_have_text("10 reviewed")
    with urllib.request.urlopen(again.url + "api/review/export?as=csv") as answer:  # noqa: S310
        lines = list(csv.DictReader(io.StringIO(answer.read().decode())))
    assert [(line["id"], line["action"]) for line in lines] == expected
    assert {line["class"] for line in lines} == {"dog"}


def test_a_link_opens_the_same_view(start, opened, gallery_run, predictions):
    url = start(gallery_run).url
    page = opened(url)
    page.locator("#class-1").click()
    page.select_option("#order", "bottom")
    page.locator(".filter.tn").click()
    absent = (predictions.scores[:, 1] <= predictions.thresholds[1]) & (predictions.labels[:, 1] == 0)
    settled(page, f"{absent.sum()} of 60 pictures")
    page.locator("#grid").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    name = page.locator("#picture h2").inner_text()
    expect(page.locator(".bars li")).to_have_count(5)
    count, link = page.locator("#count").inner_text(), page.url
    other = opened(link)
    expect(other.locator("#picture h2")).to_have_text(name)
    expect(other.locator("#count")).to_have_text(count)
    expect(other.locator("#class-name")).to_have_text("dog")

    page.keyboard.press("ArrowRight")
    expect(page.locator("#picture h2")).not_to_have_text(name)
    page.keyboard.press("Escape")
    expect(page.locator("#picture")).to_be_hidden()
    expect(page).not_to_have_url(re.compile("row="))  # a dialog tells that it was closed a moment later
    for _ in range(5):
        page.go_back()
    expect(page.locator("#class-name")).to_have_text("cat")
    page.go_forward()
    expect(page.locator("#class-name")).to_have_text("dog")


def test_names_stay_text(start, opened, gallery_run):
    page = opened(start(gallery_run).url + "?row=3")
    expect(page.locator("#picture h2")).to_have_text(f"{HOSTILE}-3")
    page.keyboard.press("Escape")
    page.locator("#class-2").click()
    expect(page.locator("#class-name")).to_have_text(HOSTILE)
    expect(page.locator("#rail img")).to_have_count(0)
    page.get_by_role("link", name="Pairs").click()
    expect(page.locator("#pairs table")).to_contain_text(HOSTILE)
    assert page.evaluate("[...document.images].filter(one => one.getAttribute('src') === 'x').length") == 0


def test_what_cannot_be_read_has_a_named_place(start, opened, gallery_run):
    page = opened(start(gallery_run).url + "?row=58")
    expect(page.locator("#picture .gone")).to_contain_text("there is no such file")
    expect(page.locator("#picture .gone")).to_contain_text("picture-58.jpg")
    page.goto(page.url.replace("row=58", "row=59"))
    expect(page.locator("#picture .gone")).to_contain_text("not an image of a known format")
    page.keyboard.press("Escape")
    expect(page.locator(f"{SHOWN} img").first).to_be_visible()


def test_a_pair_leads_to_its_pictures(start, opened, gallery_run, predictions):
    page = opened(start(gallery_run).url + "?view=pairs")
    page.locator("#pairs tbody button").first.click()
    expect(page.locator("#class-facts .chip")).to_be_visible()
    name, truth = (
        page.locator("#class-name").inner_text(),
        page.locator(".chip").inner_text()[len("only those labelled ") : -2],
    )
    c, r = predictions.classes.index(name), predictions.classes.index(truth)
    wrong = (predictions.scores[:, c] > predictions.thresholds[c]) & (predictions.labels[:, c] == 0)
    rows = np.flatnonzero(wrong & (predictions.labels[:, r] == 1))
    settled(page, f"{len(rows)} of 60 pictures")
    assert sorted(rows_in_sight(page)) == rows.tolist()


def test_learning_updates_by_itself(start, opened, gallery_run):
    page = opened(start(gallery_run).url + "?view=live")
    expect(page.get_by_role("img", name=re.compile("^Loss"))).to_be_visible()
    expect(page.locator("#live [role=status]")).to_contain_text("2 of 4 epochs done")
    with (gallery_run / "history.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 3, "train_loss": 0.2, "val_map": 0.9, "lr": 1e-3}) + "\n")
    expect(page.locator("#live [role=status]")).to_contain_text("3 of 4 epochs done")
    loss = page.get_by_role("img", name=re.compile("^Loss"))
    expect(loss.locator(".dot")).to_have_count(0)
    (gallery_run / "history.jsonl").write_text(json.dumps({"epoch": 1, "train_loss": 0.4, "lr": 1e-3}) + "\n")
    expect(loss.locator(".dot")).to_be_visible()
    assert loss.locator(".tick").all_text_contents()[-2:] == ["0", "1"]
    (gallery_run / "history.jsonl").unlink()
    expect(page.locator("#live")).to_contain_text("No epoch is done yet")


def test_a_server_that_is_gone_is_told_in_words(start, opened, gallery_run):
    server = start(gallery_run)
    page = opened(server.url)
    settled(page, "60 of 60 pictures")
    server.stop()
    page.locator("#grid").focus()
    page.keyboard.press("k")
    expect(page.locator("#toast")).to_contain_text("Not saved: The gallery's server does not answer")
    expect(page.locator("#reviewed")).to_have_text("0 reviewed")
    opened.ignored.append("ERR_CONNECTION_REFUSED")


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_and_every_control_has_a_name(start, opened, gallery_run, width, scheme):
    url = start(gallery_run).url
    for view in ("", "?class=cat&row=4", "?view=pairs", "?view=live"):
        page = opened(url + view, width, 800, scheme)
        expect(page.locator("main > section:not([hidden])")).to_be_visible()
        if view == "?view=pairs":
            expect(page.locator("#pairs tbody tr").first).to_be_visible()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        nameless = page.evaluate(
            """[...document.querySelectorAll("button, input, select, [role=listbox], [role=option], [role=img]")]
            .filter(e => e.checkVisibility() && !(e.getAttribute("aria-label") || e.innerText || e.labels?.length))
            .map(e => e.outerHTML)"""
        )
        assert nameless == []
    luminance = "c => c.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 765"
    dark = page.evaluate(f"({luminance})(getComputedStyle(document.body).backgroundColor)") < 0.5
    assert dark == (scheme == "dark")


def test_the_keys_are_shown(start, opened, gallery_run):
    page = opened(start(gallery_run).url)
    settled(page, "60 of 60 pictures")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_contain_text("flip: the other label is right")
    page.keyboard.press("Escape")
    page.keyboard.press("]")
    expect(page.locator("#class-name")).to_have_text("dog")
    page.keyboard.press("/")
    page.keyboard.type("img")
    expect(page.locator("#rail-count")).to_have_text("1 of 5 classes")
    page.keyboard.press("Enter")
    expect(page.locator("#class-name")).to_have_text(HOSTILE)


def test_any_length_is_reachable_with_few_nodes(start, opened, tmp_path):
    n = 300_000
    scores = np.random.default_rng(0).random((n, 3), np.float32)
    labels = (scores > 0.6).astype(np.int8)
    ids = tuple(map(str, range(n)))
    Predictions(ids, ("val",) * n, scores, labels, ("a", "b", "c")).save(tmp_path / "scores.parquet")
    page = opened(start(tmp_path / "scores.parquet").url, 360, 800)
    settled(page, "300,000 of 300,000 pictures")
    order = np.argsort(-scores[:, 0], kind="stable")
    grid = page.locator("#grid")
    for share in (0, 0.37, 1, 0.5, 0):
        grid.evaluate("(e, share) => { e.scrollTop = share * (e.scrollHeight - e.clientHeight); }", share)
        page.wait_for_timeout(400)
        tiles = page.evaluate(f"[...document.querySelectorAll('{SHOWN}')].map(t => [+t.dataset.index, +t.dataset.row])")
        first, last = min(tiles)[0], max(tiles)[0]
        assert first <= share * (n - 1) + 12
        assert last >= share * (n - 1) - 12
        assert all(order[index] == row for index, row in tiles)
        assert page.evaluate("document.querySelectorAll('*').length") < 1000
    grid.hover()
    for _ in range(20):
        page.mouse.wheel(0, 200)
        page.wait_for_timeout(20)
    page.wait_for_timeout(500)
    height = page.locator(SHOWN).first.bounding_box()["height"]
    assert abs(min(rows[0] for rows in page.evaluate(
        f"[...document.querySelectorAll('{SHOWN}')].map(t => [+t.dataset.index])"
    )) / 2 - 4000 / height) < 4  # fmt: skip
