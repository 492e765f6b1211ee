"""What all tests share: a cache of their own, and a small data set of genuine files."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyhot.data.manifest import Box, Manifest, Row
from manyhot.predictions import Predictions
from manyhot.processor import prepare_processor

prepare_processor()  # as the command line does, before anything loads torch

COLOURS = {"red": (200, 30, 30), "green": (30, 170, 40), "blue": (30, 40, 210)}

RECIPE = """
name: tiny
seed: 5
input:
  size: 32
  fit: squash
  augment:
    - {name: random_resized_crop, scale: [0.6, 1.0]}
    - horizontal_flip
    - {name: rotation, degrees: 10}
    - color_jitter
model: {backbone: timm/test_resnet, weights: none, pooling: max, dropout: 0.3, feature_norm: true}
optimizer: {name: adamw, lr: 0.003, backbone_lr: 0.002, weight_decay: 0.01}
schedule: {name: cosine, warmup_epochs: 0.5}
training: {epochs: 4, batch_size: 4, freeze_epochs: 1, ema: 0.8, grad_clip: 5.0, checkpoint_steps: 3}
"""


@pytest.fixture(autouse=True)
def untouched_log() -> None:
    """The command line takes the log for itself, and other tests and fixtures call it within this process."""
    log = logging.getLogger("manyhot")
    log.handlers, log.propagate = [], True
    log.setLevel(logging.NOTSET)
    logging.getLogger("manyhot.progress").disabled = False


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the user's cache folder; subprocesses inherit the variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYHOT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def colours() -> dict[str, tuple[int, int, int]]:
    """The classes of `tiny_table`, and the colour of their squares."""
    return COLOURS


@pytest.fixture(scope="session")
def tiny_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 50 pictures of coloured squares on noise, some labels ignored: 26 train, 12 val, 12 test."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(7)
    lines = ["image,split," + ",".join(COLOURS)]
    for i in range(50):
        pixels = rng.integers(0, 256, (40, 48, 3)).astype(np.uint8)
        present = rng.random(3) < 0.5
        for colour in np.array(list(COLOURS.values()), np.uint8)[present]:
            y, x = rng.integers(0, 24), rng.integers(0, 32)
            pixels[y : y + 16, x : x + 16] = colour
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
        labels = np.where(rng.random(3) < 0.06, -1, present.astype(int))
        split = "train" if i < 26 else "val" if i < 38 else "test"
        lines.append(f"{i:02}.png,{split}," + ",".join(map(str, labels)))
    table = folder / "tiny.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that trains on `tiny_table` in seconds, with everything random switched on."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def boxed(tiny_table: Path, colours: dict[str, tuple[int, int, int]]) -> Manifest:
    """The pictures of `tiny_table` with a box round the pixels of each pure colour."""
    import manyhot

    plain = manyhot.open_source(str(tiny_table))
    rows = []
    for id_, path, split, labels in zip(
        plain.ids, plain.paths, plain.table["split"], plain.labels.tolist(), strict=True
    ):
        pixels = np.asarray(Image.open(path))
        boxes = []
        for c, (name, colour) in enumerate(zip(plain.classes, colours.values(), strict=True)):
            ys, xs = np.nonzero((pixels == np.array(colour, np.uint8)).all(axis=2))
            if len(ys) > 20 and labels[c] == 1:
                boxes.append(Box(name, xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, difficult=len(rows) % 9 == 0))
        rows.append(Row(id_, path.name, split, labels, 48, 40, boxes))
    return Manifest.from_rows(plain.root, plain.classes, rows, label_rule="drawn")


@pytest.fixture(scope="session")
def trained(boxed: Manifest, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model tells the colours apart by now, evaluated and localised on its val split of 12 pictures."""
    import manyhot

    out = tmp_path_factory.mktemp("trained") / "run"
    quick = ["training.freeze_epochs=0", "training.ema=null", "optimizer.lr=0.01", "optimizer.backbone_lr=0.01"]
    changes = [*quick, "training.epochs=3", "model.dropout=0", "model.output_stride=8", "evaluation.resamples=0"]
    manyhot.train(manyhot.load_recipe(str(tiny_recipe), changes), boxed, out)
    manyhot.evaluate(out)
    manyhot.localize(out, min_score=0)
    return out


@pytest.fixture
def trained_run(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` that a test may write to."""
    return Path(shutil.copytree(trained, tmp_path / "trained"))


ABSENT = (
    "torch", "torchvision", "timm", "scipy", "sklearn", "safetensors", "accelerate", "matplotlib", "jinja2",
    "tensorboard", "filelock",
)  # fmt: skip
BARE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = ["manyhot", *sys.argv[1:]]
from manyhot.cli import main
main()
"""


@pytest.fixture
def bare_manyhot() -> Callable[..., list[str]]:
    """The command `manyhot` where neither torch nor what stands on it is installed, nor the packages named."""

    def command(*more: str) -> list[str]:
        return [sys.executable, "-W", "error", "-c", BARE.format(absent={*ABSENT, *more})]

    return command


HOSTILE = "<img src=x onerror=alert(1)>"
GALLERY_CLASSES = ("cat", "dog", HOSTILE, "none", "a b/c")


@pytest.fixture
def gallery_run(tmp_path: Path, tiny_recipe: Path) -> Path:
    """A run folder as `evaluate` leaves it, of 60 pictures: the last two missing and damaged; classes of hostile names.

    Beside it lies `canary.jpg`, which nothing in the run names.
    """
    run, pictures = tmp_path / "run", tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(11)
    labels = (rng.random((60, len(GALLERY_CLASSES))) < 0.4).astype(np.int8)
    labels[rng.random(labels.shape) < 0.05] = -1
    labels[:, 3] = 0
    scores = np.clip(0.35 * labels + rng.random(labels.shape) * 0.64, 0, 1).astype(np.float32)
    scores[5, 0] = scores[6, 0]  # a tie
    rows = []
    for i in range(60):
        name = f"{HOSTILE.replace('/', '')}-{i}" if i == 3 else f"picture-{i:02}"
        Image.new("RGB", (90 + i, 70), (4 * i, 120, 255 - 4 * i)).save(pictures / f"{name}.jpg")
        boxes = [Box("cat", 5, 5, 50, 40)] if labels[i, 0] == 1 else []
        rows.append(Row(name, f"{name}.jpg", "val", labels[i].tolist(), 90 + i, 70, boxes))
    (pictures / "picture-58.jpg").unlink()
    (pictures / "picture-59.jpg").write_bytes(b"\xff\xd8\xff no picture")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "canary.jpg")
    rows.append(Row("train-0", "picture-00.jpg", "train", [1, 0, 0, 0, 0]))
    ids = tuple(row.id for row in rows[:60])
    run.mkdir()
    (run / "recipe.yaml").write_text(tiny_recipe.read_text(), encoding="utf-8")
    Manifest.from_rows(pictures, GALLERY_CLASSES, rows, label_rule="made up").save(run / "manifest.parquet")
    thresholds = (0.5, 0.6, 0.4, 0.5, 0.5)
    predictions = Predictions(ids, ("val",) * 60, scores, labels, GALLERY_CLASSES, thresholds=thresholds)
    predictions.save(run / "evaluation" / "val" / "predictions.parquet")
    lines = [
        {"epoch": e, "train_loss": 1 / e, "val_map": 1 - 0.5 / e, "lr": 1e-3, "val_ap": {"cat": 0.5}} for e in (1, 2)
    ]
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run
