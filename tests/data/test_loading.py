"""Batches: every picture in its turn, whatever the threads, the processes or the moment of resumption."""

from __future__ import annotations

import threading
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manyhot.data.decoding import AHEAD, EvaluationBatches, Loader
from manyhot.data.loading import Batch, Pictures, TrainingBatches
from manyhot.data.manifest import Manifest, Row
from manyhot.data.preparation import Preparation
from manyhot.data.preparing import prepare
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.resizing import Resizing
from manyhot.data.transforms import augmentations
from manyhot.recipe import Input

N = 11
RULES = Preprocessing.from_recipe(Input(size=16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PARTS = tuple(
    augmentations.build({"name": name}) for name in ("random_resized_crop", "horizontal_flip", "color_jitter")
)
LABELS = np.random.default_rng(0).integers(-1, 2, (N, 3)).astype(np.int8)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(N)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return paths


def order(batches) -> list[list[int]]:
    return [[index for _, index in batch] for batch in batches]


def images(batch: Batch) -> torch.Tensor:
    """The pictures of a batch of one crop each, uint8 [B, 3, H, W]."""
    (group,) = batch.groups
    assert group.places.tolist() == list(range(len(batch.indices)))
    (stack,) = group.stacks
    return stack.squeeze(1)


def same(ones: list[Batch], others: list[Batch]) -> bool:
    return len(ones) == len(others) and all(
        torch.equal(one.indices, other.indices)
        and torch.equal(images(one), images(other))
        and torch.equal(one.labels, other.labels)
        and one.damaged == other.damaged
        for one, other in zip(ones, others, strict=True)
    )


def test_batches_are_the_same_whatever_the_workers(files):
    pictures = Pictures(files, LABELS, RULES, PARTS, seed=7)
    epochs = {}
    for workers in (0, 1, 2, None):
        batches = TrainingBatches(N, 3, seed=5)
        loader = Loader(pictures, batches, workers)
        epochs[workers] = []
        for epoch, skip in ((0, 0), (1, 0), (1, 2), (0, 0)):
            batches.start(epoch, skip)
            epochs[workers].append(list(loader))
    for workers in (1, 2, None):
        for one, other in zip(epochs[0], epochs[workers], strict=True):
            assert same(one, other)
    first, second, tail, again = epochs[0]
    assert same(first, again)
    assert same(second[2:], tail)
    assert not same(first, second)


def test_batches_from_a_store_are_the_same_whatever_the_workers_and_as_from_the_files(files, tmp_path):
    rows = [Row(str(i), file.name, "train", LABELS[i]) for i, file in enumerate(files)]
    manifest = Manifest.from_rows(files[0].parent, ["a", "b", "c"], rows, label_rule="")
    stored = prepare(manifest, tmp_path / "store", Preparation(Resizing(None))).manifest.paths
    batches = TrainingBatches(N, 3, seed=5)
    found = []
    for paths, workers in ((files, 0), (stored, 0), (stored, 1), (stored, 3)):
        loader = Loader(Pictures(paths, LABELS, RULES, PARTS, seed=7), batches, workers)
        batches.start(1, 0)
        found.append(list(loader))
    assert all(same(found[0], one) for one in found[1:])


def test_a_batch_is_what_its_keys_say(files):
    pictures = Pictures(files, LABELS, RULES, PARTS, seed=7)
    for batch in Loader(pictures, EvaluationBatches(N, 4), 0):
        assert batch.damaged == ()
        assert (images(batch).dtype, batch.labels.dtype, batch.indices.dtype) == (torch.uint8, torch.int8, torch.int64)
        assert images(batch).shape == (len(batch.indices), 3, 16, 16)
        assert images(batch).is_contiguous(memory_format=torch.channels_last)
        for row, image, labels in zip(batch.indices.tolist(), images(batch), batch.labels, strict=True):
            assert labels.tolist() == LABELS[row].tolist()
            with Image.open(files[row]) as opened:
                wanted = np.asarray(RULES.fit_image(opened.convert("RGB"))).transpose(2, 0, 1)
            np.testing.assert_array_equal(image.numpy(), wanted)


def test_augmentation_depends_on_seed_epoch_and_index_alone(files):
    def made(seed, key):
        return Pictures(files, LABELS, RULES, PARTS, seed)[key][1][0].tobytes()

    assert made(1, (0, 3)) == made(1, (0, 3))
    assert len({made(seed, (epoch, 3)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert made(1, (-1, 3)) == made(2, (-1, 3))
    twins = Pictures([files[0]] * 2, LABELS[:2], RULES, PARTS, 1)
    assert not np.array_equal(twins[0, 0][1], twins[0, 1][1])


def test_labels_of_a_batch_are_a_copy(files):
    labels = LABELS.copy()
    for batch in Loader(Pictures(files, labels, RULES), EvaluationBatches(N, 4), 0):
        batch.labels.fill_(1)
    np.testing.assert_array_equal(labels, LABELS)


sizes = st.integers(1, 60)


@settings(deadline=None)
@given(n=sizes, batch_size=st.integers(1, 20), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 1000))
def test_an_epoch_sees_every_picture_once_in_full_batches(n, batch_size, seed, epoch):
    batches = TrainingBatches(n, batch_size, seed)
    batches.start(epoch, 0)
    found = order(batches)
    assert sorted(chain.from_iterable(found)) == list(range(n))
    assert len(batches) == len(found)
    lengths = [len(batch) for batch in found]
    assert all(length == batch_size for length in lengths[:-1])
    assert lengths[-1] <= batch_size + 1
    if batch_size > 1 and n > 1:
        assert lengths[-1] > 1
    assert {key[0] for batch in batches for key in batch} == {epoch}


def test_a_last_batch_of_one_joins_the_one_before():
    assert [len(batch) for batch in TrainingBatches(9, 4, 0)] == [4, 5]
    assert [len(batch) for batch in TrainingBatches(10, 4, 0)] == [4, 4, 2]
    assert [len(batch) for batch in TrainingBatches(1, 4, 0)] == [1]
    assert [len(batch) for batch in TrainingBatches(3, 1, 0)] == [1, 1, 1]


@settings(deadline=None)
@given(n=sizes, batch_size=st.integers(1, 20), seed=st.integers(0, 99), data=st.data())
def test_starting_late_gives_the_tail(n, batch_size, seed, data):
    batches = TrainingBatches(n, batch_size, seed)
    batches.start(3, 0)
    whole = order(batches)
    skip = data.draw(st.integers(0, len(whole)))
    other = TrainingBatches(n, batch_size, seed)
    other.start(3, skip)
    assert order(other) == whole[skip:]
    assert len(other) == len(whole)


def test_order_depends_on_seed_and_epoch():
    def shuffled(seed, epoch):
        batches = TrainingBatches(30, 4, seed)
        batches.start(epoch, 0)
        return tuple(chain.from_iterable(order(batches)))

    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    first = shuffled(0, 0)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert shuffled(0, 0) == first
    assert len({shuffled(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


@settings(deadline=None)
@given(n=sizes, batch_size=st.integers(1, 20), world=st.integers(1, 5))
def test_ranks_share_out_each_global_batch(n, batch_size, world):
    whole = order(TrainingBatches(n, batch_size, 1))
    shares = [order(TrainingBatches(n, batch_size, 1, rank, world)) for rank in range(world)]
    for place, batch in enumerate(whole):
        parts = [share[place] for share in shares]
        counts = [len(range(rank, len(batch), world)) for rank in range(world)]
        assert sorted(chain.from_iterable(part[:count] for part, count in zip(parts, counts, strict=True))) == sorted(
            batch
        )
        assert all(part == batch[:1] for part, count in zip(parts, counts, strict=True) if not count)
        assert all(len(part) == max(1, count) for part, count in zip(parts, counts, strict=True))
        assert TrainingBatches(n, batch_size, 1, 0, world).size(place) == len(batch)
    assert {len(share) for share in shares} == {len(whole)}


@settings(deadline=None)
@given(n=st.integers(0, 60), batch_size=st.integers(1, 20), world=st.integers(1, 5))
def test_evaluation_sees_every_picture_once_on_any_number_of_processes(n, batch_size, world):
    seen = []
    for rank in range(world):
        batches = EvaluationBatches(n, batch_size, rank, world)
        found = order(batches)
        assert len(batches) == len(found)
        assert all(0 < len(batch) <= batch_size for batch in found)
        seen += list(chain.from_iterable(found))
        assert {key[0] for batch in batches for key in batch} <= {-1}
    assert sorted(seen) == list(range(n))
    assert order(EvaluationBatches(n, batch_size)) == [
        list(range(start, min(n, start + batch_size))) for start in range(0, n, batch_size)
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named_beside_its_neighbours(files, tmp_path, workers):
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(files[0].read_bytes()[:200])
    paths = [files[0], broken, files[1], missing, missing]
    batches = list(Loader(Pictures(paths, LABELS[:5], RULES), EvaluationBatches(5, 3), workers))
    assert [batch.indices.tolist() for batch in batches] == [[0, 2], []]
    assert [[row for row, _ in batch.damaged] for batch in batches] == [[1], [3, 4]]
    assert all(reason for batch in batches for _, reason in batch.damaged)
    np.testing.assert_array_equal(batches[0].labels.numpy(), LABELS[[0, 2]])
    assert images(batches[0]).shape == (2, 3, 16, 16)
    assert batches[1].groups == ()
    assert [batch.labels.shape for batch in batches] == [(2, 3), (0, 3)]


def test_threads_end_when_the_iteration_ends_or_is_left(files):
    before = threading.active_count()
    loader = Loader(Pictures(files, LABELS, RULES), EvaluationBatches(N, 2), workers=2)
    iteration = iter(loader)
    next(iteration)
    assert threading.active_count() > before
    iteration.close()
    assert threading.active_count() == before
    assert len(list(loader)) == 6
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_runs_ahead_by_a_few_batches_only(files, workers):
    taken = []

    class Watched(EvaluationBatches):
        def __iter__(self):
            for keys in super().__iter__():
                taken.append(keys)
                yield keys

    for place, _ in enumerate(Loader(Pictures(files, LABELS, RULES), Watched(N, 1), workers)):
        assert len(taken) <= place + 1 + (AHEAD if workers else 0)
    assert len(taken) == N


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_no_damage_is_not_swallowed(files, workers):
    class Failing(Pictures):
        def __getitem__(self, key):
            raise MemoryError

    with pytest.raises(MemoryError):
        list(Loader(Failing(files, LABELS, RULES), EvaluationBatches(N, 4), workers))
