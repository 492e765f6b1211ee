"""Int8 by post-training quantisation: NNCF watches an exported network look at pictures, and chooses the ranges."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from manyhot.atomic import atomic_path
from manyhot.inference.exported import PREFIX
from manyhot.inference.graph import quiet, save_openvino
from manyhot.inference.packages import require
from manyhot.progress import track

_NO_TELEMETRY = "NNCF_CI"


def quantize(path: Path, source: Path, crops: Iterable[NDArray[np.uint8]], n: int, about: Mapping[str, str]) -> None:
    """Write an int8 copy of an exported float32 network: weights by channel, activations by tensor.

    Source: https://docs.openvino.ai, Post-training quantization with NNCF.

    Arguments:
        path: .onnx or .xml, as which it is written.
        source: the float32 .onnx file.
        crops: uint8 [V, H, W, 3] each, those of a picture that have one shape; gone through more than once.
        n: number of them that are watched.
        about: the file's metadata.

    Raises:
        UserError: a package is missing.
    """
    nncf = _nncf()
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        dataset = nncf.Dataset(_Once(crops, n), lambda one: {"crops": one})
        if path.suffix == ".onnx":
            onnx = require("onnx")
            network = nncf.quantize(onnx.load(source), dataset, subset_size=n)
            del network.metadata_props[:]
            onnx.helper.set_model_props(network, {PREFIX + name: text for name, text in about.items()})
            with atomic_path(path) as temporary:
                onnx.save(network, temporary)
        else:
            network = nncf.quantize(require("openvino").Core().read_model(source), dataset, subset_size=n)
            save_openvino(path, network, about)


class _Once:
    """Crops that are decoded when they are asked for, under a progress bar; and again when asked again."""

    def __init__(self, crops: Iterable[NDArray[np.uint8]], n: int) -> None:
        self.crops, self.n = crops, n

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        yield from track(self.crops, self.n, "watching pictures for int8")


def _nncf() -> ModuleType:
    """NNCF, which reports its use to its makers unless a variable forbids it while it is imported."""
    former = os.environ.get(_NO_TELEMETRY)
    os.environ[_NO_TELEMETRY] = "1"
    try:
        with quiet():
            nncf = require("nncf")
    finally:
        if former is None:
            del os.environ[_NO_TELEMETRY]
        else:
            os.environ[_NO_TELEMETRY] = former
    nncf.set_log_level(logging.ERROR)
    return nncf
