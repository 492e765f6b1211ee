"""The one error that people are meant to see, and the end that they ask for."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """Something that the user can mend; the command line prints it in one message and exits with code 2.

    Arguments:
        what: what is wrong, in one sentence.
        file: the file at fault.
        line: 1-based line number within `file`.
        remedy: what to do about it.
    """

    def __init__(
        self, what: str, *, file: str | Path | None = None, line: int | None = None, remedy: str | None = None
    ) -> None:
        where = "" if file is None else f"{file}: " if line is None else f"{file}, line {line}: "
        super().__init__(where + what + (f" {remedy}" if remedy else ""))


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The user or the system asked to stop, and everything is saved.

    Arguments:
        signum: the signal; shells expect exit code 128 + signum.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest known one where there is one, then all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    listing = ", ".join(names[:40]) + (", …" if len(names) > 40 else "")
    return (f"Did you mean '{close[0]}'? " if close else "") + f"Known: {listing}."
