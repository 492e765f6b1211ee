"""Addresses of files: local paths, and whatever fsspec can open (`s3://…`, `zip://a.png::file:///b.zip`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from manyhot.errors import UserError

# A picture's address counts as remote from here on: everything else is a path of this machine.
_MARK = "://"


def is_remote(address: str) -> bool:
    """Whether fsspec is to open it."""
    return _MARK in address


def absolute(address: str) -> str:
    """The address as seen from any working folder."""
    return address if is_remote(address) else str(Path(address).absolute())


def suffix(address: str) -> str:
    """The ending of the file's name in small letters, with its dot; of a chain of addresses that of the first path."""
    piece = address.split("::")[_place_of_path(address)] if is_remote(address) else address
    return PurePosixPath(piece.partition("?")[0]).suffix.lower()


def inside(folder: str, name: str) -> str:
    """The address of a file in a folder; `name` is its path there, or an address of its own."""
    if is_remote(name) or Path(name).is_absolute():
        return name
    if not is_remote(folder):
        return str(Path(folder) / name)
    pieces = folder.split("::")
    place = _place_of_path(folder)
    joint = "" if pieces[place].endswith("/") else "/"
    pieces[place] += joint + name
    return "::".join(pieces)


def parent(address: str) -> str:
    """The folder of a file."""
    if not is_remote(address):
        return str(Path(address).parent)
    pieces = address.split("::")
    place = _place_of_path(address)
    protocol, _, path = pieces[place].partition(_MARK)
    pieces[place] = protocol + _MARK + path.rpartition("/")[0]
    return "::".join(pieces)


def open_address(address: str) -> tuple[Any, str]:
    """The fsspec filesystem of an address, and the path in it.

    Raises:
        UserError: an unknown protocol, or one whose package is missing.
    """
    with _explained(address):
        import fsspec

        head, chained, rest = address.partition("::")
        protocol, mark, path = head.partition(_MARK)
        if chained and mark:
            return _archive(protocol, rest), path
        filesystem, path = fsspec.core.url_to_fs(address)
        return filesystem, path


def list_folder(address: str) -> list[str]:
    """The paths of all files in a folder and below it, relative to it, sorted by folders; none where it is no folder.

    Raises:
        UserError: it cannot be listed.
    """
    if not is_remote(address):
        root = Path(address)
        return [file.relative_to(root).as_posix() for file in sorted(root.rglob("*")) if file.is_file()]
    filesystem, path = open_address(address)
    with _explained(address):
        found = [one for one in filesystem.find(path) if one.strip("/") != path.strip("/")]
        root_path = path.rstrip("/")
        return sorted((one.removeprefix(root_path).lstrip("/") for one in found), key=lambda one: one.split("/"))


def read(address: str) -> bytes:
    """The content of a file.

    Raises:
        UserError: it cannot be read.
    """
    if not is_remote(address):
        try:
            return Path(address).read_bytes()
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror}).", file=address) from None
    filesystem, path = open_address(address)
    with _explained(address):
        content: bytes = filesystem.cat_file(path)
        return content


@contextmanager
def open_file(address: str) -> Iterator[Any]:
    """A file open for reading, binary, which can seek.

    Raises:
        UserError: it cannot be opened, or fails while read.
    """
    with _explained(address):
        if not is_remote(address):
            with Path(address).open("rb") as file:
                yield file
            return
        filesystem, path = open_address(address)
        with filesystem.open(path, "rb") as file:
            yield file


@lru_cache(maxsize=16)
def _archive(protocol: str, rest: str) -> Any:
    """A filesystem within a file, such as a zip archive, opened once: fsspec would read its index for every picture."""
    import fsspec

    return fsspec.core.url_to_fs(f"{protocol}{_MARK}::{rest}")[0]


def _place_of_path(address: str) -> int:
    """Which piece of a chain names the file: of `zip://a::s3://b` the first, of `simplecache::s3://a` the second."""
    pieces = address.split("::")
    return next(place for place, piece in enumerate(pieces) if _MARK in piece)


@contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError(f"{error}.", file=address) from None
    except FileNotFoundError:
        raise UserError("there is no such file or folder.", file=address) from None
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot be read ({reason}).", file=address) from None
