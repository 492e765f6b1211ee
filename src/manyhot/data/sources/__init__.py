"""Data sources: each file turns one kind of folder or table into a Manifest.

Adding a source is adding a file here with one class under the decorator `source`:

    @source("folders")
    class Folders:
        \"\"\"A folder of class folders.\"\"\"          # what it looks for; error messages quote it

        def recognises(self, text: str) -> bool: ...
        def read(self, text: str, *, difficult: Difficult) -> Manifest: ...
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from manyhot.data.manifest import Manifest
from manyhot.errors import UserError, nearest

Difficult = Literal["ignore", "positive", "negative"]
"""Label of a class whose objects in a picture are all marked difficult."""


class Source(Protocol):
    """One kind of data; its docstring's first sentence says what it looks for."""

    def recognises(self, text: str) -> bool:
        """Whether `text` (a path, or a name) is of this kind; quick, and never raises."""

    def read(self, text: str, *, difficult: Difficult) -> Manifest:
        """Every image that `text` holds, all splits; raises UserError with file, line and remedy."""


S = TypeVar("S", bound=Source)
_sources: dict[str, Source] = {}


def source(name: str) -> Callable[[type[S]], type[S]]:
    """Class decorator that gives a source its name."""

    def add(kind: type[S]) -> type[S]:
        assert name not in _sources, f"source {name} is registered twice"
        _sources[name] = kind()
        return kind

    return add


def source_kinds() -> dict[str, str]:
    """What each source looks for, by name, sorted."""
    return {name: _looks_for(kind) for name, kind in sorted(_known().items())}


def open_source(text: str, *, kind: str | None = None, difficult: Difficult = "ignore") -> Manifest:
    """Read `text`, a path or a name such as "digits", as the kind of data it is.

    Arguments:
        text: what people write for SOURCE on the command line.
        kind: name of a source, where it is not to be recognised.
        difficult: label of a class whose objects in a picture are all marked difficult (VOC, COCO's crowds).

    Raises:
        UserError: nothing is there, no source or several recognise it, or what is read is at fault.
    """
    known = _known()
    if kind is not None and kind not in known:
        raise UserError(f"unknown source '{kind}'.", remedy=nearest(kind, known))
    fits = [name for name, one in sorted(known.items()) if one.recognises(text)]
    if not fits and not Path(text).exists():
        raise UserError(f"there is no file or folder '{text}', and no source of that name.", remedy=_list(known))
    if kind is not None:
        return known[kind].read(text, difficult=difficult)
    if not fits:
        raise UserError(
            f"'{text}' is of no known kind of data.",
            remedy=f"{_list(known)}\nIf it is one of them, --source KIND reads it as such and says what is missing.",
        )
    if len(fits) > 1:
        raise UserError(
            f"'{text}' can be read as {' or as '.join(fits)}.",
            remedy=f"Say which: --source {fits[0]}. {_list({name: known[name] for name in fits})}",
        )
    return known[fits[0]].read(text, difficult=difficult)


def difficult_label(difficult: Difficult) -> int:
    """The label that the rule gives to a class of which only difficult objects are seen: -1, 1 or 0."""
    return {"ignore": -1, "positive": 1, "negative": 0}[difficult]


def natural_order(name: str) -> tuple[tuple[int, str], ...]:
    """Sorting key that puts `img2` before `img10`; total, so that the order never depends on the file system."""
    pieces = re.split(r"(\d+)", name.casefold())
    return (*((int(piece), "") if i % 2 else (-1, piece) for i, piece in enumerate(pieces)), (-2, name))


def _list(sources: dict[str, Source]) -> str:
    lines = [f"  {name}: {_looks_for(one)}" for name, one in sorted(sources.items())]
    return "Looked for:\n" + "\n".join(lines)


def _looks_for(kind: Source) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]


@cache
def _load_all() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def _known() -> dict[str, Source]:
    _load_all()
    return _sources
