"""What a server answers, asked within this process: scores, heat maps, refusals, counts."""

from __future__ import annotations

import base64
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import manyhot
from manyhot.localization.heat import fixed
from manyhot.localizing import look_with
from manyhot.models.bundle import load_bundle
from manyhot.serving.access import Access
from manyhot.serving.answers import DescribedModel, Predicted
from manyhot.serving.app import Service, create_app
from manyhot.serving.limits import Limits
from manyhot.serving.metrics import Measured
from manyhot.serving.scoring import Scorer

HOME = "http://127.0.0.1:8322"
JPEG = {"content-type": "image/jpeg"}
TOKEN = "0123456789abcdef"  # noqa: S105


@pytest.fixture(scope="module")
def service(trained: Path):
    service = Service(Scorer(manyhot.load(trained), 100_000), Limits(body=2**20, pixels=100_000, pictures=4), 2)
    yield service
    service.batcher.close()


def visit(service: Service, token: str | None = None) -> TestClient:
    app = Measured(Access(create_app(service), token), service.metrics)
    return TestClient(app, base_url=HOME, raise_server_exceptions=False)


@pytest.fixture
def client(service: Service) -> TestClient:
    return visit(service)


@pytest.fixture(scope="module")
def pictures(tiny_table: Path) -> list[Path]:
    return [tiny_table.parent / f"{i}.png" for i in range(30, 34)]


def test_scores_are_those_of_predict_however_they_are_sent(client, trained, pictures):
    wanted = manyhot.load(trained).predict(pictures)
    sent = [path.read_bytes() for path in pictures]
    encoded = [
        {"name": path.name, "data": base64.b64encode(one).decode()} for path, one in zip(pictures, sent, strict=True)
    ]
    answers = [
        client.post(
            "/v1/predict", files=[("images", (path.name, one)) for path, one in zip(pictures, sent, strict=True)]
        ).json(),
        client.post("/v1/predict", json={"images": encoded}).json(),
    ]
    for one in answers:
        Predicted.model_validate_json(json.dumps(one), strict=True)
        assert [entry["name"] for entry in one["pictures"]] == [path.name for path in pictures]
        for entry, scores, labels in zip(one["pictures"], wanted.scores, wanted.predicted(), strict=True):
            np.testing.assert_allclose(list(entry["scores"].values()), scores, atol=2e-6)
            assert list(entry["scores"]) == list(wanted.classes)
            assert tuple(entry["labels"]) == tuple(labels)
            assert (entry["width"], entry["height"], entry["uncalibrated"], entry["error"]) == (48, 40, None, None)
    for content, scores in zip(sent, wanted.scores, strict=True):
        one = client.post("/v1/predict", content=content, headers=JPEG).json()
        np.testing.assert_allclose(list(one["pictures"][0]["scores"].values()), scores, atol=2e-6)
        assert one["model"]["sha256"] == load_bundle(trained / "model").sha256


def test_calibrated_scores_stand_beside_those_before(trained_run, pictures):
    manyhot.calibrate(trained_run)
    wanted = manyhot.load(trained_run).predict(pictures[:1])
    service = Service(Scorer(manyhot.load(trained_run), 10**6), Limits(), 1)
    one = visit(service).post("/v1/predict", content=pictures[0].read_bytes(), headers=JPEG).json()
    service.batcher.close()
    assert one["model"]["calibrated"] is True
    np.testing.assert_allclose(list(one["pictures"][0]["scores"].values()), wanted.scores[0], atol=2e-6)
    np.testing.assert_allclose(list(one["pictures"][0]["uncalibrated"].values()), wanted.uncalibrated[0], atol=2e-6)


def test_heat_is_the_placed_map_of_localize(client, trained, pictures):
    look = look_with(load_bundle(trained / "model"), "cam")
    (sight,) = look.at(pictures[:1], lambda row, scores: range(len(scores)))
    for c, name in enumerate(manyhot.load(trained).classes):
        body = pictures[0].read_bytes()
        answer = client.post(f"/v1/heatmap?class={name}&layout=heat", content=body, headers=JPEG)
        assert answer.headers["content-type"] == "image/png"
        heat = np.asarray(Image.open(io.BytesIO(answer.content)))
        np.testing.assert_allclose(heat / 255, fixed(sight.heat[c]), atol=0.503 / 255)
        drawn = Image.open(io.BytesIO(client.post(f"/v1/heatmap?class={name}", content=body, headers=JPEG).content))
        assert (drawn.mode, drawn.size) == ("RGB", (48, 40))


def test_a_damaged_picture_among_others_has_its_own_error(client, pictures):
    good = pictures[0].read_bytes()
    files = [("images", ("a", good)), ("images", ("b", good[:900])), ("images", ("c", b"text"))]
    answer = client.post("/v1/predict", files=files)
    assert answer.status_code == 200
    a, b, c = Predicted.model_validate_json(answer.content).pictures
    assert (a.error, b.scores, c.labels) == (None, None, None)
    assert (b.error.status, c.error.status) == (415, 415)
    answer = client.post("/v1/predict", files=files[1:])
    assert answer.status_code == 415
    assert answer.json()["detail"].startswith("b: this picture cannot be read")


def picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_limits(client, pictures):
    good = pictures[0].read_bytes()

    def refused(content=good, kind="image/png", place="/v1/predict", **settings) -> int:
        headers = {"content-type": kind, **settings.pop("headers", {})}
        answer = client.post(place, content=content, headers=headers)
        assert isinstance(answer.json()["detail"], str)
        return answer.status_code

    assert refused(bytes(2**20 + 1)) == 413
    assert refused(iter([bytes(2**19)] * 3)) == 413  # chunked
    bomb = picture(20_000, 4000)  # of fewer pixels than Pillow refuses
    start = time.monotonic()
    assert refused(bomb) == 413
    assert time.monotonic() - start < 1
    assert refused(b"") == refused(b"hello") == refused(b"<svg/>", "image/svg+xml") == 415
    assert refused(kind="text/html") == refused(headers={"content-encoding": "gzip"}) == 415
    assert refused(place="/v1/predict?x=1") == refused(place="/v1/heatmap") == 422
    assert refused(place="/v1/heatmap?class=none") == refused(place="/v1/heatmap?class=red&layout=x") == 422
    assert refused(b"x", place="/v1/heatmap?class=red") == 415
    assert refused(bomb, place="/v1/heatmap?class=red") == 413
    assert client.post("/v1/predict", files=[("images", good)] * 5).status_code == 413
    assert client.post("/v1/heatmap?class=red", files=[("images", good)] * 2).status_code == 413
    assert client.post("/v1/predict", files=[("image", good)]).status_code == 422
    assert client.get("/v1/predict").status_code == 405
    assert client.get("/docs").status_code == client.get("/redoc").status_code == client.get("/x").status_code == 404


def test_the_model_is_described(client, trained):
    known = DescribedModel.model_validate_json(client.get("/v1/model").content)
    predictor = manyhot.load(trained)
    assert tuple(one.name for one in known.classes) == predictor.classes
    assert [one.threshold for one in known.classes] == predictor.thresholds.tolist()
    assert (known.limits.body, known.limits.pictures, known.input) == (2**20, 4, predictor.seen)


def test_counts(service, client, pictures):
    def value(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(name + " ")).rpartition(" ")[2])

    names = (
        'manyhot_pictures_total{outcome="scored"}', 'manyhot_pictures_total{outcome="refused"}',
        "manyhot_batch_pictures_sum", 'manyhot_requests_total{path="other",status="404"}',
    )  # fmt: skip
    client.get("/nowhere")
    before = [value(name) for name in names]
    client.post("/v1/predict", files=[("images", path.read_bytes()) for path in pictures])
    client.post("/v1/predict", files=[("images", pictures[0].read_bytes()), ("images", b"x")])
    for place in ("/a", "/b"):
        client.get(place)
    assert [value(name) - one for name, one in zip(names, before, strict=True)] == [5, 1, 5, 2]
    for name in ("manyhot_queue_pictures", "manyhot_pictures_inside", "manyhot_body_bytes"):
        assert value(name) == 0
    docs = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    shown = {line.split()[2] for line in client.get("/metrics").text.splitlines() if line.startswith("# TYPE")}
    assert [name for name in shown if not name.startswith("process_") and f"`{name}" not in docs] == []


def test_who_may_ask(service, pictures):
    home, good = visit(service), pictures[0].read_bytes()
    for headers in ({"host": "evil.example"}, {"host": ""}):
        assert home.get("/healthz", headers=headers).status_code == 400
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert home.post("/v1/predict", content=good, headers=JPEG | headers).status_code == 403
    guarded = visit(service, TOKEN)
    refused = guarded.post("/v1/predict", content=good, headers=JPEG)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert guarded.get("/metrics").status_code == guarded.get("/openapi.json").status_code == 401
    for shown in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer ", "Basic x", "Bearer \xff"):
        assert guarded.get("/metrics", headers={"authorization": shown.encode("latin-1")}).status_code == 401
    assert guarded.get("/healthz").status_code == guarded.get("/readyz").status_code == 200
    headers = JPEG | {"authorization": f"Bearer {TOKEN}", "host": "pictures.example"}
    assert guarded.post("/v1/predict", content=good, headers=headers).status_code == 200
