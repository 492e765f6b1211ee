"""A server of an exported file."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import manyhot
from manyhot.exporting import export
from manyhot.serving.app import Service, create_app
from manyhot.serving.limits import Limits
from manyhot.serving.scoring import Scorer

KIND = {"content-type": "image/png"}


@contextmanager
def client_of(model: Path) -> Iterator[TestClient]:
    service = Service(Scorer(manyhot.load(model), 100_000), Limits(body=2**20, pixels=100_000, pictures=4), 2)
    try:
        yield TestClient(create_app(service), raise_server_exceptions=False)
    finally:
        service.batcher.close()


def heat(client: TestClient, picture: Path, name: str, layout: str) -> np.ndarray:
    answer = client.post(f"/v1/heatmap?class={name}&layout={layout}", content=picture.read_bytes(), headers=KIND)
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)), np.int16)


@pytest.mark.parametrize(("format_", "ending"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_an_exported_file_gives_the_scores_and_the_heat_of_its_run(
    format_: str, ending: str, trained: Path, tiny_table: Path, tmp_path: Path
) -> None:
    picture = tiny_table.parent / "30.png"
    path = export(trained, tmp_path / f"model{ending}", format_).path
    with client_of(path) as client, client_of(trained) as run:
        answer = client.post("/v1/predict", content=picture.read_bytes(), headers=KIND).json()
        wanted = manyhot.load(path).predict(picture)
        found = [answer["pictures"][0]["scores"][name] for name in wanted.classes]
        assert found == pytest.approx(wanted.scores[0].tolist(), abs=1e-6)
        for name in wanted.classes:
            for layout in ("heat", "overlay"):
                own, expected = (heat(one, picture, name, layout) for one in (client, run))
                assert own.shape == expected.shape
                assert np.abs(own - expected).max() <= 1
            assert heat(client, picture, name, "heat").std() > 0


def test_a_server_of_an_exported_file_needs_no_torch(
    trained: Path, tiny_table: Path, tmp_path: Path, bare_manyhot: Callable[..., list[str]]
) -> None:
    path = export(trained, tmp_path / "model.onnx").path
    command = [*bare_manyhot(), "serve", str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+/", process.stdout.readline())
        try:
            assert found
            content = (tiny_table.parent / "30.png").read_bytes()
            for place, kind in (("v1/predict", "application/json"), ("v1/heatmap?class=red", "image/png")):
                answer = httpx.post(found[0] + place, content=content, headers=KIND, timeout=60)
                assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        finally:
            process.terminate()
            _, told = process.communicate(timeout=60)
    assert process.returncode == 143, told
    assert "Traceback" not in told
