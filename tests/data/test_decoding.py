"""Processes that decode: the same batches as threads, whatever becomes of the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from manyhot.data import patience
from manyhot.data.decoding import EvaluationBatches, Loader
from manyhot.data.decoding_processes import Decoder, DecodingProcesses, serve
from manyhot.data.loading import Batch, Pictures, TrainingBatches
from manyhot.data.manifest import Manifest, Row
from manyhot.data.patience import Patience
from manyhot.data.preparation import Preparation
from manyhot.data.preparing import prepare
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.resizing import Resizing
from manyhot.data.transforms import augmentations
from manyhot.recipe import Input

N, BATCH = 23, 4
LABELS = np.random.default_rng(0).integers(0, 2, (N, 3)).astype(np.int8)
RULES = Preprocessing.from_recipe(Input(size=16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PARTS = tuple(
    augmentations.build({"name": name}) for name in ("random_resized_crop", "horizontal_flip", "color_jitter")
)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(N)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture(scope="module")
def stored(files, tmp_path_factory) -> list[Path]:
    rows = [Row(str(number), file.name, "train", LABELS[number]) for number, file in enumerate(files)]
    manifest = Manifest.from_rows(files[0].parent, ["a", "b", "c"], rows, label_rule="")
    return prepare(manifest, tmp_path_factory.mktemp("store") / "store", Preparation(Resizing(None))).manifest.paths


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(patience, "PATIENCE_SHARE", 0.0)


def epoch_of(loader: Loader, epoch: int) -> list[Batch]:
    loader.batches.start(epoch, 0)
    return list(loader)


def with_processes(paths: list[Path]) -> Loader:
    """A loader whose processes have taken over."""
    loader = Loader(Pictures(paths, LABELS, RULES, PARTS, seed=7), TrainingBatches(N, BATCH, seed=5), workers=2)
    deadline = time.monotonic() + 60
    while not loader.has_processes:
        assert time.monotonic() < deadline, "the processes did not start"
        epoch_of(loader, 0)
    return loader


def assert_same(ones: list[Batch], others: list[Batch]) -> None:
    for one, other in zip(ones, others, strict=True):
        torch.testing.assert_close(one.indices, other.indices, rtol=0, atol=0)
        torch.testing.assert_close(one.labels, other.labels, rtol=0, atol=0)
        for group, twin in zip(one.groups, other.groups, strict=True):
            assert [stack.stride() for stack in group.stacks] == [stack.stride() for stack in twin.stacks]
            torch.testing.assert_close(group.stacks, twin.stacks, rtol=0, atol=0)


def pids(loader: Loader) -> list[int]:
    return [process.pid for process, _ in loader._processes._workers]


@pytest.fixture
def wanted(stored) -> list[list[Batch]]:
    alone = Loader(Pictures(stored, LABELS, RULES, PARTS, seed=7), TrainingBatches(N, BATCH, seed=5), workers=0)
    return [epoch_of(alone, epoch) for epoch in range(3)]


@pytest.mark.usefixtures("impatient")
def test_processes_give_the_batches_of_threads_and_survive_what_readers_do(stored, wanted, caplog):
    loader = with_processes(stored)
    for epoch in range(3):
        assert_same(epoch_of(loader, epoch), wanted[epoch])
        loader.batches.start(epoch, 0)
        for batch, twin in zip(loader, wanted[epoch], strict=True):  # one after the other in the same memory
            assert_same([batch], [twin])

    loader.batches.start(1, 0)
    left = iter(loader)
    next(left)
    left.close()  # what was asked for ahead must not show up in the next pass
    assert_same(epoch_of(loader, 2), wanted[2])

    loader.batches.start(1, 0)
    pairs = list(zip(loader, loader, strict=True))
    for side in zip(*pairs, strict=True):
        assert_same(list(side), wanted[1])
    del pairs, side  # their memory is not used again before

    os.kill(pids(loader)[1], signal.SIGKILL)
    for epoch in range(3):
        assert_same(epoch_of(loader, epoch), wanted[epoch])
    assert not loader.has_processes
    assert "a process that decodes pictures has ended; threads go on" in caplog.text


@pytest.mark.usefixtures("impatient")
def test_processes_end_with_their_loader(stored):
    loader = with_processes(stored)
    workers = [process for process, _ in loader._processes._workers]
    del loader
    assert [process.returncode for process in workers] == [-signal.SIGKILL] * 2


SCRIPT = """
import sys, time, numpy as np
from pathlib import Path
from manyhot.data import patience
from manyhot.data.decoding import EvaluationBatches, Loader
from manyhot.data.loading import Pictures
from manyhot.data.preprocessing import Preprocessing
from manyhot.recipe import Input
patience.PATIENCE_SECONDS = patience.PATIENCE_SHARE = 0.0
paths = [Path(name) for name in sys.argv[1:]]
rules = Preprocessing.from_recipe(Input(size=16), (0.5,) * 3, (0.5,) * 3)
loader = Loader(Pictures(paths, np.zeros((len(paths), 1), np.int8), rules), EvaluationBatches(len(paths), 4), 2)
while not loader.has_processes:
    list(loader)
print(*(process.pid for process, _ in loader._processes._workers), flush=True)
while True:
    list(loader)
"""


def test_a_script_needs_no_guard_and_nothing_is_left_of_it_when_it_is_killed(stored):
    command = [sys.executable, "-c", SCRIPT, *map(str, stored)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as script:
        workers = [int(word) for word in script.stdout.readline().split()]
        assert len(workers) == 2
        script.kill()
    deadline = time.monotonic() + 30
    while any(_is_alive(worker) for worker in workers):
        assert time.monotonic() < deadline, "a process goes on without its parent"
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split()[2] != "Z"


@pytest.mark.usefixtures("impatient")
def test_picture_files_stay_with_threads(files):
    loader = Loader(Pictures(files, LABELS, RULES), EvaluationBatches(N, BATCH), workers=2)
    for _ in range(3):
        list(loader)
    assert loader._processes is None


def test_what_processes_cannot_do_is_left_to_the_caller(files, tmp_path):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no picture")
    decoder = Decoder(RULES)
    shape = (1, 16, 16, 3)
    processes = DecodingProcesses(decoder, 2, shape, 3, 2)
    try:
        deadline = time.monotonic() + 60
        while not processes.ready:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert processes.ask([(str(path), -1, 0) for path in (files[0], damaged, files[1], files[2])])
        found = processes.collect()
        for _ in range(2):
            assert processes.ask([(str(path), -1, 0) for path in files[:3]])
        assert not processes.ask([(str(files[0]), -1, 0)])  # no room
        first, second = processes.collect(), processes.collect()
        assert not processes.ask([(str(files[0]), -1, 0)])  # both are still in use
        del second
        assert processes.ask([(str(files[0]), -1, 0)])
        np.testing.assert_array_equal(first[:, 0], np.stack([decoder.decode(path, -1, 0)[0] for path in files[:3]]))
    finally:
        processes.close()
    np.testing.assert_array_equal(found[0], decoder.decode(files[0], -1, 0))
    assert found[1] == decoder.decode(damaged, -1, 0)
    np.testing.assert_array_equal(found[2], decoder.decode(files[1], -1, 0))
    assert found[3] is None  # more than there is room for
    assert not processes.ready


def test_serving_answers_each_picture_in_one_way(files, tmp_path):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no picture")
    memory = np.zeros((3, 1, 16, 16, 3), np.uint8)

    class Odd(Decoder):
        def decode(self, path, epoch, number):
            if number == 1:
                raise MemoryError
            found = super().decode(path, epoch, number)
            return [view[1:] for view in found] if number == 2 else found

    ours, theirs = Pipe()
    thread = threading.Thread(target=serve, args=(theirs, Odd(RULES), memory))
    thread.start()
    assert ours.recv() is True
    ours.send((1, [(str(files[3]), -1, 0), (str(files[4]), -1, 1)]))
    assert ours.recv() == [True, None]
    ours.send((0, [(str(files[3]), -1, 2), (str(damaged), -1, 0)]))
    unlike, reason = ours.recv()
    assert unlike is None
    assert reason == Decoder(RULES).decode(damaged, -1, 0)
    ours.close()
    thread.join(10)
    assert not thread.is_alive()
    np.testing.assert_array_equal(memory[1], Decoder(RULES).decode(files[3], -1, 0))


def test_patience_is_a_share_of_lately(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(patience.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 10.0)

    def batch(lasting: Patience, work: float, wait: float) -> None:
        clock[0] += work
        with lasting:
            clock[0] += wait

    lasting = Patience()
    lasting.start()
    batch(lasting, 1.0, 1.0)
    assert not lasting.is_over  # too early to tell
    batch(lasting, 3.5, 0.0)
    assert lasting.is_over
    for _ in range(5):
        batch(lasting, 10.0, 0.0)
    assert not lasting.is_over  # the start is forgotten
    clock[0] += 1000.0
    lasting.start()  # time between passes does not count
    for _ in range(3):
        batch(lasting, 10.0, 0.5)
    assert lasting.is_over
