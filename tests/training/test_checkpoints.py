"""Checkpoints come back as they were, or not at all."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import random
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhot.errors import UserError
from manyhot.training.checkpoints import load_checkpoint, save_checkpoint
from manyhot.training.state import State


def content() -> dict:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    state = State(epoch=2, history=[{"val_map": None, "val_ap": {"größe": 0.5}}])
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state.to_dict()}


def assert_same(one, other) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert one == other


@functools.cache
def written(folder: Path) -> bytes:
    save_checkpoint(folder / "good.pt", content())
    return (folder / "good.pt").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def test_a_checkpoint_comes_back(tmp_path: Path):
    save_checkpoint(tmp_path / "deep" / "last.pt", content())
    assert_same(load_checkpoint(tmp_path / "deep" / "last.pt"), content())
    assert State(**load_checkpoint(tmp_path / "deep" / "last.pt")["state"]).epoch == 2
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["last.pt"]


def test_torch_reads_the_file_as_it_is(tmp_path: Path):
    save_checkpoint(tmp_path / "last.pt", content())
    assert_same(torch.load(tmp_path / "last.pt", weights_only=True), content())


def test_the_last_line_is_the_digest_of_the_rest(tmp_path: Path):
    save_checkpoint(tmp_path / "last.pt", content())
    rest, _, digest = (tmp_path / "last.pt").read_bytes().rpartition(b"\nsha256 ")
    assert digest == hashlib.sha256(rest).hexdigest().encode() + b"\n"


@settings(deadline=None, max_examples=150)
@given(data=st.data(), flip=st.integers(1, 255))
def test_a_changed_byte_is_noticed(folder, data, flip):
    good = written(folder)
    place = data.draw(st.integers(0, len(good) - 1) | st.integers(len(good) - 80, len(good) - 1))
    changed = bytearray(good)
    changed[place] ^= flip
    (folder / "changed.pt").write_bytes(changed)
    with pytest.raises(UserError, match=r"changed\.pt: .*checkpoint.*Restore the file"):
        load_checkpoint(folder / "changed.pt")


def test_every_change_of_the_last_line_is_noticed(folder):
    good = written(folder)
    for place in range(len(good) - 73, len(good)):
        for value in (0, 0x20, 0x09, 0x0D, 0x41, 0xFF, good[place] ^ 0x20):
            if value != good[place]:
                (folder / "line.pt").write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
                with pytest.raises(UserError):
                    load_checkpoint(folder / "line.pt")


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_cut_file_is_noticed(folder, data):
    good = written(folder)
    keep = data.draw(st.integers(0, len(good) - 1) | st.integers(len(good) - 80, len(good) - 1))
    (folder / "cut.pt").write_bytes(good[:keep])
    with pytest.raises(UserError, match=r"cut\.pt"):
        load_checkpoint(folder / "cut.pt")


@settings(deadline=None, max_examples=40)
@given(more=st.binary(min_size=1, max_size=200))
def test_a_file_with_more_at_its_end_or_start_is_noticed(folder, more):
    for longer in (written(folder) + more, more + written(folder)):
        (folder / "long.pt").write_bytes(longer)
        with pytest.raises(UserError, match=r"long\.pt"):
            load_checkpoint(folder / "long.pt")


def with_digest(data: bytes) -> bytes:
    return data + b"\nsha256 " + hashlib.sha256(data).hexdigest().encode() + b"\n"


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, zipped):
    mark = tmp_path / "run"
    buffer = io.BytesIO()
    torch.save({"model": Harmful(mark)}, buffer, _use_new_zipfile_serialization=zipped)
    (tmp_path / "harm.pt").write_bytes(with_digest(buffer.getvalue()))
    with pytest.raises(UserError, match="checkpoint"):
        load_checkpoint(tmp_path / "harm.pt")
    assert not mark.exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert mark.exists()  # it would have run


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04", b"PK\x03\x04" + random.Random(0).randbytes(500)])
def test_what_torch_did_not_write_is_refused_even_with_a_digest(tmp_path: Path, data):
    (tmp_path / "other.pt").write_bytes(with_digest(data))
    with pytest.raises(UserError, match=r"other\.pt"):
        load_checkpoint(tmp_path / "other.pt")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(UserError, match="no such checkpoint"):
            load_checkpoint(path)


def test_a_failed_write_keeps_the_former_checkpoint(tmp_path: Path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, content())
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"model": sys._getframe()})
    assert_same(load_checkpoint(path), content())
