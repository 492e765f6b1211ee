"""What a run shows while it trains is what went into the network, and changes nothing."""

from __future__ import annotations

import io
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import manyhot
from manyhot.atomic import sha256_file
from manyhot.data.loading import Pictures, TrainingBatches
from manyhot.data.transforms import augmentations
from manyhot.errors import Interrupted, UserError
from manyhot.localization.overlays import view_name
from manyhot.recipe import load_recipe
from manyhot.runs import Run
from manyhot.training.checkpoints import load_checkpoint
from manyhot.training.display import QUALITY, side_by_side
from manyhot.training.tracking import Tracker
from manyhot.training.train import train

SHOWN = [
    "training.epochs=4",
    "tracking.every=2",
    "tracking.pictures=3",
    "tracking.histograms=[head.linear.*]",
    "tracking.graph=true",
    "tracking.heat_maps=3",
    "tracking.window=16",
]
NOTHING = ["training.epochs=4", "tracking.pictures=0"]


def weights(run: Run) -> str:
    return sha256_file(run.model / "weights.safetensors")


def events(run: Run) -> EventAccumulator:
    accumulator = EventAccumulator(str(run.tensorboard), {"images": 0, "histograms": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def shown(tiny_table: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("shown") / "run"
    return train(load_recipe(str(tiny_recipe), SHOWN), manyhot.open_source(str(tiny_table)), out)


def test_the_weights_are_those_of_a_run_that_shows_nothing(
    shown: Run, tiny_table: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    plain = train(load_recipe(str(tiny_recipe), NOTHING), manyhot.open_source(str(tiny_table)), tmp_path / "run")
    assert weights(plain) == weights(shown)
    assert not plain.views.exists()


def test_the_pictures_are_those_that_entered_the_network(shown: Run) -> None:
    recipe = load_recipe(str(shown.recipe))
    manifest = manyhot.Manifest.load(shown.manifest).split("train")
    rules = manyhot.load(shown.path).bundle.config.preprocessing
    augment = tuple(augmentations.build(setting) for setting in recipe.input.augment)
    pictures = Pictures(manifest.paths, manifest.labels, rules, augment, recipe.seed)
    batches = TrainingBatches(len(manifest), recipe.training.batch_size, recipe.seed)
    expected = {}
    for epoch in (0, 1, 3):
        batches.start(epoch, 0)
        for image, key in enumerate(next(iter(batches))[:3]):
            index, views = pictures[key]
            assert not isinstance(views, str)
            classes = "+".join(np.array(manifest.classes)[manifest.labels[index] == 1])
            expected["augmented_" + view_name(epoch + 1, epoch * len(batches), 0, image, classes)] = views[0]
    assert {path.stem for path in shown.views.glob("augmented_*")} == set(expected)
    for name, pixels in expected.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
        assert (shown.views / f"{name}.jpg").read_bytes() == buffer.getvalue()
    found = events(shown)
    tags = found.Tags()["images"]
    assert {tag.removeprefix("augmented/") for tag in tags if tag.startswith("augmented/")} == set(expected)


def test_heat_is_drawn_for_each_true_class_of_val_pictures(shown: Run) -> None:
    val = manyhot.Manifest.load(shown.manifest).split("val")
    steps = [line["step"] for line in shown.read_history()]
    expected = {
        view_name(epoch + 1, steps[epoch], 0, place, val.classes[index])
        for epoch in (0, 1, 3)
        for place, row in enumerate(len(val) * number // 3 for number in range(3))
        for index in np.flatnonzero(val.labels[row] == 1)
    }
    assert {path.stem for path in shown.views.glob("ep*")} == expected
    tags = events(shown).Tags()["images"]
    assert {tag.removeprefix("heat/") for tag in tags if tag.startswith("heat/")} == expected


def test_the_running_window_has_a_value_at_every_step(shown: Run) -> None:
    found = events(shown)
    steps = shown.read_history()[-1]["step"]
    losses = [event.value for event in found.Scalars("loss/step")]
    for name in ("loss/window_16", "F2/window_16"):
        assert [event.step for event in found.Scalars(name)] == list(range(steps))
    windows = [event.value for event in found.Scalars("loss/window_16")]
    assert windows[3] == pytest.approx(np.mean(losses[:4]), rel=1e-5)
    assert all(0 <= event.value <= 1 for event in found.Scalars("mAP/window_16"))


def test_histograms_are_of_the_last_step_of_shown_epochs_and_the_graph_is_there(shown: Run) -> None:
    found = events(shown)
    names = {f"{kind}/head.linear.{part}" for kind in ("weights", "gradients") for part in ("weight", "bias")}
    assert set(found.Tags()["histograms"]) == names
    steps = [line["step"] - 1 for line in shown.read_history()]
    for name in names:
        assert [event.step for event in found.Histograms(name)] == [steps[0], steps[1], steps[3]]
    gradient = found.Histograms("gradients/head.linear.weight")[-1].histogram_value
    assert gradient.max > gradient.min
    assert found.Tags()["graph"]


def test_a_stopped_run_shows_every_step_once(
    shown: Run, tiny_table: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, manifest = load_recipe(str(tiny_recipe), SHOWN), manyhot.open_source(str(tiny_table))
    logged = Tracker.step

    def log_and_stop(self: Tracker, step: int, value: float) -> None:
        logged(self, step, value)
        if step == 12:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Tracker, "step", log_and_stop)
    with pytest.raises(Interrupted):
        train(recipe, manifest, tmp_path / "run")
    monkeypatch.undo()
    time.sleep(1.1 - time.time() % 1)  # TensorBoard orders files by the second of their start
    stopped = train(recipe, manifest, tmp_path / "run")
    assert weights(stopped) == weights(shown)
    assert {path.name for path in stopped.views.iterdir()} == {path.name for path in shown.views.iterdir()}
    whole, again = events(shown), events(stopped)
    for tag in whole.Tags()["histograms"]:
        assert [event.step for event in again.Histograms(tag)] == [event.step for event in whole.Histograms(tag)]
    for tag in whole.Tags()["scalars"]:
        if "window" in tag:  # it starts empty with the process, and may lack a positive
            continue
        assert [event.step for event in again.Scalars(tag)] == [event.step for event in whole.Scalars(tag)]


def test_a_name_that_no_parameter_has_is_refused_before_anything_is_written(
    tiny_table: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(str(tiny_recipe), ["tracking.histograms=[head.lin.*]"])
    with pytest.raises(UserError, match=r"no parameter is called 'head.lin.\*'.*head.linear.weight"):
        train(recipe, manyhot.open_source(str(tiny_table)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_crops_of_a_picture_lie_side_by_side() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.integers(0, 256, (2, 3, 4, 5), np.uint8), rng.integers(0, 256, (1, 3, 6, 2), np.uint8)
    drawn = side_by_side([small, large])
    assert drawn.shape == (6, 12, 3)
    np.testing.assert_array_equal(drawn[:4, 5:10], small[1].transpose(1, 2, 0))
    np.testing.assert_array_equal(drawn[:, 10:], large[0].transpose(1, 2, 0))
    assert not drawn[4:, :10].any()


def test_names_hold_nothing_that_a_path_could_mistake() -> None:
    assert view_name(3, 40, 2, 1, "../a b/<c>") == "ep3_iter40_batch2_image1_a-b-c"
    assert view_name(1, 0, 0, 0, "") == "ep1_iter0_batch0_image0_none"
    assert view_name(1, 0, 0, 0, "κόρη+dog").endswith("_κόρη+dog")


def test_the_checkpoints_of_every_so_many_epochs_are_kept(
    shown: Run, tiny_table: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(str(tiny_recipe), ["training.epochs=4", "training.checkpoint_epochs=2"])
    run = train(recipe, manyhot.open_source(str(tiny_table)), tmp_path / "run")
    assert weights(run) == weights(shown)
    assert sorted(path.name for path in run.checkpoints.glob("epoch-*")) == ["epoch-0002.pt", "epoch-0004.pt"]
    assert load_checkpoint(run.numbered(2))["state"]["epoch"] == 2
    assert run.numbered(4).read_bytes() == run.last.read_bytes()


def test_a_folder_with_a_model_from_elsewhere_is_not_trained_over(
    shown: Run, tiny_table: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    shutil.copytree(shown.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="not trained in it"):
        train(load_recipe(str(tiny_recipe), SHOWN), manyhot.open_source(str(tiny_table)), tmp_path / "run")
