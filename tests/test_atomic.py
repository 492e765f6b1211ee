"""Writes are whole or absent, whatever ends them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhot.atomic import atomic_open, atomic_path, sha256_bytes, sha256_file, write_text


def test_a_file_appears_with_its_folders_and_leaves_nothing_beside_it(tmp_path: Path):
    path = tmp_path / "deep" / "down" / "file.txt"
    write_text(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_what_was_there_is_replaced(tmp_path: Path):
    path = tmp_path / "file.txt"
    write_text(path, "a much longer first text")
    write_text(path, "short")
    assert path.read_text() == "short"


def write_half(file: IO[bytes], kind: type[BaseException]) -> None:
    file.write(b"half")
    file.flush()
    raise kind


@pytest.mark.parametrize("former", [None, b"former"])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_what_was_there(tmp_path: Path, former, kind):
    path = tmp_path / "file.bin"
    if former is not None:
        path.write_bytes(former)
    with pytest.raises(kind), atomic_open(path) as file:
        write_half(file, kind)
    assert (path.read_bytes() if path.exists() else None) == former
    assert len(list(tmp_path.iterdir())) == (former is not None)


def test_readers_see_the_former_content_until_the_end(tmp_path: Path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"former")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"former"
        assert temporary.parent == path.parent  # a rename across file systems would not be atomic
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_kill_leaves_what_was_there_and_the_next_write_clears_up(tmp_path: Path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"former")
    code = (
        "import os, signal, sys; from pathlib import Path; from manyhot.atomic import atomic_open\n"
        "with atomic_open(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half' * 100000); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"former"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@settings(deadline=None, max_examples=30)
@given(content=st.binary(max_size=300))
def test_digests_are_those_of_the_content(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("digest") / "file.bin"
    with atomic_open(path) as file:
        file.write(content)
    assert path.read_bytes() == content
    assert sha256_file(path) == sha256_bytes(content) == hashlib.sha256(content).hexdigest()
