"""What a run tells about itself: log.txt, history.jsonl, TensorBoard."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from manyhot import processes
from manyhot.atomic import write_text
from manyhot.runs import Run

log = logging.getLogger("manyhot")


@contextmanager
def log_file(run: Run) -> Iterator[None]:
    """While open, everything that is logged goes to log.txt, whatever else the program does with logs."""
    level = log.level
    if log.getEffectiveLevel() > logging.INFO:
        log.setLevel(logging.INFO)
    handler = logging.FileHandler(run.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()


def write_history(run: Run, history: list[dict[str, Any]]) -> None:
    """Write history.jsonl anew; it is short, and so never holds half a line or a line twice."""
    write_text(run.history, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in history))


class Tracker:
    """TensorBoard events by optimizer step, counted from 0; process 0 writes them.

    Arguments:
        run: the run.
        first_step: events of this step and later ones, left by a killed process, are purged.
    """

    def __init__(self, run: Run, first_step: int) -> None:
        self._writer: Any = _Nowhere()
        if not processes.is_main():
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # raised within tensorboard's own imports
            from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.tensorboard), purge_step=first_step)

    def step(self, step: int, loss: float) -> None:
        """The loss of one step."""
        self._scalar("loss/step", loss, step)

    def running(self, step: int, values: dict[str, float | None]) -> None:
        """What a running window says at a step."""
        for tag, value in values.items():
            self._scalar(tag, value, step)

    def epoch(self, step: int, line: dict[str, Any]) -> None:
        """A line of the history, at the last step of its epoch."""
        for tag, key in _TAGS.items():
            self._scalar(tag, line.get(key), step)
        for name, value in line["val_ap"].items():
            self._scalar(f"AP/{name}", value, step)
        self.flush()

    def picture(self, tag: str, name: str, pixels_HW3: NDArray[np.uint8], step: int) -> None:
        """A picture, uint8, under a tag that ends in its name."""
        self._writer.add_image(f"{tag}/{name}", pixels_HW3, step, dataformats="HWC")

    def histograms(self, layers: dict[str, nn.Parameter], step: int, scale: float = 1.0) -> None:
        """Distributions of named parameters and of their gradients, the latter divided by `scale`."""
        for name, parameter in layers.items():
            self._writer.add_histogram(f"weights/{name}", parameter.detach().float().cpu(), step)
            if parameter.grad is not None:
                self._writer.add_histogram(f"gradients/{name}", parameter.grad.float().cpu() / scale, step)

    def graph(self, network: nn.Module, inputs: Tensor) -> None:
        """The operations of a network on one input; one that cannot be traced is said to be so, and left out."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the tracer, about branches that depend on sizes
                self._writer.add_graph(network, inputs)
        except Exception as error:  # noqa: BLE001 - whatever a network does, a picture of it is no reason to stop
            log.warning("no graph for TensorBoard: the network cannot be traced (%s)", str(error).split("\n", 1)[0])

    def flush(self) -> None:
        """Bring all events to disk, as a checkpoint of this step must find them there."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()

    def _scalar(self, tag: str, value: float | None, step: int) -> None:
        if value is not None:
            self._writer.add_scalar(tag, value, step)


class _Nowhere:
    """A writer that writes nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


_TAGS = {
    "loss/train": "train_loss",
    "loss/val": "val_loss",
    "mAP/val": "val_map",
    "top1/train": "train_top1",
    "top1/val": "val_top1",
    "lr/head": "lr",
    "lr/backbone": "lr_backbone",
    "images_per_second": "images_per_second",
    "waited": "waited",
}
