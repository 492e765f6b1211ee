"""The gallery's server from the outside: what it answers, and what it refuses."""

from __future__ import annotations

import csv
import io
import os
import re
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from manyhot.data.manifest import Manifest, Row
from manyhot.metrics.ranking import average_precision
from manyhot.predictions import Predictions
from manyhot.web.app import create_app
from manyhot.web.collection import Collection
from manyhot.web.exporting import as_voc
from manyhot.web.guard import BODY_LIMIT, Guard
from manyhot.web.journal import Decision
from manyhot.web.opening import open_gallery

TOKEN = "0123456789abcdef"  # noqa: S105
HOME = "http://127.0.0.1:8321"


def visit(path: Path, token: str | None = None, loopback: bool = True, **settings) -> TestClient:
    guard = Guard(create_app(open_gallery(path, **settings)), loopback, token)
    return TestClient(guard, base_url=HOME, follow_redirects=False, raise_server_exceptions=False)


@pytest.fixture
def client(gallery_run: Path) -> TestClient:
    return visit(gallery_run)


@pytest.fixture
def predictions(gallery_run: Path) -> Predictions:
    return Predictions.load(gallery_run / "evaluation" / "val" / "predictions.parquet")


def test_a_class_travels_as_one_binary_array(client, predictions):
    n = len(predictions)
    for c in range(len(predictions.classes)):
        body = client.get(f"/api/classes/{c}/ranking").content
        assert len(body) == 9 * n
        np.testing.assert_array_equal(np.frombuffer(body, "<f4", n), predictions.scores[:, c])
        order = np.argsort(-predictions.scores[:, c], kind="stable")
        np.testing.assert_array_equal(np.frombuffer(body, "<u4", n, 4 * n), order)
        np.testing.assert_array_equal(np.frombuffer(body, "i1", n, 8 * n), predictions.labels[:, c])


def test_measures_are_those_of_the_metrics(client, predictions):
    while not (found := client.get("/api/classes").json())["measured"]:
        pass
    ap = average_precision(predictions.scores, predictions.labels)
    for one, expected, labels in zip(found["classes"], ap, predictions.labels.T, strict=True):
        assert one["ap"] == (None if np.isnan(expected) else pytest.approx(expected))
        assert (one["n_positive"], one["n_ignored"]) == ((labels == 1).sum(), (labels == -1).sum())


def test_suspects_come_from_the_scores_unless_a_review_covers_the_pictures(gallery_run, predictions):
    body = visit(gallery_run).get("/api/classes/0/suspects").content
    rows = np.frombuffer(body, "<u4", len(body) // 5)
    known = predictions.labels[:, 0] >= 0
    assert sorted(rows) == np.flatnonzero(known).tolist()
    own = np.where(predictions.labels[rows, 0] == 1, predictions.scores[rows, 0], 1 - predictions.scores[rows, 0])
    for label in (0, 1):  # of one label, the less probable it is, the more suspect
        assert (np.diff(own[predictions.labels[rows, 0] == label]) >= 0).all()

    entries = [(1, "picture-09", "cat", True), (2, "picture-04", "dog", True), (3, "picture-07", "cat", False)]
    pl.DataFrame(entries, schema=["rank", "id", "class", "flagged"], orient="row").write_parquet(
        gallery_run / "review.parquet"
    )
    client = visit(gallery_run)
    assert client.get("/api/gallery").json()["reviewed"]
    body = client.get("/api/classes/0/suspects").content
    assert np.frombuffer(body, "<u4", 2).tolist() == [9, 7]
    assert list(body[8:]) == [1, 0]


def test_pairs_count_false_positives_beside_true_classes(client, predictions):
    above = predictions.scores > np.array(predictions.thresholds)
    for truth, other, n, of in client.get("/api/pairs").json():
        has = predictions.labels[:, truth] == 1
        assert of == has.sum()
        assert n == (has & above[:, other] & (predictions.labels[:, other] == 0)).sum() > 0
        assert truth != other


def test_pictures_are_sent_by_number_small_and_large(client, gallery_run):
    answer = client.get("/api/pictures/7/thumbnail")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("JPEG", (97, 70))
    again = client.get("/api/pictures/7/thumbnail", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    Image.new("RGB", (3000, 1000), "blue").save(gallery_run.parent / "pictures" / "picture-07.jpg")
    changed = client.get("/api/pictures/7/thumbnail", headers={"if-none-match": answer.headers["etag"]})
    for path, size in (("thumbnail", (256, 85)), ("image", (2048, 683))):
        with Image.open(io.BytesIO(client.get(f"/api/pictures/7/{path}").content)) as image:
            assert image.size == size
    assert changed.status_code == 200
    assert client.get("/api/pictures?rows=7,3,59").json()[0] == "picture-07"


def test_a_picture_is_described(client, predictions):
    row = int(np.flatnonzero(predictions.labels[:, 0] == 1)[0])
    found = client.get(f"/api/pictures/{row}").json()
    assert found["id"] == predictions.ids[row]
    assert found["boxes"] == [{"name": "cat", "x0": 5.0, "y0": 5.0, "x1": 50.0, "y1": 40.0, "difficult": False}]
    assert found["size"] == [90 + row, 70]
    np.testing.assert_array_equal(np.array(found["scores"], np.float32), predictions.scores[row])


@pytest.mark.parametrize(("row", "reason"), [(58, "there is no such file"), (59, "not an image of a known format")])
def test_what_cannot_be_read_is_named(client, row, reason):
    assert client.get(f"/api/pictures/{row}").json()["trouble"] == reason
    assert client.get(f"/api/pictures/{row}/thumbnail").status_code == 404
    shown = client.get(f"/api/pictures/{row}/thumbnail?placeholder=1")
    assert shown.headers["content-type"].startswith("image/svg+xml")
    assert f"picture-{row}" in shown.text


def test_placeholders_hold_no_markup_of_a_name(client, gallery_run):
    (gallery_run.parent / "pictures" / "<img src=x onerror=alert(1)>-3.jpg").unlink()
    text = client.get("/api/pictures/3/thumbnail?placeholder=1").text
    assert "&lt;img" in text
    assert "<img" not in text


PLACES = [
    "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/..%5capp.py", "/static//etc/passwd",
    "/static/%2fetc%2fpasswd", "/static/app.py", "/static/.", "/static/", "/static/main.js%00", "/static/MAIN.JS",
    "/api/pictures/../../canary.jpg/image", "/api/pictures/..%2f..%2fcanary.jpg/image", "/api/pictures/canary.jpg/x",
    "/api/pictures/%2e%2e%2fcanary.jpg/thumbnail", "/api/pictures/-1", "/api/pictures/60", "/api/pictures/1e1",
    "/api/pictures/99999999999999999999999", "/api/pictures/٣/../x", "/api/classes/5/ranking",
    "/api/classes/-1/ranking", "/api/classes/cat/ranking", "/api/classes/0x1/suspects", "/canary.jpg",
    "/..%2fcanary.jpg", "/api/nothing", "/docs", "/redoc",
]  # fmt: skip


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The files that were opened as pictures, links resolved."""
    found: list[str] = []
    opened = Image.open

    def noted(file, *rest, **more):
        found.append(os.path.realpath(file if isinstance(file, str | Path) else "stored"))
        return opened(file, *rest, **more)

    monkeypatch.setattr(Image, "open", noted)
    return found


@pytest.mark.parametrize("place", PLACES)
def test_no_path_leads_out(client, place, gallery_run, read):
    answer = client.get(place)
    assert answer.status_code == 404
    assert not any("canary" in path for path in read)


def test_ids_that_lead_out_of_the_folder_are_not_read(tmp_path, read):
    folder = tmp_path / "in" / "pictures"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "canary.jpg")
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    (folder / "link.jpg").symlink_to(tmp_path / "canary.jpg")
    (folder / "up").symlink_to(tmp_path)
    (folder / "own.jpg").symlink_to(folder / "a.jpg")
    (folder / "circle.jpg").symlink_to(folder / "circle.jpg")
    ids = ["a", "a.jpg", "../../canary.jpg", str(tmp_path / "canary.jpg"), "..", "", ".", "a\0b", str(folder / "a.jpg"),
           "link.jpg", "link", "up/canary.jpg", "own.jpg", "circle.jpg", "x" * 300, "up/../../canary.jpg"]  # fmt: skip
    pl.DataFrame({"id": ids, "cat": [0.5] * len(ids)}).write_parquet(tmp_path / "scores.parquet")
    client = visit(tmp_path / "scores.parquet", images=folder)
    codes = [client.get(f"/api/pictures/{row}/image").status_code for row in range(len(ids))]
    assert codes == [200, 200, 404, 404, 404, 404, 404, 404, 200, 404, 404, 404, 200, 404, 404, 404]
    assert not any("canary" in path for path in read)
    assert [client.get(f"/api/pictures/{row}").status_code for row in range(len(ids))] == [200] * len(ids)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil", "evil:8321", "", "192.168.0.1", "[::2]", "a b"]
)
def test_a_foreign_host_is_refused(client, host):
    assert client.get("/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9", "LOCALHOST", "[::1]:80"])
def test_the_machine_has_several_names(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


def test_other_sites_neither_write_nor_read(client):
    body = {"row": 1, "class_index": 0, "action": "keep"}
    for headers in (
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
    ):  # fmt: skip
        assert client.post("/api/review", json=body, headers=headers).status_code == 403
        assert client.post("/api/review/undo", headers=headers).status_code == 403
    assert client.get("/api/review").json() == []
    assert client.get("/api/review", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post("/api/review", json=body, headers={"origin": HOME}).status_code == 200
    form = {"content-type": "text/plain"}
    assert (
        client.post("/api/review", content='{"row":1,"class_index":0,"action":"flip"}', headers=form).status_code == 422
    )
    assert client.get("/api/review").json() == [[1, 0, "keep"]]


def test_large_bodies_are_refused_before_they_are_read(client):
    assert client.post("/api/review", content=b"x" * (BODY_LIMIT + 1)).status_code == 413
    read = 0

    def endless():
        nonlocal read
        while read < 1000:
            read += 1
            yield b"x" * 65536

    assert client.post("/api/review", content=endless()).status_code == 413
    headers = {"content-length": "nonsense"}
    assert client.post("/api/review", content=b"{}", headers=headers).status_code == 413


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"row":0}', b'{"row":"0","class_index":0,"action":"keep"}', b"\xff\xfe", b"null",
     b'{"row":0,"class_index":0,"action":"delete"}', b'{"row":0,"class_index":0,"action":"keep","more":1}',
     b'{"row":1e99,"class_index":0,"action":"keep"}', b"[" * 5000, b'{"row":true,"class_index":0,"action":"keep"}'],
)  # fmt: skip
def test_a_faulty_decision_is_no_fault_of_the_server(client, body):
    answer = client.post("/api/review", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert client.get("/api/review").json() == []


def test_a_token_opens_the_door_once(gallery_run):
    client = visit(gallery_run, token=TOKEN, loopback=False)
    assert client.get("/").status_code == 401
    assert client.get("/api/gallery").status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    assert client.get("/static/main.js?token=0123456789abcdef").status_code == 401
    entered = client.get("/?token=0123456789abcdef&class=cat", headers={"host": "192.168.0.7:8321"})
    assert (entered.status_code, entered.headers["location"]) == (303, "/?class=cat")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "0123456789abcdef" not in cookie
    assert client.get("/api/gallery", headers={"cookie": cookie.split(";")[0]}).status_code == 200
    assert client.get("/api/gallery", headers={"authorization": "Bearer 0123456789abcdef"}).status_code == 200
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_every_answer_carries_the_policy(client):
    for place in ("/", "/static/main.js", "/api/gallery", "/nothing", "/api/pictures/0/thumbnail"):
        headers = client.get(place).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/", headers={"host": "evil"}).headers["x-content-type-options"] == "nosniff"
    assert client.get("/api").json()["openapi"].startswith("3.")


def test_decisions_are_exported_and_originals_stay(gallery_run, client, predictions):
    before = {path: path.read_bytes() for path in gallery_run.rglob("*") if path.is_file()}
    row = int(np.flatnonzero(predictions.labels[:, 0] == 1)[0])
    other = int(np.flatnonzero(predictions.labels[:, 1] == 0)[0])
    for r, c, action in ((row, 0, "flip"), (other, 1, "flip"), (row, 2, "difficult"), (9, 0, "keep"), (8, 0, "skip")):
        assert client.post("/api/review", json={"row": r, "class_index": c, "action": action}).status_code == 200
    assert client.post("/api/review/undo").json()[-1] == [9, 0, "keep"]

    text = client.get("/api/review/export?as=csv").content.decode()
    lines = list(csv.DictReader(io.StringIO(text)))
    assert (lines[0]["id"], lines[0]["class"], lines[0]["action"]) == (predictions.ids[row], "cat", "flip")
    assert [line["new_label"] for line in lines[:3]] == ["0", "1", "-1"]
    assert len(lines) == 4

    (gallery_run.parent / "new.parquet").write_bytes(client.get("/api/review/export?as=manifest").content)
    old, new = Manifest.load(gallery_run / "manifest.parquet"), Manifest.load(gallery_run.parent / "new.parquet")
    changed = {
        (int(r), int(c)): int(new.labels[r, c]) for r, c in zip(*np.nonzero(old.labels != new.labels), strict=True)
    }
    assert changed == {(row, 0): 0, (other, 1): 1, **({(row, 2): -1} if old.labels[row, 2] != -1 else {})}
    assert new.boxes(row) == []
    assert new.paths == [path.absolute() for path in old.paths]

    refused = client.get("/api/review/export?as=voc")  # an id holds a blank
    assert (refused.status_code, "blank" in refused.json()["detail"]) == (409, True)
    assert {path: path.read_bytes() for path in before} == before


def test_voc_lists_hold_the_new_labels(tmp_path):
    rows = [Row("a", "a.jpg", "train", [1, 0]), Row("b", "b.jpg", "val", [-1, 1]), Row("c", "c.jpg", "val", [0, 0])]
    manifest = Manifest.from_rows(tmp_path, ("cat", "a/b"), rows, label_rule="made up")
    scores = np.full((2, 2), 0.5, np.float32)
    predictions = Predictions(("b", "c"), ("val", "val"), scores, manifest.labels[1:], ("cat", "a/b"))
    collection = Collection(predictions, manifest, np.array([1, 2]))
    made = [
        Decision("c", "cat", 0, "flip", "t"),
        Decision("b", "a/b", 1, "difficult", "t"),
        Decision("x", "cat", 0, "flip", "t"),
    ]
    with zipfile.ZipFile(io.BytesIO(as_voc(collection, made))) as archive:
        found = {name: archive.read(name).decode() for name in archive.namelist()}
    assert found == {
        "Main/train.txt": "a\n", "Main/val.txt": "b\nc\n",
        "Main/cat_train.txt": "a  1\n", "Main/cat_val.txt": "b  0\nc  1\n",
        "Main/a_b_train.txt": "a -1\n", "Main/a_b_val.txt": "b  0\nc -1\n",
    }  # fmt: skip


def test_the_page_has_the_colours_of_the_report():
    def colours(style: str) -> set[str]:
        return set(re.findall(r"--[a-z]+:#[0-9a-f]{6}", style))

    root = resources.files("manyhot")
    page, report = (root / "web/static/style.css").read_text("utf-8"), (root / "report/style.css").read_text("utf-8")
    assert colours(page) == colours(report)


def test_scripts_load_nothing_from_elsewhere_and_write_no_markup():
    for file in (resources.files("manyhot.web") / "static").iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text), file.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), file.name
