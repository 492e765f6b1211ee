"""Training a detector: from a table of pictures to a run, killed and resumed, on images and on kept maps."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import manyhot
from manyhot.data.manifest import Box, Manifest, Row
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.proposals import Proposals
from manyhot.errors import UserError
from manyhot.inference.kept_maps import MapExtraction
from manyhot.inference.kept_regions import RegionExtraction
from manyhot.inference.regions import Regions, View, place_boxes, see, view_size
from manyhot.localization.overlays import view_name
from manyhot.models.bundle import load_bundle, load_detector
from manyhot.models.detectors import WSDDN, create_detector, detectors
from manyhot.recipe import Input, parse_recipe
from manyhot.training.checkpoints import load_checkpoint
from manyhot.web.app import create_app
from manyhot.web.opening import open_gallery

COLOURS = {"red": (220, 30, 30), "blue": (30, 40, 220)}

RECIPE = """
name: tiny-detector
seed: 3
input: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
model:
  backbone: preact_resnet
  stages: [[8, 1], [16, 1]]
  weights: none
  detector:
    {name: wsddn, squeeze: 8, side: 2, width: 16, dropout: 0.1, refinements: 1, scales: [48, 64], test_scales: [64],
     max_boxes: 9, search_size: 48, min_side: 6}
loss: {name: bce, reduction: sum}
optimizer: {name: adamw, lr: 0.01}
training: {epochs: 2, batch_size: 4, workers: 2}
evaluation: {batch_size: 5}
"""

EVIDENCE = [
    f"model.detector.{one}"
    for one in ("squeeze=6", "squeeze_by=components", "region_pooling=evidence", "width=null", "dropout=0",
                "joined=true", "kept=regions")
]  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Thirty pictures of one or two squares; the first has no proposal, the second has one."""
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(1)
    rows, boxes = [], []
    for i in range(30):
        pixels = np.full((40, 56, 3), 120, np.uint8)
        present = [[1, 0], [0, 1], [1, 1]][i % 3]
        own = []
        for c, (name, colour) in enumerate(COLOURS.items()):
            if present[c]:
                side = int(rng.integers(10, 18))
                x, y = 28 * c + int(rng.integers(0, 28 - side)), int(rng.integers(0, 40 - side))
                pixels[y : y + side, x : x + side] = colour
                own.append(Box(name, x, y, x + side, y + side))
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
        split = "train" if i < 18 else "val" if i < 24 else "test"
        rows.append(Row(f"{i:02}", f"{i:02}.png", split, present, 56, 40, own))
        low = rng.integers(0, 26, (12, 2))
        some = np.concatenate([low, low + rng.integers(6, 14, (12, 2))], axis=1).astype(np.float32)
        true = np.array([[b.x0, b.y0, b.x1, b.y1] for b in own], np.float32)
        boxes.append(np.unique(np.concatenate([some, true]), axis=0)[: 0 if i == 0 else 1 if i == 1 else None])
    manifest = Manifest.from_rows(folder, tuple(COLOURS), rows, label_rule="made up")
    manifest.save(folder / "manifest.parquet")
    sizes = tuple((56, 40) for _ in rows)
    Proposals(tuple(manifest.ids), tuple(boxes), sizes).save(folder / "boxes.parquet")
    return manifest


@pytest.fixture(scope="module")
def boxes(pictures: Manifest) -> Path:
    return pictures.root / "boxes.parquet"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "checkpoints" / "last.pt")["model"]


@pytest.fixture(scope="module")
def run(pictures: Manifest, boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("detector") / "run"
    manyhot.train(parse_recipe(RECIPE, "test"), pictures, out, proposals=boxes)
    return out


@pytest.mark.parametrize(
    "changes", [[], ["model.frozen=true"], ["model.frozen=true", "training.views=0"], ["model.frozen=true", *EVIDENCE]]
)
def test_a_run_and_its_bundle(pictures: Manifest, boxes: Path, tmp_path: Path, changes: list[str]) -> None:
    recipe = parse_recipe(RECIPE, "test", [*changes, "training.epochs=1"])
    out = manyhot.train(recipe, pictures, tmp_path / "run", proposals=boxes)
    (line,) = out.read_history()
    assert np.isfinite(line["train_loss"])
    bundle = load_detector(out.model)
    assert bundle.config.classes == tuple(COLOURS)
    assert Proposals.load(out.proposals).ids == tuple(pictures.ids[:24])  # of the pictures that the run uses
    with pytest.raises(UserError, match="this is a detector"):
        load_bundle(out.model)


def test_kept_maps_train_as_maps_made_anew(pictures: Manifest, boxes: Path, tmp_path: Path) -> None:
    found = {}
    for views in (0, 1):
        changes = ["model.frozen=true", f"training.views={views}", "model.detector.dropout=0"]
        recipe = parse_recipe(RECIPE, "test", [*changes, "optimizer={name: sgd, lr: 0.01}"])
        manyhot.train(recipe, pictures, tmp_path / str(views), proposals=boxes)
        found[views] = weights(tmp_path / str(views))
    for name, tensor in found[1].items():  # of float16, so nearly alike
        torch.testing.assert_close(tensor, found[0][f"head.{name}"], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("region_pooling", ["average", "evidence"])
def test_kept_regions_train_as_kept_maps(pictures: Manifest, boxes: Path, tmp_path: Path, region_pooling: str) -> None:
    found = {}
    changes = ["model.frozen=true", *EVIDENCE, f"model.detector.region_pooling={region_pooling}"]
    for kept in ("maps", "regions"):
        recipe = parse_recipe(
            RECIPE, "test", [*changes, f"model.detector.kept={kept}", "optimizer={name: sgd, lr: 0.01}"]
        )
        out = manyhot.train(recipe, pictures, tmp_path / kept, proposals=boxes)
        found[kept] = weights(out.path)
        assert found[kept]["squeeze.weight"].shape == (6, 16)
    for name, tensor in found["regions"].items():  # of float16, so nearly alike
        torch.testing.assert_close(tensor, found["maps"][name], rtol=1e-2, atol=1e-4)
    bundle = load_detector(tmp_path / "regions" / "model")
    assert torch.equal(bundle.model.head.squeeze.weight, found["regions"]["squeeze.weight"])
    assert manyhot.detect(tmp_path / "regions", "test", proposals=boxes).metrics["n_images"] == 6


def test_other_boxes_and_other_pooling_have_other_places_in_the_cache(pictures: Manifest, boxes: Path) -> None:
    some = pictures.split("val")
    proposals = Proposals.load(boxes).of(some)
    shifted = Proposals(proposals.ids, tuple(own + 1 for own in proposals.boxes), proposals.sizes)
    found = {}
    for power in (0.5, 1.0):
        recipe = parse_recipe(
            RECIPE, "test", ["model.frozen=true", *EVIDENCE, f"model.detector.evidence_power={power}"]
        )
        torch.manual_seed(0)
        network = create_detector(recipe.model, 2)
        part = detectors.build(recipe.model.detector)
        assert isinstance(part, WSDDN)
        extraction = RegionExtraction(network, load_rule(), torch.device("cpu"))
        view = View(48, False)
        found[power] = extraction.parts(view)
        names = [extraction.names(some.paths, Regions(own, some.paths, part)) for own in (proposals, shifted)]
        assert not set(names[0]) & set(names[1])
        regions = Regions(proposals, some.paths, part)
        features = extraction.features(some.paths, regions, [view], what="test")[view]
        assert features.counts.tolist() == (proposals.counts + 1).tolist()
        maps = MapExtraction(network, load_rule(), torch.device("cpu")).compute(
            some.paths, regions, [view], what="test"
        )
        placed = torch.from_numpy(place_boxes(proposals.boxes[0], (56, 40), view))
        own = network.head.pool(maps.at(view, 0).float(), placed)
        np.testing.assert_allclose(features.gather([0])[0][1:], own.detach(), atol=2e-2)
    assert found[0.5] != found[1.0]


def test_workers_change_nothing(pictures: Manifest, boxes: Path, run: Path, tmp_path: Path) -> None:
    manyhot.train(parse_recipe(RECIPE, "test", ["training.workers=0"]), pictures, tmp_path / "run", proposals=boxes)
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, weights(tmp_path / "run")[name]), name


@pytest.mark.parametrize("settings", [[], ["model.frozen=true"], ["model.frozen=true", *EVIDENCE]])
def test_killed_and_resumed_it_ends_with_the_same_weights(
    pictures: Manifest, boxes: Path, tmp_path: Path, settings: list[str]
) -> None:
    changes = [*settings, "training.checkpoint_steps=1"]
    whole = manyhot.train(parse_recipe(RECIPE, "test", changes), pictures, tmp_path / "whole", proposals=boxes)
    file = tmp_path / "tiny.yaml"
    file.write_text(RECIPE)
    sets = [word for change in changes for word in ("--set", change)]
    data = str(pictures.root / "manifest.parquet")
    command = [sys.executable, "-m", "manyhot", "train", str(file), "--data", data, "--out", str(tmp_path / "run")]
    command += ["--proposals", str(boxes), *sets]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last.exists()
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    for name, tensor in weights(whole.path).items():
        assert torch.equal(tensor, weights(tmp_path / "run")[name]), name


def test_detection_and_its_files(run: Path, boxes: Path, pictures: Manifest) -> None:
    found = manyhot.detect(run, "test", proposals=boxes)
    metrics = found.metrics
    assert metrics["n_images"] == 6
    assert metrics["recall"]["0.5"] == 1.0
    assert metrics["baselines"]["best_proposal"] == 1.0
    stored = json.loads((found.folder / "metrics.json").read_text())
    assert stored == json.loads(json.dumps(metrics))
    detections = manyhot.Detections.load(found.folder / "detections.parquet")
    assert len(detections) == metrics["n_detections"] > 0
    mine = [row for row, name in enumerate(detections.names) if name == "red"]
    lines = (found.folder / "comp4_det_test_red.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [detections.ids[row] for row in mine]
    numbers = np.array([[float(word) for word in line.split()[1:]] for line in lines])
    np.testing.assert_array_equal(numbers[:, 0].astype(np.float32), detections.scores[mine])
    np.testing.assert_array_equal(numbers[:, 1:] - [1, 1, 0, 0], detections.boxes[mine])  # 1-based and inclusive
    page = (found.folder / "report.html").read_text()
    assert all(text in page for text in ("AP50(07)", "red", "blue", "data:image/jpeg", "best proposal"))
    coco = json.loads((found.folder / "coco.json").read_text())
    assert len(coco) == len(detections)
    x, y, width, height = coco[0]["bbox"]
    assert [x, y, x + width, y + height] == detections.boxes[0].tolist()
    assert coco[0]["category_id"] == 1 + [*COLOURS].index(coco[0]["category"])


def test_pictures_with_no_box_and_with_one_are_measured(run: Path, boxes: Path) -> None:
    found = manyhot.detect(run, "train")
    assert found.metrics["n_images"] == 18
    assert "00" not in found.detections.ids


def test_scores_are_summed_over_scales_and_flips(run: Path, boxes: Path, pictures: Manifest) -> None:
    from manyhot.inference.detect import score_boxes

    bundle = load_detector(run / "model")
    part = WSDDN(**{k: v for k, v in bundle.config.model.detector.items() if k != "name"})
    some = pictures.split("test")
    own = Proposals.load(boxes).of(some)
    views = [View(scale, mirrored) for scale in (48, 64) for mirrored in (False, True)]
    rule = bundle.config.preprocessing
    both = list(score_boxes(bundle.model, part, rule, some.paths, own, [], views))
    alone = [list(score_boxes(bundle.model, part, rule, some.paths, own, [], [view])) for view in views]
    for i, one in enumerate(both):
        np.testing.assert_allclose(one.scores, np.sum([each[i].scores for each in alone], axis=0), atol=1e-5)
    flipped = own.boxes[0][:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + np.array([56, 0, 56, 0], np.float32)
    np.testing.assert_allclose(
        place_boxes(own.boxes[0], (56, 40), View(64, True)), place_boxes(flipped, (56, 40), View(64, False)), atol=1e-4
    )


def test_views() -> None:
    image = Image.fromarray(np.arange(12 * 8 * 3, dtype=np.uint8).reshape(8, 12, 3))
    rule = load_rule()
    assert view_size((12, 8), View(48, False)) == (48, 32)
    np.testing.assert_array_equal(see(image, View(48, True), rule), see(image, View(48, False), rule)[:, ::-1])
    whole = np.array([[0, 0, 12, 8]], np.float32)
    assert place_boxes(whole, (12, 8), View(48, True)).tolist() == [[0, 0, 48, 32]]


def load_rule() -> Preprocessing:
    return Preprocessing.from_recipe(Input(), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_proposals_that_do_not_fit_stop_before_a_file_is_written(
    pictures: Manifest, boxes: Path, tmp_path: Path
) -> None:
    table = pl.read_parquet(boxes)
    table.with_columns(id=pl.col("id").str.replace("0", "x")).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(UserError, match="24 pictures have no entry, first '00', '01', '02'") as error:
        manyhot.train(parse_recipe(RECIPE, "test"), pictures, tmp_path / "run", proposals=tmp_path / "b.parquet")
    assert "entries of other pictures: 'x0'" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_what_a_detector_goes_without(pictures: Manifest, boxes: Path, tmp_path: Path) -> None:
    changes = ["input.augment=[horizontal_flip]"]
    with pytest.raises(UserError, match=r"goes without input\.augment"):
        manyhot.train(parse_recipe(RECIPE, "test", changes), pictures, tmp_path / "run", proposals=boxes)
    recipe = parse_recipe(RECIPE, "test", ["model.detector=null"])
    with pytest.raises(UserError, match="proposals are of detectors"):
        manyhot.train(recipe, pictures, tmp_path / "run", proposals=boxes)
    recipe = parse_recipe(RECIPE, "test", ["model.detector.box_scores=true"])
    with pytest.raises(UserError, match="needs proposals that have scores"):
        manyhot.train(recipe, pictures, tmp_path / "run", proposals=boxes)


def test_without_a_file_boxes_are_searched_for(pictures: Manifest, tmp_path: Path) -> None:
    recipe = parse_recipe(RECIPE, "test", ["training.epochs=1", "training.workers=1"])
    run = manyhot.train(recipe, pictures, tmp_path / "run")
    assert Proposals.load(run.proposals).source["size"] == "48"
    assert manyhot.detect(run.path, "test").metrics["n_images"] == 6  # pictures that the run's file lacks


@pytest.mark.parametrize("settings", [[], ["model.frozen=true", *EVIDENCE]])
def test_it_shows_its_best_boxes_while_it_trains_and_learns_the_same(
    pictures: Manifest, boxes: Path, tmp_path: Path, settings: list[str]
) -> None:
    layer = "refinements.0.weight" if settings else "head.refinements.0.weight"
    shown = ["tracking.boxes=3", "tracking.every=2", "tracking.histograms=[" + layer + "]"]
    runs = {}
    for name, changes in (("plain", []), ("shown", shown)):
        recipe = parse_recipe(RECIPE, "test", [*settings, *changes])
        runs[name] = manyhot.train(recipe, pictures, tmp_path / name, proposals=boxes)
    for key, tensor in weights(runs["plain"].path).items():
        assert torch.equal(tensor, weights(runs["shown"].path)[key]), key
    assert not list(runs["plain"].views.glob("*red*"))
    names = {path.stem for path in runs["shown"].views.iterdir()}
    val = pictures.split("val")
    expected = {
        view_name(epoch, 5 * epoch, 0, number, val.classes[c])
        for epoch in (1, 2)
        for number in range(3)
        for c in np.flatnonzero(val.labels[6 * number // 3] == 1)
    }
    assert {name for name in names if not name.startswith("augmented")} == expected
    with Image.open(runs["shown"].views / f"{min(expected)}.jpg") as drawn:
        assert drawn.width > 56  # small pictures are enlarged, so that boxes can be seen
    events = EventAccumulator(str(runs["shown"].tensorboard), {"images": 0, "histograms": 0, "scalars": 0}).Reload()
    assert {f"boxes/{name}" for name in expected} <= set(events.Tags()["images"])
    assert {f"weights/{layer}", f"gradients/{layer}"} <= set(events.Tags()["histograms"])
    assert {"AP/red", "AP/blue"} <= set(events.Tags()["scalars"])
    assert all(set(line["val_ap"]) == {"red", "blue"} for line in runs["shown"].read_history())


def test_the_gallery_shows_what_detect_found(run: Path, boxes: Path) -> None:
    manyhot.detect(run, "test", proposals=boxes)
    with TestClient(create_app(open_gallery(run, split="test")), base_url="http://127.0.0.1") as client:
        about = client.get("/api/gallery").json()
        assert about["localized"]
        assert about["measured_by"] == "detect"
        assert "chooses among proposals" in client.get("/api/model").json()["why"]
        table = manyhot.Detections.load(run / "detection" / "test" / "detections.parquet")
        answer = client.get("/api/pictures/0/detections").json()
        own = [score for id_, score in zip(table.ids, table.scores.tolist(), strict=True) if id_ == "24"]
        assert answer["known"]
        assert answer["by"] == "wsddn"
        assert [box["score"] for box in answer["boxes"]] == sorted(own, reverse=True)
    assert open_gallery(run, split="val").collection is None  # not looked at


def test_boxes_are_shown_of_detectors_alone() -> None:
    with pytest.raises(UserError, match=r"tracking\.boxes are of detectors"):
        parse_recipe(RECIPE, "test", ["model.detector=null", "tracking.boxes=1"])
