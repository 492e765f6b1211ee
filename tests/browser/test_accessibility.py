"""Every view checked by axe: no serious finding, in light and in dark."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from manyhot.predictions import Predictions
from manyhot.web.opening import open_gallery
from manyhot.web.static_export import write_export

pytest.importorskip("playwright")
from playwright.sync_api import expect

axe = pytest.importorskip("axe_playwright_python.sync_playwright")

TILE = ".tile:not([hidden])"
VIEWS = [
    ("?", f"#gallery {TILE}"),
    ("?class=dog&order=differ&show=fp,tn", f"#gallery {TILE}"),
    ("?row=4", "#picture .bars li"),
    ("?view=review", "#review button"),
    ("?view=pairs", "#pairs tbody tr"),
    ("?view=compare", f"#compare {TILE}"),
    ("?view=live", "#live svg"),
    ("?view=try", "#try .words"),
]
WITH_A_MODEL = [
    ("?row=0&layers=truth,heat", "#picture canvas"),
    ("?view=review&layers=heat", "#review canvas"),
    ("?view=try", "#try .drop"),
]


def serious(page) -> list[str]:
    found = axe.Axe().run(page, options={"preload": False}).response
    assert len(found["passes"]) > 5
    return [
        f"{one['id']}: {node['html'][:160]} ({node['failureSummary'][:200]})"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_no_serious_finding(start, opened, gallery_run, tmp_path, scheme, width):
    known = Predictions.load(gallery_run / "evaluation" / "val" / "predictions.parquet")
    other = replace(known, scores=np.random.default_rng(3).random(known.scores.shape, dtype=np.float32))
    other.save(tmp_path / "other.parquet")
    url = start(gallery_run, "--compare", tmp_path / "other.parquet").url
    page = opened(url, width, 900, scheme)
    for view, ready in VIEWS:
        page.goto(url + view)
        expect(page.locator(ready).first).to_be_visible()
        assert serious(page) == [], view
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    assert serious(page) == []
    page.goto(write_export(open_gallery(gallery_run), tmp_path / "out", 5).as_uri())
    expect(page.locator(TILE).first).to_be_visible()
    assert serious(page) == []
    page.locator(TILE).first.click()
    expect(page.locator("#sheet")).to_be_visible()
    assert serious(page) == []


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1280), ("light", 390)])
def test_no_serious_finding_where_there_is_a_model(trained_url, opened, scheme, width):
    page = opened(trained_url, width, 900, scheme)
    for view, ready in WITH_A_MODEL:
        page.goto(trained_url + view)
        expect(page.locator(ready).first).to_be_visible()
        assert serious(page) == [], view
