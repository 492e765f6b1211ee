"""A run killed at any moment and resumed ends with the same weights, bit for bit. Real processes, real signals."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, ScalarEvent

from manyhot.atomic import sha256_file
from manyhot.runs import Run

EPOCHS = "training.epochs=12"


def start(recipe: Path, table: Path, out: Path, *extra: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "manyhot", "train", str(recipe), "--data", str(table), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--set", EPOCHS, *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def wait_until_training(process: subprocess.Popen[str], run: Path, steps: int) -> None:
    """Until the run has logged more than `steps` checkpoints' worth of work in this process, or has ended."""
    log = run / "log.txt"
    before = log.read_text().count("training on") if log.exists() else 0
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_text().count("training on") > before:
            return
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(tiny_table: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    out = tmp_path_factory.mktemp("whole") / "run"
    process = start(tiny_recipe, tiny_table, out)
    wait_until_training(process, out, 0)
    began = time.monotonic()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return out, time.monotonic() - began


def test_sigkill_at_five_random_moments(
    uninterrupted: tuple[Path, float], tiny_table: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    whole, seconds = uninterrupted
    out = tmp_path / "killed"
    rng = random.Random()
    kills = 0
    for _ in range(5):
        process = start(tiny_recipe, tiny_table, out)
        wait_until_training(process, out, 0)
        time.sleep(rng.uniform(0, seconds / 3))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 1
    process = start(tiny_recipe, tiny_table, out)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert sha256_file(out / "model" / "weights.safetensors") == sha256_file(whole / "model" / "weights.safetensors")
    histories = [Run(run).read_history() for run in (out, whole)]
    for line in (*histories[0], *histories[1]):
        del line["seconds"], line["images_per_second"], line["waited"]
    assert histories[0] == histories[1]
    for tag, events in scalars(whole).items():
        found = scalars(out)[tag]
        assert [event.step for event in found] == [event.step for event in events], tag
        if tag not in {"images_per_second", "waited"}:
            assert [event.value for event in found] == [event.value for event in events], tag


def scalars(run: Path) -> dict[str, list[ScalarEvent]]:
    """TensorBoard's values by tag, as TensorBoard itself reads them."""
    accumulator = EventAccumulator(str(Run(run).tensorboard), {"scalars": 0})
    accumulator.Reload()
    return {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_polite_signal_saves_and_the_run_resumes(
    uninterrupted: tuple[Path, float], tiny_table: Path, tiny_recipe: Path, tmp_path: Path, signum: int, code: int
) -> None:
    whole, seconds = uninterrupted
    out = tmp_path / "stopped"
    process = start(tiny_recipe, tiny_table, out)
    wait_until_training(process, out, 0)
    time.sleep(seconds / 4)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert "everything is saved" in output
    assert "Traceback" not in output
    process = start(tiny_recipe, tiny_table, out)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert sha256_file(out / "model" / "weights.safetensors") == sha256_file(whole / "model" / "weights.safetensors")


def test_two_processes_cannot_write_one_folder(tiny_table: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "contested"
    first = start(tiny_recipe, tiny_table, out, "--set", "training.epochs=1000")
    wait_until_training(first, out, 0)
    second = start(tiny_recipe, tiny_table, out, "--set", "training.epochs=1000")
    output, _ = second.communicate(timeout=120)
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "another process is writing" in output
