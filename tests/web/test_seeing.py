"""What the model is asked through the gallery: heat maps, boxes that were found, pictures to try, files to refuse."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import manyhot
from manyhot.data.crops import Frame
from manyhot.data.manifest import Manifest
from manyhot.detections import Detections
from manyhot.localization.heat import fixed
from manyhot.localization.placing import ViewMap
from manyhot.localization.seeing import _as_one_of
from manyhot.localizing import look_with
from manyhot.models.bundle import load_bundle
from manyhot.models.geometry import Geometry
from manyhot.predictions import Predictions
from manyhot.web import model as model_module
from manyhot.web.app import create_app
from manyhot.web.guard import Guard
from manyhot.web.model import Busy, TrainedModel
from manyhot.web.opening import open_gallery
from manyhot.web.uploading import LIMIT

HOME = "http://127.0.0.1:8321"
RAW = {"content-type": "application/octet-stream"}


def visit(path: Path, **settings) -> TestClient:
    guard = Guard(create_app(open_gallery(path, **settings)))
    return TestClient(guard, base_url=HOME, raise_server_exceptions=False)


@pytest.fixture
def client(trained: Path) -> TestClient:
    return visit(trained)


@pytest.fixture
def part(trained: Path) -> Manifest:
    return Manifest.load(trained / "manifest.parquet").split("val")


def heat_of(body: bytes) -> np.ndarray:
    width, height = struct.unpack("<II", body[:8])
    return np.frombuffer(body, np.uint8, offset=8).reshape(height, width)


def encoded(image: Image.Image, kind: str = "PNG", **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photograph(tiny_table: Path) -> bytes:
    return (tiny_table.parent / "30.png").read_bytes()


def test_heat_is_the_placed_map_of_localize(trained, client, part):
    look = look_with(load_bundle(trained / "model"), "cam")
    sights = {sight.row: sight for sight in look.at(part.paths[:3], lambda row, scores: range(len(scores)))}
    for row, sight in sights.items():
        for c in range(3):
            heat = heat_of(client.get(f"/api/pictures/{row}/heat?class_index={c}").content)
            assert heat.shape == sight.heat[c].shape == (40, 48)  # no side is long: every pixel has its own value
            np.testing.assert_allclose(heat / 255, fixed(sight.heat[c]), atol=0.503 / 255)


def test_heat_of_a_large_picture_lies_where_that_of_a_small_one_does(client, photograph):
    with Image.open(io.BytesIO(photograph)) as image:
        large = encoded(image.resize((48 * 21, 40 * 21), Image.Resampling.BICUBIC))
    small = encoded(Image.open(io.BytesIO(large)).resize((384, 320), Image.Resampling.BILINEAR))
    one, other = (heat_of(client.post("/api/try/heat?class_index=0", content=body, headers=RAW).content)
                  for body in (large, small))  # fmt: skip
    assert one.shape == other.shape == (320, 384)
    assert np.abs(one.astype(int) - other).max() <= 6  # the network's input is resampled once more, the places are one


def test_softmax_heat_is_a_share_of_one():
    logits = np.random.default_rng(3).normal(0, 5, (4, 3, 5)).astype(np.float32)
    view = _as_one_of(ViewMap(logits, Geometry(8, 3), Frame(0, 0, 8, 8, 40, 24)))
    shares = np.exp(logits) / np.exp(logits).sum(axis=0)
    np.testing.assert_allclose(fixed(view.cells), shares, atol=2e-6)


def test_heat_is_refused_where_there_is_none(client, trained_run, gallery_run):
    for place, status in (("0/heat?class_index=3", 404), ("12/heat?class_index=0", 404), ("0/heat?class_index=-1", 404),
                          ("0/heat?class_index=x", 422), ("0/heat", 422), ("-1/heat?class_index=0", 404)):  # fmt: skip
        assert client.get(f"/api/pictures/{place}").status_code == status
    (trained_run / "model" / "config.json").unlink()
    other = visit(trained_run)
    found = other.get("/api/pictures/0/heat?class_index=0")
    assert (found.status_code, "no trained model" in found.json()["detail"]) == (409, True)
    assert other.get("/api/model").json() == {
        "model": False, "why": "The run has no trained model yet; it is there when training ends.",
    }  # fmt: skip
    assert visit(gallery_run).post("/api/try/scores", content=b"x", headers=RAW).status_code == 415


def test_a_table_has_no_model_and_says_so(trained):
    client = visit(trained / "evaluation" / "val" / "predictions.parquet")
    assert "table" in client.get("/api/model").json()["why"]
    assert client.post("/api/try/scores", content=b"x", headers=RAW).status_code == 404
    assert client.get("/api/pictures/0/heat?class_index=0").status_code == 404


def test_a_new_model_takes_the_place_of_the_old(trained_run):
    client = visit(trained_run)
    before = client.get("/api/pictures/0/heat?class_index=0").content
    config = json.loads((trained_run / "model" / "config.json").read_text())
    assert client.get("/api/model").json()["thresholds"] == config["thresholds"]
    config["preprocessing"]["size"] = 64
    (trained_run / "model" / "config.json").write_text(json.dumps(config))
    assert client.get("/api/pictures/0/heat?class_index=0").content != before
    config["classes"] = ["a", "b", "c"]
    (trained_run / "model" / "config.json").write_text(json.dumps(config, indent=1))
    refused = client.get("/api/pictures/0/heat?class_index=0")
    assert (refused.status_code, "classes" in refused.json()["detail"]) == (409, True)


def test_few_wait_for_the_model_and_the_others_are_told(trained, monkeypatch):
    model, go, inside = TrainedModel(trained / "model"), threading.Event(), threading.Event()

    def slow(image):
        inside.set()
        go.wait(20)
        return image

    monkeypatch.setattr(model, "_look", slow)
    waiting = [threading.Thread(target=model.see, args=(None,)) for _ in range(model_module._WAITING)]
    for one in waiting:
        one.start()
    inside.wait(20)
    while model._places._value:
        pass
    with pytest.raises(Busy):
        model.see(None)
    go.set()
    for one in waiting:
        one.join()
    model.see(None)


def test_boxes_are_those_that_localize_wrote(client, trained, trained_run, part):
    written = Detections.load(trained / "localization" / "val" / "detections.parquet")
    assert len(written)
    for row in range(len(part)):
        found = client.get(f"/api/pictures/{row}/detections").json()
        assert (found["known"], found["by"]) == (True, "gradcam, extreme")
        wanted = sorted(
            (float(-score), name, *map(float, box))
            for id_, name, score, box in zip(written.ids, written.names, written.scores, written.boxes, strict=True)
            if id_ == part.ids[row]
        )
        got = [(-box["score"], box["name"], *(box[key] for key in ("x0", "y0", "x1", "y1"))) for box in found["boxes"]]
        assert got == wanted
    other = visit(trained_run)
    path = trained_run / "localization" / "val" / "detections.parquet"
    path.unlink()
    assert other.get("/api/pictures/0/detections").json() == {"known": False, "boxes": [], "by": ""}
    Detections.from_rows([(part.ids[0], "red", 0.5, (1, 2, 3, 4))], part.classes).save(path)
    assert len(other.get("/api/pictures/0/detections").json()["boxes"]) == 1  # written while the gallery ran
    path.write_bytes(b"nonsense")
    assert "not a table of detections" in other.get("/api/pictures/0/detections").json()["detail"]


def test_a_tried_picture_scores_as_by_predict_and_leaves_nothing(trained, client, photograph, tiny_table, tmp_path):
    turned = Image.open(io.BytesIO(photograph)).resize((131, 77))
    exif = Image.Exif()
    exif[0x0112] = 6
    for i, body in enumerate((photograph, encoded(turned, "JPEG", exif=exif), encoded(turned.convert("L"), "TIFF"))):
        path = tmp_path / f"{i}"
        path.write_bytes(body)
        before = {one for folder in (trained, tiny_table.parent) for one in folder.rglob("*")}
        found = client.post("/api/try/scores", content=body, headers=RAW).json()
        wanted = manyhot.load(trained).predict(path)
        np.testing.assert_allclose(found["scores"], wanted.scores[0], rtol=1e-6, atol=1e-7)
        answer = client.post("/api/try/image", content=body, headers={"content-type": "image/jpeg"})
        with Image.open(io.BytesIO(answer.content)) as image:
            assert (image.format, list(image.size)) == ("JPEG", found["size"])
        assert found["size"] == [[48, 40], [77, 131], [131, 77]][i]
        assert heat_of(client.post("/api/try/heat?class_index=1", content=body, headers=RAW).content).shape == (
            found["size"][1], found["size"][0],
        )  # fmt: skip
        assert before == {one for folder in (trained, tiny_table.parent) for one in folder.rglob("*")}
    assert client.post("/api/try/heat?class_index=9", content=photograph, headers=RAW).status_code == 404


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.js", "alert(1)")
    return buffer.getvalue()


SOUND = encoded(Image.new("RGB", (16, 16), "red"), "JPEG")
BOMB = (
    b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    + png_chunk(b"IDAT", zlib.compress(bytes(9))) + png_chunk(b"IEND", b"")
)  # fmt: skip
TEXT_BOMB = (
    b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    + png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))) + png_chunk(b"IEND", b"")
)  # fmt: skip

REFUSED = {
    "empty": (b"", 415),
    "text": (b"hello", 415),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415),
    "svg with a head": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', 415),
    "html": (b"<!DOCTYPE html><script>alert(1)</script>", 415),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),
    "a script in a gif's head": (b"GIF89a/*" + b"\0" * 20 + b"*/=1;alert(1)", 415),
    "html behind a jpeg": (SOUND + b"<html><body>", 415),
    "a script in a jpeg's comment": (SOUND[:2] + b"\xff\xfe\0\x1b<SCRIPT >alert(1)</script>" + SOUND[2:], 415),
    "svg behind a jpeg": (SOUND + b'<svg xmlns="http://www.w3.org/2000/svg">', 415),
    "an archive behind a jpeg": (SOUND + zipped(), 415),
    "a pdf in a jpeg's comment": (SOUND[:2] + b"\xff\xfe\0\x0a%PDF-1.4" + SOUND[2:], 415),
    "php behind a jpeg": (SOUND + b"<?php system('id'); ?>", 415),
    "truncated": (SOUND[: len(SOUND) // 2], 415),
    "too many pixels": (BOMB, 413),
    "packed text": (TEXT_BOMB, 415),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("place", ["scores", "image", "heat?class_index=0"])
def test_what_is_no_picture_is_refused(client, name, place):
    body, status = REFUSED[name]
    answer = client.post(f"/api/try/{place}", content=body, headers=RAW)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "multipart/form-data; boundary=x", "text/plain", ""])
def test_what_calls_itself_something_else_is_refused(client, kind):
    assert client.post("/api/try/scores", content=SOUND, headers={"content-type": kind}).status_code == 415


def test_other_sites_try_nothing(client):
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert client.post("/api/try/scores", content=SOUND, headers=RAW | headers).status_code == 403
    token = TestClient(Guard(client.app.app, token="0123456789abcdef"), base_url=HOME)  # noqa: S106
    assert token.post("/api/try/scores", content=SOUND, headers=RAW).status_code == 401


def test_an_endless_picture_is_refused_in_bounded_memory(trained):
    command = [sys.executable, "-m", "manyhot", "browse", str(trained), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"http://(\S+?)/", server.stdout.readline())[1]

            def most() -> int:
                status = Path(f"/proc/{server.pid}/status").read_text()
                return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024

            def answer(headers, blocks) -> int:
                """The status, which is read also where the server takes no more of the body."""
                connection = http.client.HTTPConnection(address, timeout=30)
                connection.putrequest("POST", "/api/try/scores")
                for name, value in (RAW | headers).items():
                    connection.putheader(name, value)
                with contextlib.closing(connection):
                    connection.endheaders()
                    with contextlib.suppress(ConnectionError):
                        for block in blocks:
                            connection.send(b"%x\r\n%b\r\n" % (len(block), block))
                    return connection.getresponse().status

            before, sent = most(), 0

            def endless():
                nonlocal sent
                while sent < 10 * LIMIT:
                    sent += 2**20
                    yield bytes(2**20)

            assert answer({"transfer-encoding": "chunked"}, endless()) == 413
            assert sent < 10 * LIMIT
            assert most() - before < 3 * LIMIT // 2**20
            assert answer({"content-length": str(LIMIT + 1)}, ()) == 413
            assert answer({"content-length": "-1"}, ()) in {400, 413}
        finally:
            server.kill()


def test_the_queue_of_all_classes_is_that_of_the_rule(client, trained, trained_run):
    predictions = Predictions.load(trained / "evaluation" / "val" / "predictions.parquet")
    found = manyhot.metrics.label_errors.find_label_errors(predictions.scores, predictions.labels)
    body = client.get("/api/suspects").content
    n = len(body) // 9
    assert n == (predictions.labels >= 0).sum()
    assert np.frombuffer(body, "<u4", n).tolist() == found.images.tolist()
    assert np.frombuffer(body, "<u4", n, 4 * n).tolist() == found.classes.tolist()
    assert np.frombuffer(body, "u1", n, 8 * n).tolist() == found.flagged.tolist()

    ids = predictions.ids
    entries = [(3, ids[4], "red", False), (1, ids[7], "blue", True), (2, ids[2], "red", True), (4, "none", "red", True)]
    pl.DataFrame(entries, schema=["rank", "id", "class", "flagged"], orient="row").write_parquet(
        trained_run / "review.parquet"
    )
    body = visit(trained_run).get("/api/suspects").content
    assert np.frombuffer(body, "<u4", 6).tolist() == [7, 2, 4, 2, 0, 0]
    assert list(body[24:]) == [1, 1, 0]
