"""What a run tells: TensorBoard events that hold one value a step, and a log file."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from manyhot.runs import Run
from manyhot.training.tracking import Tracker, log_file

LINE = {
    "train_loss": 0.5,
    "val_loss": 0.25,
    "val_map": 0.75,
    "lr": 0.125,
    "lr_backbone": None,
    "images_per_second": 64.0,
    "waited": 0.25,
    "val_ap": {"cat": 0.5, "potted plant": None},
}


def start(run: Run, number: int, first: int, last: int) -> Tracker:
    """One start of a run, left open: the loss at step s is `number + s`, and four steps are an epoch."""
    tracker = Tracker(run, first)
    for step in range(first, last):
        tracker.step(step, number + step)
        if step % 4 == 3:
            tracker.epoch(step, {"val_map": number / 100, "val_ap": {"cat": number / 100}})
    return tracker


def wait_for_the_next_second() -> None:
    """TensorBoard orders files by the second of their start."""
    now = int(time.time())
    while int(time.time()) == now:
        time.sleep(0.02)


def read(run: Run) -> dict[str, dict[int, float]]:
    """Every tag's values by step; a step that holds two values is a failure."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0})
    accumulator.Reload()
    found = {}
    for tag in accumulator.Tags()["scalars"]:
        events = accumulator.Scalars(tag)
        assert len({event.step for event in events}) == len(events), tag
        found[tag] = {event.step: event.value for event in events}
    return found


def test_events_hold_every_number_and_no_missing_one(tmp_path: Path):
    run = Run(tmp_path)
    tracker = Tracker(run, 0)
    for step, loss in enumerate((3.0, 2.0, 1.0)):
        tracker.step(step, loss)
    tracker.epoch(2, LINE)
    tracker.close()
    assert read(run) == {
        "loss/step": {0: 3.0, 1: 2.0, 2: 1.0},
        "loss/train": {2: 0.5},
        "loss/val": {2: 0.25},
        "mAP/val": {2: 0.75},
        "lr/head": {2: 0.125},
        "images_per_second": {2: 64.0},
        "waited": {2: 0.25},
        "AP/cat": {2: 0.5},
    }


def test_an_epoch_can_be_read_while_the_run_goes_on(tmp_path: Path):
    run = Run(tmp_path)
    tracker = Tracker(run, 0)
    try:
        tracker.step(0, 1.0)
        tracker.epoch(0, LINE)
        assert read(run)["mAP/val"] == {0: 0.75}
    finally:
        tracker.close()


def test_a_restart_takes_the_place_of_what_came_after_it(tmp_path: Path):
    run = Run(tmp_path)
    losses: dict[int, float] = {}
    epochs: dict[int, float] = {}
    for number, (first, last) in ((100, (0, 8)), (200, (8, 10)), (300, (3, 9)), (400, (0, 2))):
        start(run, number, first, last).close()
        losses = {step: loss for step, loss in losses.items() if step < first}
        epochs = {step: value for step, value in epochs.items() if step < first}
        losses |= {step: number + step for step in range(first, last)}
        epochs |= {step: number / 100 for step in range(first, last) if step % 4 == 3}
        found = read(run)
        assert found["loss/step"] == losses
        assert found.get("AP/cat", {}) == found.get("mAP/val", {}) == epochs
        wait_for_the_next_second()


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_tracking import Run, start
start(Run(Path(sys.argv[2])), 100, 0, 6)
os._exit(9)
"""


def test_a_killed_start_leaves_a_file_that_the_next_start_follows(tmp_path: Path):
    run = Run(tmp_path)
    code = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(run.path)]
    assert subprocess.run(code, check=False).returncode == 9
    wait_for_the_next_second()
    start(run, 200, 4, 8).close()
    found = read(run)
    assert found["loss/step"] == {step: (100 if step < 4 else 200) + step for step in range(8)}
    assert found["mAP/val"] == {3: 1.0, 7: 2.0}


def fail_within(run: Run) -> None:
    with log_file(run):
        logging.getLogger("manyhot").warning("careful")
        raise ZeroDivisionError


def test_the_log_file_holds_what_is_said_while_it_is_open(tmp_path: Path):
    run, log = Run(tmp_path), logging.getLogger("manyhot")
    former = log.level
    log.setLevel(logging.INFO)
    try:
        log.info("before")
        with log_file(run):
            log.info("größer %d", 1)
        log.info("between")
        with pytest.raises(ZeroDivisionError):
            fail_within(run)
        log.info("after")
    finally:
        log.setLevel(former)
    lines = run.log.read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO größer 1", "WARNING careful"]
