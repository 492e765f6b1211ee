"""A server of an exported file."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import manyhot
from manyhot.exporting import export
from manyhot.serving.app import Service, create_app
from manyhot.serving.limits import Limits
from manyhot.serving.scoring import Scorer


def test_an_exported_file_gives_scores_and_no_heat(trained: Path, tiny_table: Path, tmp_path: Path) -> None:
    picture = tiny_table.parent / "30.png"
    predictor = manyhot.load(export(trained, tmp_path / "model.onnx").path)
    service = Service(Scorer(predictor, 100_000), Limits(body=2**20, pixels=100_000, pictures=4), 2)
    try:
        client = TestClient(create_app(service), raise_server_exceptions=False)
        kind = {"content-type": "image/png"}
        answer = client.post("/v1/predict", content=picture.read_bytes(), headers=kind).json()
        wanted = predictor.predict(picture)
        found = [answer["pictures"][0]["scores"][name] for name in predictor.classes]
        assert found == pytest.approx(wanted.scores[0].tolist(), abs=1e-6)
        refusal = client.post(f"/v1/heatmap?class={predictor.classes[0]}", content=picture.read_bytes(), headers=kind)
        assert refusal.status_code == 404
        assert "serve the run folder" in refusal.json()["detail"]
    finally:
        service.batcher.close()
