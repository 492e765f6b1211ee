"""What computes a network: the parts that `--backend` can name."""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from manyhot import processes
from manyhot.data.decoding import CropGroup
from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.models.bundle_config import BundleConfig
from manyhot.registry import Part, Registry

Arithmetic = Literal["float32", "bf16"]


class Trained(Protocol):
    """A trained model: a Bundle, or an ExportedModel."""

    @property
    def config(self) -> BundleConfig:
        """What it says of itself."""

    @property
    def sha256(self) -> str:
        """Digest of the weights."""


class Network(Protocol):
    """A network that is ready to look at pictures."""

    def logits(self, group: CropGroup) -> NDArray[np.float32]:
        """What it says of n pictures, its crops pooled: float32 [n, C]."""


class Backend(Part):
    """A way to compute a network."""

    device: str | None = Field(default=None, description="where it runs; nothing: the best that is there")
    precision: Arithmetic = Field(default="float32", description="float32, or bf16 where the processor has it")
    threads: int | None = Field(default=None, ge=1, description="of the network; nothing: one a core")

    @abstractmethod
    def open(self, model: Trained, preprocessing: Preprocessing) -> Network:
        """The network of a trained model.

        Arguments:
            model: a Bundle, or an ExportedModel.
            preprocessing: of the pictures that it will see.

        Raises:
            UserError: a package is missing; a device or precision that this backend does not have; a model that it
                cannot run.
        """


backends: Registry[Backend] = Registry("backend", "--backend")


def cores() -> int:
    """Processor cores for one process of this machine."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // processes.place().local_count)


def refuse_device(device: str | None, known: tuple[str, ...], backend: str) -> None:
    """Refuse a device that a backend does not have.

    Raises:
        UserError: it is none of `known`, whatever comes behind a colon.
    """
    if device is not None and device.partition(":")[0] not in known:
        raise UserError(f"{backend} has no device '{device}'.", remedy=f"Known: {', '.join(known)}.")
