"""The pictures that a run logs: listed by time, served by listed name, nothing else from anywhere."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from manyhot.web.app import create_app
from manyhot.web.guard import Guard
from manyhot.web.opening import open_gallery

HOSTILE = "ep1_iter2_batch0_image3_<img src=x onerror=alert(1)>.png"


@pytest.fixture
def views(gallery_run: Path) -> Path:
    folder = gallery_run / "views"
    folder.mkdir()
    names = ["ep1_iter1_batch0_image0_cat.png", "augmented_ep1_iter1_batch0_image0_a b.jpg", HOSTILE, "100%.JPEG"]
    for i, name in enumerate(names):
        Image.new("RGB", (20 + i, 10), "blue").save(folder / name, "PNG")
        os.utime(folder / name, (1e9 + i, 1e9 - 0 + i))
    (folder / "note.txt").write_text("no picture")
    (folder / "half.png").write_bytes(b"\x89PNG")
    os.utime(folder / "half.png", (1, 1))
    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to(gallery_run.parent / "canary.jpg")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"")
    return folder


@pytest.fixture
def client(gallery_run: Path) -> TestClient:
    return TestClient(Guard(create_app(open_gallery(gallery_run))), base_url="http://127.0.0.1")


def test_pictures_are_listed_by_time_and_found_by_name(views, client):
    found = client.get("/api/views").json()
    assert (found["n"], found["found"]) == (5, 5)
    assert [name for name, _ in found["views"]] == [
        "half.png", "ep1_iter1_batch0_image0_cat.png", "augmented_ep1_iter1_batch0_image0_a b.jpg", HOSTILE,
        "100%.JPEG",
    ]  # fmt: skip
    assert found["views"][1][1] == 1e12
    found = client.get("/api/views", params={"find": "EP1_ITER", "last": 1}).json()
    assert (found["n"], found["found"], [name for name, _ in found["views"]]) == (5, 3, [HOSTILE])
    for path in views.iterdir():
        if path.is_file():
            path.unlink()
    assert client.get("/api/views").json() == {"n": 0, "found": 0, "views": []}


def test_pictures_are_shown_by_name(views, client):
    for i, name in enumerate(["ep1_iter1_batch0_image0_cat.png", "augmented_ep1_iter1_batch0_image0_a b.jpg", HOSTILE]):
        answer = client.get(f"/api/views/{name.replace('<', '%3C').replace(' ', '%20')}?large=1")
        with Image.open(io.BytesIO(answer.content)) as image:
            assert (image.format, image.size) == ("JPEG", (20 + i, 10))
    assert client.get("/api/views/100%25.JPEG").status_code == 200
    half = client.get("/api/views/half.png")
    assert half.headers["content-type"] == "image/svg+xml"


@pytest.mark.parametrize(
    "name",
    ["link.png", "folder.png", "note.txt", "none.png", "%2e%2e%2frecipe.yaml", "..%2f..%2fcanary.jpg", "%00",
     "..%5ccanary.jpg", "%252e%252e%252fcanary.jpg", "../../canary.jpg", "/etc/passwd",
     "EP1_iter1_batch0_image0_cat.png", "%FF.png", "ep1_iter1_batch0_image0_cat.png%00", "x" * 5000],
)  # fmt: skip
def test_nothing_else_is_served(views, client, name, monkeypatch):
    read: list[str] = []
    opened = Image.open
    monkeypatch.setattr(
        Image, "open", lambda path, *rest, **more: read.append(str(path)) or opened(path, *rest, **more)
    )
    assert client.get(f"/api/views/{name}").status_code == 404
    assert read == []


def test_there_may_be_none(client):
    assert client.get("/api/views").json() == {"n": 0, "found": 0, "views": []}
    assert client.get("/api/views?last=0").status_code == 422
