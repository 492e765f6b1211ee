"""Int8 by post-training quantisation: NNCF watches an exported network look at pictures, and chooses the ranges."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyhot.atomic import atomic_path
from manyhot.inference.exported import PREFIX
from manyhot.inference.graph import quiet, save_openvino
from manyhot.inference.openvino_core import openvino_core, signal_stack_kept
from manyhot.inference.packages import require
from manyhot.progress import track

# The logits are sums of unlike numbers, such as means beside maxima: one scale for all would lose most of the mAP that
# int8 costs, and these layers take next to no time.
_OPENVINO_LAYERS, _ONNX_LAYERS = {"Convolution", "MatMul"}, {"Conv", "Gemm", "MatMul"}
_NO_TELEMETRY = "NNCF_CI"


def quantize(path: Path, source: Path, crops: Iterable[NDArray[np.uint8]], n: int, about: Mapping[str, str]) -> None:
    """Write an int8 copy of an exported float32 network: weights by channel, activations by tensor, the head as it is.

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
    onnx = require("onnx") if path.suffix == ".onnx" else None
    network = onnx.shape_inference.infer_shapes(onnx.load(source)) if onnx else openvino_core().read_model(source)
    # NNCF makes Cores of its own.
    with quiet(), contextlib.redirect_stdout(io.StringIO()), signal_stack_kept():
        network = nncf.quantize(
            network,
            nncf.Dataset(_Watched(crops, n), lambda one: {"crops": one}),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=n,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # The largest range that was seen, not the mean of the ranges: nothing that was seen is cut off.
                activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
            ),
            ignored_scope=nncf.IgnoredScope(names=_onnx_heads(network) if onnx else _openvino_heads(network)),
        )
    if onnx is None:
        save_openvino(path, network, about)
        return
    del network.metadata_props[:]
    onnx.helper.set_model_props(network, {PREFIX + name: text for name, text in about.items()})
    with atomic_path(path) as temporary:
        onnx.save(network, temporary)


def _openvino_heads(network: Any) -> list[str]:
    """Names of the layers with weights that are nearest to the outputs."""
    found = []
    for result in network.get_results():
        node = result
        while node.get_type_name() not in _OPENVINO_LAYERS and node.inputs():
            node = node.input_value(0).get_node()
        found.append(node.get_friendly_name())
    return found


def _onnx_heads(network: Any) -> list[str]:
    maker = {name: node for node in network.graph.node for name in node.output}
    found = []
    for output in network.graph.output:
        node = maker[output.name]
        while node.op_type not in _ONNX_LAYERS and node.input[0] in maker:
            node = maker[node.input[0]]
        found.append(node.name)
    return found


class _Watched:
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
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function changes the handlers of others too
    return nncf
