"""What people decided about labels: an append-only file, each line on disk before it counts."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from manyhot.atomic import sync_folder
from manyhot.errors import UserError

ACTIONS = ("keep", "flip", "difficult", "skip")
"""The label is right; the other one is; the picture leaves it open; not decided."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Decision:
    """What was decided about one class in one picture.

    Arguments:
        id: of the picture.
        class_name: the class.
        label: as given; 1 present, 0 absent, -1 ignored.
        action: one of ACTIONS.
        time: when, UTC, ISO 8601.
    """

    id: str
    class_name: str
    label: int
    action: str
    time: str

    @property
    def new_label(self) -> int:
        """The label after the decision."""
        return {"flip": 0 if self.label == 1 else 1, "difficult": -1}.get(self.action, self.label)


class Journal:
    """The decisions in one file. Every line is appended and brought to disk; no line is ever changed.

    A line that a kill cut short is left out when the file is read, and cut off before the next is written. Only one
    process writes; it holds the file from its first line on.

    Arguments:
        path: the file, which need not exist; it is made by the first decision.

    Raises:
        UserError: a line is none of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mutex = threading.Lock()
        self._file_lock = FileLock(path.with_name(f".{path.name}.lock"))
        self._descriptor: int | None = None
        self._read()

    @property
    def decisions(self) -> dict[Pair, Decision]:
        """What holds now, by picture and class, in the order of the first decision on each."""
        with self._mutex:
            return dict(self._now)

    def decide(self, id_: str, class_name: str, label: int, action: str) -> Decision:
        """Append a decision; it replaces a former one on the same picture and class.

        Raises:
            UserError: another process writes to the file, or it cannot be written.
        """
        assert action in ACTIONS, action
        with self._mutex:
            self._open()
            made = Decision(id_, class_name, label, action, _now())
            line = {"time": made.time, "id": id_, "class": class_name, "label": label, "action": action}
            self._append(line)
            self._apply(line)
            return made

    def undo(self) -> Pair | None:
        """Take back the last decision that still stands; what held before it holds again. None: there is none.

        Raises:
            UserError: as `decide`.
        """
        with self._mutex:
            self._open()
            if not self._done:
                return None
            pair = self._done[-1][0]
            line = {"time": _now(), "action": "undo"}
            self._append(line)
            self._apply(line)
            return pair

    def close(self) -> None:
        """Let the file go."""
        with self._mutex:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
                self._file_lock.release()

    def _read(self) -> None:
        self._now: dict[Pair, Decision] = {}
        self._done: list[tuple[Pair, Decision | None]] = []
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            data = b""
        self._whole = data.rfind(b"\n") + 1
        for number, raw in enumerate(data[: self._whole].split(b"\n")[:-1], 1):
            try:
                self._apply(json.loads(raw))
            except (ValueError, KeyError, TypeError, IndexError):
                remedy = "Remove the line, or name another file: --journal FILE."
                raise UserError("this is no line of decisions.", file=self.path, line=number, remedy=remedy) from None

    def _apply(self, line: dict[str, Any]) -> None:
        if line["action"] == "undo":
            pair, before = self._done.pop()
            if before is None:
                del self._now[pair]
            else:
                self._now[pair] = before
            return
        if line["action"] not in ACTIONS or line["label"] not in (-1, 0, 1):
            raise ValueError(line)
        made = Decision(str(line["id"]), str(line["class"]), line["label"], line["action"], str(line["time"]))
        pair = (made.id, made.class_name)
        self._done.append((pair, self._now.get(pair)))
        self._now[pair] = made

    def _open(self) -> None:
        if self._descriptor is not None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file_lock.acquire(timeout=0)
        except Timeout:
            raise UserError("another gallery writes to this file.", file=self.path, remedy="Close it first.") from None
        except OSError as error:
            raise UserError(f"decisions cannot be written ({error.strerror}).", file=self.path) from None
        try:
            self._read()  # another process may have written before this one got hold of the file
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            os.ftruncate(self._descriptor, self._whole)
            sync_folder(self.path.parent)
        except (OSError, UserError) as error:
            self._file_lock.release()
            if isinstance(error, UserError):
                raise
            raise UserError(f"decisions cannot be written ({error.strerror}).", file=self.path) from None

    def _append(self, line: dict[str, Any]) -> None:
        assert self._descriptor is not None
        data = json.dumps(line, ensure_ascii=False).encode(errors="surrogateescape") + b"\n"
        length = len(data)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, self._whole)
            raise UserError(f"decisions cannot be written ({error.strerror}).", file=self.path) from None
        self._whole += length


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
