"""Features kept on disk come back as float16 of what went in, whatever kills, damages or fills the disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from manyhot.data.images import DamagedImage
from manyhot.errors import UserError
from manyhot.inference import feature_store
from manyhot.inference.feature_store import FeatureStore, digests, store_key, weights_digest

WIDTH = 3


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def feature(number: int, crops: int = 2) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(crops, WIDTH)).astype(np.float32)


def fill(folder: Path, *numbers: int) -> FeatureStore:
    store = FeatureStore(folder, WIDTH)
    store.add([digest(n) for n in numbers], [feature(n) for n in numbers])
    return store


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


features = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.just(WIDTH)), elements=st.floats(-60000, 60000, width=32)
)
additions = st.lists(st.tuples(st.integers(0, 9), features), max_size=5)


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.tuples(additions, st.lists(st.integers(0, 9), max_size=6), st.booleans()), max_size=5),
    limit=st.sampled_from([0, 1 << 20]),
)
def test_what_is_read_is_float16_of_what_was_added_first(steps, limit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "key"
    kept: dict[int, np.ndarray] = {}
    store = FeatureStore(folder, WIDTH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_store, "_IN_MEMORY_BYTES", limit)
        for added, wanted, reopened in steps:
            store.add([digest(n) for n, _ in added], [f for _, f in added])
            for number, one in dict(reversed(added)).items():
                kept.setdefault(number, one.astype(np.float16))
            if reopened:
                store = FeatureStore(folder, WIDTH)
            assert len(store) == len(kept)
            unknown = {n: place for place, n in reversed(list(enumerate(wanted))) if n not in kept}
            assert store.missing([digest(n) for n in wanted]) == sorted(unknown.values())
            known = [n for n in wanted if n in kept]
            read = store.read([digest(n) for n in known])
            assert len(read) == len(known)
            assert read.counts.dtype == np.int64
            assert read.counts.tolist() == [len(kept[n]) for n in known]
            rows = [*range(len(known))[::-2], *range(len(known))]
            found, counts = read.gather(rows)
            assert found.dtype == np.float16
            assert counts.tolist() == [len(kept[known[row]]) for row in rows]
            pieces = np.split(found, counts.cumsum()[:-1]) if rows else []
            for row, piece in zip(rows, pieces, strict=True):
                np.testing.assert_array_equal(piece, kept[known[row]])


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_dense_is_the_features_of_pictures_with_equally_many_crops(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(feature_store, "_IN_MEMORY_BYTES", limit)
    fill(tmp_path, 1, 2)
    store = fill(tmp_path, 3)
    dense = store.read([digest(n) for n in (3, 1, 2, 3)]).dense()
    np.testing.assert_array_equal(dense, np.stack([feature(n) for n in (3, 1, 2, 3)]).astype(np.float16))
    assert store.read([]).dense().shape == (0, 1, WIDTH)
    store.add([digest(4)], [feature(4, crops=1)])
    with pytest.raises(AssertionError, match="different numbers of crops"):
        store.read([digest(1), digest(4)]).dense()


def test_what_another_process_added_is_seen(tmp_path):
    first, second = FeatureStore(tmp_path, WIDTH), FeatureStore(tmp_path, WIDTH)
    first.add([digest(1)], [feature(1)])
    with pytest.raises(KeyError):
        second.read([digest(1)])
    assert second.missing([digest(1), digest(2), digest(1), digest(2)]) == [1]
    np.testing.assert_array_equal(second.read([digest(1)]).dense()[0], feature(1).astype(np.float16))


def test_the_folder_appears_with_the_first_features_and_says_what_they_are(tmp_path):
    folder = tmp_path / "features" / "key"
    store = FeatureStore(folder, WIDTH, {"backbone": "squeezenet", "größe": 320})
    store.add([], [])
    assert store.missing([digest(1)]) == [0]
    assert not folder.exists()
    store.add([digest(1)], [feature(1)])
    store.add([digest(2), digest(1)], [feature(2), feature(1)])
    assert json.loads((folder / "info.json").read_text(encoding="utf-8")) == {"backbone": "squeezenet", "größe": 320}
    assert len(list(folder.iterdir())) == 3  # two files of features, nothing temporary


def test_only_what_a_killed_writer_left_long_ago_is_removed(tmp_path):
    old, young = tmp_path / ".old.safetensors.tmp", tmp_path / ".young.safetensors.tmp"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert FeatureStore(tmp_path, WIDTH).missing([digest(1)]) == [0]
    assert list(tmp_path.iterdir()) == [young]


@settings(deadline=None, max_examples=100)
@given(place=st.integers(0, 10_000), change=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_file_is_named_once_and_computed_again(place, change, cut, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    fill(folder, 1, 2)
    (path,) = files(folder)
    fill(folder, 3)
    content = bytearray(path.read_bytes())
    place %= len(content)
    if cut:
        del content[place:]
    else:
        content[place] ^= change
    path.write_bytes(content)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    feature_store.log.addHandler(handler)
    try:
        store = FeatureStore(folder, WIDTH)
        assert store.missing([digest(n) for n in (1, 2, 3)]) == [0, 1]
        store.add([digest(1), digest(2)], [feature(1), feature(2)])
        assert store.missing([digest(n) for n in (1, 2, 3)]) == []
    finally:
        feature_store.log.removeHandler(handler)
    assert len(lines) == 1
    assert str(path) in lines[0]
    wanted = np.stack([feature(n) for n in (1, 2, 3)]).astype(np.float16)
    np.testing.assert_array_equal(store.read([digest(n) for n in (1, 2, 3)]).dense(), wanted)


def test_features_of_another_width_are_no_features_of_this_store(tmp_path, caplog):
    fill(tmp_path, 1)
    assert FeatureStore(tmp_path, WIDTH + 1).missing([digest(1)]) == [0]
    assert len(warnings_in(caplog)) == 1
    assert "3 numbers a row in place of 4" in caplog.text


@pytest.mark.parametrize("value", [65520.0, -1e6, np.inf, np.nan])
def test_a_feature_that_float16_cannot_hold_is_refused_by_name(tmp_path, value):
    store = FeatureStore(tmp_path, WIDTH)
    bad = feature(2)
    bad[1, 1] = value
    with pytest.raises(UserError, match=r"^cat\.jpg: .*65504"):
        store.add([digest(1), digest(2)], [feature(1), bad], ["dog.jpg", "cat.jpg"])
    with pytest.raises(UserError, match=digest(2)):
        store.add([digest(2)], [bad])
    assert store.missing([digest(1)]) == [0]
    store.add([digest(3)], [np.full((1, WIDTH), 65519, np.float32)])  # rounds to 65504
    assert store.read([digest(3)]).dense().max() == 65504


def test_a_cache_that_cannot_be_written_is_warned_of_once_and_features_stay_in_memory(tmp_path, caplog):
    (tmp_path / "file").touch()
    store = FeatureStore(tmp_path / "file" / "key", WIDTH)
    for number in (1, 2):
        store.add([digest(number)], [feature(number)])
    assert store.missing([digest(1), digest(2)]) == []
    np.testing.assert_array_equal(store.read([digest(2)]).dense()[0], feature(2).astype(np.float16))
    assert len(warnings_in(caplog)) == 1
    assert "only in memory" in caplog.text


def test_a_full_disk_is_warned_of_once_and_leaves_nothing_half_written(tmp_path, caplog):
    resource = pytest.importorskip("resource")
    store = fill(tmp_path, 1)
    # A limit on the size of files stands for a full disk: both are an OSError in the middle of a write.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
        store.add([digest(2)], [feature(2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    store.add([digest(3)], [feature(3)])
    assert store.missing([digest(n) for n in (1, 2, 3)]) == []
    assert len(warnings_in(caplog)) == 1
    assert len(files(tmp_path)) == 1
    assert not list(tmp_path.glob(".*"))
    assert FeatureStore(tmp_path, WIDTH).missing([digest(n) for n in (1, 2, 3)]) == [1, 2]


# Each line on stdin, "FIRST END", starts a process that adds pictures FIRST…END - 1 and says so after each.
WRITERS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_feature_store import WIDTH, FeatureStore, digest, feature
print("ready", flush=True)
for line in sys.stdin:
    first, end = map(int, line.split())
    process = os.fork()
    if process == 0:
        store = FeatureStore(Path(sys.argv[2]), WIDTH)
        os.write(1, f"process {os.getpid()}\\n".encode())
        for number in range(first, end):
            store.add([digest(number)], [feature(number)])
            os.write(1, f"{number}\\n".encode())
        os._exit(0)
    print("ended", os.waitpid(process, 0)[1], flush=True)
"""


def start_writers(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITERS, str(Path(__file__).parent), str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def ask(process: subprocess.Popen[str], first: int, end: int) -> int:
    """Start a process that writes, and give its number."""
    process.stdin.write(f"{first} {end}\n")
    process.stdin.flush()
    return int(process.stdout.readline().removeprefix("process "))


@pytest.mark.skipif(os.name != "posix", reason="fork")
def test_two_processes_that_add_the_same_pictures_do_each_other_no_harm(tmp_path, caplog):
    writers = [start_writers(tmp_path / "key") for _ in range(2)]
    for one in writers:
        one.stdin.write("0 40\n")
        one.stdin.flush()
    for one in writers:
        output, _ = one.communicate(timeout=60)
        assert output.splitlines()[-1] == "ended 0"
        assert one.returncode == 0
    store = FeatureStore(tmp_path / "key", WIDTH)
    wanted = np.stack([feature(n) for n in range(40)]).astype(np.float16)
    np.testing.assert_array_equal(store.read([digest(n) for n in range(40)]).dense(), wanted)
    assert warnings_in(caplog) == []
    assert [path.name for path in (tmp_path / "key").iterdir() if path.suffix != ".safetensors"] == ["info.json"]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_kill_at_any_moment_loses_at_most_the_file_in_writing(tmp_path, caplog):
    rng = random.Random(3)
    said: list[int] = []
    kills = 25
    with start_writers(tmp_path) as writers:
        for kill in range(kills):
            number = ask(writers, kill * 1000, kill * 1000 + 1000)
            said += [int(writers.stdout.readline()) for _ in range(kill % 4)]
            time.sleep(rng.uniform(0, 0.01))
            os.kill(number, signal.SIGKILL)
            while (line := writers.stdout.readline().split())[0] != "ended":
                said.append(int(line[0]))
            assert line[1] == str(int(signal.SIGKILL))
            store = FeatureStore(tmp_path, WIDTH)
            assert store.missing([digest(n) for n in said]) == []
            assert len(said) <= len(store) <= len(said) + kill + 1
        writers.stdin.close()
    assert len(said) > kills
    wanted = np.stack([feature(n) for n in said]).astype(np.float16)
    np.testing.assert_array_equal(store.read([digest(n) for n in said]).dense(), wanted)
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("workers", [None, 1])
def test_digests_are_those_of_the_content_in_order(tmp_path, workers):
    paths = [tmp_path / f"{n}.jpg" for n in range(7)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * number)
    wanted = [hashlib.sha256(bytes([n]) * n).hexdigest() for n in range(7)]
    assert digests(paths, workers) == wanted
    assert digests(paths[::-1], workers) == wanted[::-1]
    assert digests([]) == []


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DamagedImage, match=r"gone\.jpg: there is no such file"):
        digests([tmp_path / "gone.jpg"])
    with pytest.raises(DamagedImage, match=r"cannot be read \(Is a directory\)"):
        digests([tmp_path])


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
parts = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), plain, max_size=4)


@given(one=parts, other=parts)
def test_keys_are_equal_where_all_parts_are_equal(one, other):
    assert store_key(**one) == store_key(**dict(reversed(one.items())))
    assert len(store_key(**one)) == 64
    if json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):
        assert store_key(**one) != store_key(**other)


def test_a_key_changes_with_the_format_and_takes_plain_values_only(monkeypatch):
    key = store_key(size=320)
    monkeypatch.setattr(feature_store, "_FORMAT", feature_store._FORMAT + 1)
    assert store_key(size=320) != key
    for value in (object(), float("nan")):
        with pytest.raises((TypeError, ValueError)):
            store_key(value=value)


def test_a_digest_of_weights_follows_every_bit_name_shape_and_type():
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    wanted = weights_digest(network())
    assert weights_digest(network()) == wanted
    assert weights_digest(network().to(memory_format=torch.channels_last)) == wanted
    assert weights_digest(nn.Sequential(network())) != wanted
    assert weights_digest(network().bfloat16()) != wanted
    changed = network()
    changed[1].num_batches_tracked += 1
    assert weights_digest(changed) != wanted
    changed = network()
    with torch.no_grad():
        changed[0].weight[0, 0, 0, 0].neg_()
    assert weights_digest(changed) != wanted
    changed = network()
    changed[0].weight = nn.Parameter(changed[0].weight.detach().reshape(3, 4, 3, 3))
    assert weights_digest(changed) != wanted
