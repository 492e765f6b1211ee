"""Checkpoint files: whole or absent, with their own digest, readable by torch.load."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from manyhot.atomic import atomic_open, sha256_bytes
from manyhot.errors import UserError

_MARK = b"\nsha256 "
_TRAILER = len(_MARK) + 64 + 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain Python values) and, as the last line of the file, its SHA-256.

    torch.load reads such a file as it is: a zip archive may be followed by other bytes.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    with atomic_open(path) as file:
        file.write(content)
        file.write(_MARK + sha256_bytes(content).encode() + b"\n")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, onto the CPU; no code in the file is ever run.

    Raises:
        UserError: no such file, or it was changed or cut since it was written, or is no checkpoint of ours.
    """
    if not path.is_file():
        raise UserError("there is no such checkpoint.", file=path, remedy=_REMEDY)
    data = path.read_bytes()
    content, trailer = data[:-_TRAILER], data[-_TRAILER:]
    if not trailer.startswith(_MARK):
        raise UserError("this is not a checkpoint of manyhot, or its end is missing.", file=path, remedy=_REMEDY)
    if trailer != _MARK + sha256_bytes(content).encode() + b"\n":
        raise UserError("the checkpoint is damaged: its content does not match its SHA-256.", file=path, remedy=_REMEDY)
    if not content.startswith(b"PK"):
        raise UserError("this is not a checkpoint of manyhot.", file=path, remedy=_REMEDY)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise UserError(f"the checkpoint cannot be read: {_first_line(error)}", file=path, remedy=_REMEDY) from None
    assert isinstance(state, dict)
    return state


_REMEDY = "Restore the file from a copy, or train into a new folder."


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
