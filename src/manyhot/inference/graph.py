"""From a classifier of torch to a file that runs without it: ONNX, and OpenVINO's format made of that."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from manyhot.atomic import atomic_path, sync_folder
from manyhot.data.crops import Scales
from manyhot.data.preprocessing import Preprocessing
from manyhot.inference.exported import PREFIX
from manyhot.inference.openvino_core import openvino_core
from manyhot.inference.packages import require
from manyhot.models.classifier import Classifier
from manyhot.models.exportable import CropsClassifier

_EXAMPLES = 2  # crops; or pictures, where crops are joined
_WIDER = 64  # pixels
_NOISY = ("torch.onnx", "torch.export", "torch.utils.cpp_extension", "onnxscript", "onnx_ir", "nncf")


def write_onnx(path: Path, model: Classifier, preprocessing: Preprocessing, about: Mapping[str, str]) -> None:
    """Write a classifier as .onnx; see `ExportedModel` for its input and outputs.

    The number of crops is free. So are height and width where pictures are looked at whole (`scales`); else both are
    `preprocessing.size`.

    Arguments:
        path: the file.
        model: left as it was.
        preprocessing: of the pictures.
        about: the file's metadata, by names without the prefix.

    Raises:
        UserError: a package is missing, or the network cannot be exported.
    """
    onnx = require("onnx")
    require("onnxscript")
    network = CropsClassifier(model, preprocessing).eval()
    side = preprocessing.size
    # Of a square the exporter would learn that width is height.
    width = side + _WIDER if _any_shape(preprocessing) else side
    example = torch.zeros(_EXAMPLES * (network.joined or 1), side, width, 3, dtype=torch.uint8)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["crops"],
            output_names=["logits"] if network.joined else ["logits", "score_maps"],
            dynamic_shapes={"crops": _free_axes(preprocessing, network.joined)},
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {PREFIX + name: text for name, text in about.items()})
    with atomic_path(path) as temporary:
        onnx.save(proto, temporary)


def write_openvino(path: Path, source: Path, about: Mapping[str, str]) -> None:
    """Write an .onnx file as .xml and, beside it, .bin, in the precision of its weights.

    Raises:
        UserError: openvino is missing.
    """
    save_openvino(path, openvino_core().read_model(source), about)


def save_openvino(path: Path, network: object, about: Mapping[str, str]) -> None:
    """Write a model of OpenVINO with its metadata: the .bin first, so that a whole .xml has its weights beside it."""
    openvino = require("openvino")
    for name, text in about.items():
        network.set_rt_info(text, ["manyhot", name])  # type: ignore[attr-defined]
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.stem}.tmp.xml")
    try:
        openvino.save_model(network, made, compress_to_fp16=False)
        made.with_suffix(".bin").replace(path.with_suffix(".bin"))
        made.replace(path)
    finally:
        for one in (made, made.with_suffix(".bin")):
            one.unlink(missing_ok=True)
    sync_folder(path.parent)


def _free_axes(preprocessing: Preprocessing, joined: int | None) -> dict[int, object]:
    axes: dict[int, object] = {
        0: torch.export.Dim("crops") if joined is None else joined * torch.export.Dim("pictures")
    }
    if _any_shape(preprocessing):
        axes |= {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    return axes


def _any_shape(preprocessing: Preprocessing) -> bool:
    return isinstance(preprocessing.cropping, Scales)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporter says of its own inner life."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    former = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, former, strict=True):
            one.setLevel(level)
