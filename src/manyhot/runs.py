"""The run folder: where everything lies, who may write to it, and what it was made with."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from manyhot.atomic import write_text
from manyhot.errors import UserError

_RECORDED = ("manyhot", "torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "polars", "scikit-learn")


@dataclass(frozen=True)
class Run:
    """The paths of one run folder."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe as resolved; its presence makes a folder a run."""
        return self.path / "recipe.yaml"

    @property
    def manifest(self) -> Path:
        """The images and labels that the run was given, splits resolved."""
        return self.path / "manifest.parquet"

    @property
    def proposals(self) -> Path:
        """Of a detector: the boxes among which it was trained to look."""
        return self.path / "proposals.parquet"

    @property
    def environment(self) -> Path:
        """Versions, device, threads, git revision and command, one entry a start."""
        return self.path / "environment.json"

    @property
    def log(self) -> Path:
        """What the run said."""
        return self.path / "log.txt"

    @property
    def history(self) -> Path:
        """One JSON line an epoch."""
        return self.path / "history.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of last.pt and best.pt."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """Everything that a resumed run needs."""
        return self.checkpoints / "last.pt"

    def numbered(self, epoch: int) -> Path:
        """What last.pt was at the end of an epoch, where `training.checkpoint_epochs` keeps it."""
        return self.checkpoints / f"epoch-{epoch:04}.pt"

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.checkpoints / "best.pt"

    @property
    def model(self) -> Path:
        """The bundle of the best epoch."""
        return self.path / "model"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def views(self) -> Path:
        """Pictures drawn while it trains."""
        return self.path / "views"

    def evaluation(self, split: str) -> Path:
        """Folder of the measures, predictions and report of one split."""
        return self.path / "evaluation" / split

    def localization(self, split: str) -> Path:
        """Folder of the boxes, places and their measures of one split."""
        return self.path / "localization" / split

    def detection(self, split: str) -> Path:
        """Folder of a detector's boxes and their measures of one split."""
        return self.path / "detection" / split

    def read_history(self) -> list[dict[str, Any]]:
        """The epochs so far, oldest first."""
        if not self.history.exists():
            return []
        return [json.loads(line) for line in self.history.read_text(encoding="utf-8").split("\n") if line]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for writing; the lock ends with the process, however it ends.

        Raises:
            UserError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                "another process is writing to this run folder.",
                file=self.path,
                remedy="Wait for it, or give another --out.",
            ) from None
        try:
            yield
        finally:
            lock.release()


def open_run(path: Path) -> Run:
    """A run that exists.

    Raises:
        UserError: no such folder, or no run in it.
    """
    run = Run(path)
    if not run.recipe.is_file():
        what = "this folder holds no run (no recipe.yaml)." if path.is_dir() else "there is no such run folder."
        raise UserError(what, file=path, remedy="A run folder is made by `manyhot train`.")
    return run


def record_environment(run: Run, device: str) -> None:
    """Append what this start runs on to environment.json."""
    import torch

    entry = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "device": device,
        "threads": torch.get_num_threads(),
        "packages": {name: importlib.metadata.version(name) for name in _RECORDED},
        "git": _git_revision(),
    }
    starts = json.loads(run.environment.read_text(encoding="utf-8")) if run.environment.exists() else []
    write_text(run.environment, json.dumps([*starts, entry], indent=1) + "\n")


def _git_revision() -> str | None:
    """The revision of the code that runs, with a mark for uncommitted changes; None outside a checkout of its own."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None  # installed; a repository further up is somebody else's
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
