"""Several processes compute what one computes; one that dies ends them all. Real processes, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import manyhot
from manyhot import processes
from manyhot.cli import app
from manyhot.errors import UserError
from manyhot.models.global_batch import GlobalBatch
from manyhot.predictions import Predictions
from manyhot.processes import Place
from manyhot.recipe import load_recipe
from manyhot.runs import Run
from manyhot.training.losses import losses

# Adam divides by the size of the gradient: where that is rounding alone, so is its step.
PLAIN = ["training.epochs=2", "optimizer={name: sgd, lr: 0.01}", "evaluation.batch_size=5", "evaluation.resamples=0"]
ONE_EPOCH = [*PLAIN, "training.epochs=1", "training.freeze_epochs=0"]
RECIPES = {
    "plain": PLAIN,
    "mixed": [*ONE_EPOCH, "training.mix=cutmix", "loss={name: bce, reduction: sum}", "training.batch_size=5"],
    "features": [*ONE_EPOCH, "model.frozen=true", "training.views=2"],
    "solved": [
        *ONE_EPOCH, "model.frozen=true", "training.views=2", "training.solver=lbfgs", "training.ema=null",
        "model.dropout=0",
    ],
}  # fmt: skip


def start(processes: int, *command: str) -> subprocess.Popen[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*launcher, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


@pytest.fixture(scope="module")
def odd_table(tiny_table: Path) -> Path:
    """`tiny_table` with 26 train, 11 val and 11 test pictures."""
    lines = tiny_table.read_text().splitlines()
    path = tiny_table.with_name("odd.csv")
    path.write_text("\n".join(line for i, line in enumerate(lines) if i not in (27, 39)) + "\n")
    return path


@pytest.fixture(scope="module")
def folders(odd_table: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs of RECIPES by one process and by three, of whose last batch of two pictures the third has none."""
    one, three = (tmp_path_factory.mktemp(name) for name in ("one", "three"))
    script = Path(__file__).with_name("together.py")
    process = start(3, str(script), str(three), str(odd_table), str(tiny_recipe), json.dumps(RECIPES))
    try:
        for name, changes in RECIPES.items():
            manyhot.train(load_recipe(str(tiny_recipe), changes), manyhot.open_source(str(odd_table)), one / name)
        manyhot.evaluate(one / "plain", "test")
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return one, three


@pytest.mark.parametrize("name", RECIPES)
def test_three_processes_compute_what_one_computes(name: str, folders: tuple[Path, Path]) -> None:
    one, three = (load_file(folder / name / "model" / "weights.safetensors") for folder in folders)
    assert one.keys() == three.keys()
    for key, wanted in one.items():
        torch.testing.assert_close(three[key], wanted, atol=1e-5, rtol=1e-5)
    first, second = (Run(folder / name).read_history() for folder in folders)
    assert len(first) == len(second) == (2 if name == "plain" else 1)
    for mine, theirs in zip(first, second, strict=True):
        for key in ("train_loss", "val_loss", "val_map", "val_ap", "lr", "step"):
            assert theirs[key] == pytest.approx(mine[key], abs=1e-5), key


def test_evaluation_counts_every_picture_once(folders: tuple[Path, Path], odd_table: Path) -> None:
    one, three = (folder / "plain" / "evaluation" / "test" for folder in folders)
    tables = [Predictions.load(folder / "predictions.parquet") for folder in (one, three)]
    assert tables[0].ids == tables[1].ids == tuple(manyhot.open_source(str(odd_table)).split("test").ids)
    assert len(tables[1]) == 11
    np.testing.assert_allclose(tables[1].scores, tables[0].scores, atol=1e-5)
    found, wanted = (json.loads((folder / "metrics.json").read_text()) for folder in (three, one))
    for key in ("map", "loss", "n_images", "accuracy"):
        assert found[key] == pytest.approx(wanted[key], abs=1e-5), key


def wait_for(pattern: str, log: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not (log.exists() and re.search(pattern, log.read_text())):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def worker(parent: int, rank: int) -> int:
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"PPid:\t{parent}\n" in status.read_text():
                environment = (status.parent / "environ").read_bytes().split(b"\0")
                if f"RANK={rank}".encode() in environment:
                    return int(status.parent.name)
        except OSError:
            continue
    raise AssertionError(f"no process {rank}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the workers in /proc")
def test_a_signal_saves_a_killed_process_ends_all_and_the_run_resumes(
    tiny_table: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train = ("-m", "manyhot", "train", str(tiny_recipe), "--data", str(tiny_table), "--out", str(out))
    train += ("--set", "training.epochs=5000", "--set", "training.freeze_epochs=5000")
    process = start(2, *train)
    try:
        wait_for("epoch 2:", out / "log.txt", process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
        assert output.count("stopped; everything is saved. Continue with the same command.") == 1, output
        done = len(Run(out).read_history())

        process = start(2, *train)
        wait_for(f"epoch {done + 1}:", out / "log.txt", process)
        os.kill(worker(process.pid, 1), signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert f"resuming after {done} epochs" in output
    assert output.count("error: process 1 of 2 has died: the run stops. Continue with the same command.") == 1, output
    assert process.returncode != 0
    history = Run(out).read_history()
    assert len(history) > done
    assert [line["epoch"] for line in history] == list(range(1, len(history) + 1))


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_place", Place(1, 2, 1, 2))


@pytest.mark.usefixtures("second_of_two")
def test_other_verbs_are_the_work_of_one_process() -> None:
    with pytest.raises(UserError, match="`manyhot recipes` is the work of one process"):
        app(["recipes"], standalone_mode=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["training.batch_size=1"], "a batch of 1 pictures has none for some of 2 processes"),
        (["input.crops={name: scales, sizes: [32]}", "input.fit=crop", "input.augment=[]"], "crops of several shapes"),
        (["training.compile=true"], "training.compile does not go with BatchNorm over several processes"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(
    changes: list[str], message: str, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from manyhot.training.refusals import refuse_for_several

    monkeypatch.setattr(processes, "_place", Place(0, 2, 0, 2))
    with pytest.raises(UserError, match=message):
        refuse_for_several(load_recipe(str(tiny_recipe), changes), torch.nn.BatchNorm2d(3), 26)


NO_NORM = ["model.backbone=torchvision/squeezenet1_1", "model.feature_norm=false", "training.batch_size=7"]


@pytest.mark.parametrize("mix", ["null", "cutmix"])
def test_accumulation_gives_the_gradient_of_the_whole_batch(
    mix: str, tiny_table: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    weights = []
    for parts in (1, 3):
        changes = [*ONE_EPOCH, *NO_NORM, f"training.mix={mix}", f"training.accumulate={parts}"]
        recipe = load_recipe(str(tiny_recipe), changes)
        run = manyhot.train(recipe, manyhot.open_source(str(tiny_table)), tmp_path / f"{parts}")
        weights.append(load_file(run.model / "weights.safetensors"))
    for key, wanted in weights[0].items():
        torch.testing.assert_close(weights[1][key], wanted, atol=1e-5, rtol=1e-5)


def test_a_compiled_run_has_the_same_names_and_resumes(
    tiny_table: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Everything but the code generator, which takes a minute and rounds otherwise.
    compile_by = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compile_by(self, backend="eager", **how))
    manifest, changes = manyhot.open_source(str(tiny_table)), [*ONE_EPOCH, "training.checkpoint_steps=null"]
    plain = manyhot.train(load_recipe(str(tiny_recipe), changes), manifest, tmp_path / "plain")
    compiled = load_recipe(str(tiny_recipe), [*changes, "training.compile=true"])
    run = manyhot.train(compiled, manifest, tmp_path / "compiled")
    manyhot.train(compiled, manifest, tmp_path / "compiled", resume=True)
    one, other = (load_file(each.model / "weights.safetensors") for each in (plain, run))
    assert one.keys() == other.keys()
    for key, wanted in one.items():
        torch.testing.assert_close(other[key], wanted, atol=1e-5, rtol=1e-5)
    assert manyhot.load(run.path).classes == manifest.classes


@given(
    size=st.integers(2, 9),
    parts=st.integers(1, 4),
    crops=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_masks_of_parts_are_those_of_the_whole_batch(size: int, parts: int, crops: int, seed: int) -> None:
    x = torch.ones(size * crops, 5)
    dropout = torch.nn.Dropout(0.5)
    torch.manual_seed(seed)
    wanted = dropout(x).view(size, crops, 5)
    for part in range(parts):
        places = torch.arange(size)[part::parts]
        if len(places):
            torch.manual_seed(seed)
            with GlobalBatch(size, places, size):
                found = dropout(x[: len(places) * crops])
            assert torch.equal(found.view(-1, crops, 5), wanted[places])


@given(
    labels=st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=3, max_size=3), min_size=2, max_size=6),
    cut=st.integers(0, 6),
    name=st.sampled_from(["bce", "focal", "asymmetric", "cross_entropy"]),
    seed=st.integers(0, 99),
)
def test_a_loss_is_the_totals_of_its_parts_by_their_weights(
    labels: list[list[int]], cut: int, name: str, seed: int
) -> None:
    targets = torch.tensor(labels, dtype=torch.int8)
    logits = torch.randn(targets.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loss = losses.build({"name": name})
    parts = [(logits[:cut], targets[:cut]), (logits[cut:], targets[cut:])]
    parts = [(x, y) for x, y in parts if len(x)]
    total = sum(loss.total(x, y) for x, y in parts)
    weight = sum(int(loss.weight(y)) for _, y in parts)
    torch.testing.assert_close(loss.compute(logits, targets), total / max(1, weight))
