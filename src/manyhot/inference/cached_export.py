"""Exported networks of bundles, kept in the cache folder for the backends that run nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

from manyhot.atomic import sha256_bytes
from manyhot.data.images import cache_folder
from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.inference.exported import ExportedModel, metadata
from manyhot.inference.graph import write_onnx
from manyhot.inference.packages import version
from manyhot.models.bundle import Bundle

log = logging.getLogger("manyhot")

_MAKERS = ("manyhot", "torch", "onnx", "onnxscript")


def cached_export(bundle: Bundle, preprocessing: Preprocessing) -> Path:
    """The .onnx file of a bundle, made when first asked for; named by weights, model, preprocessing and makers.

    Raises:
        UserError: a package is missing, or the network cannot be exported.
    """
    versions = [version(name) for name in _MAKERS]
    parts = [bundle.sha256, bundle.config.model.model_dump_json(), preprocessing.model_dump_json(), *versions]
    path = cache_folder() / "exported" / f"{sha256_bytes(chr(0).join(parts).encode())}.onnx"
    if not _whole(path, bundle):
        log.info("exporting the network once, into the cache folder")
        write_onnx(path, bundle.model, preprocessing, metadata(bundle.config, "float32", version("manyhot")))
    return path


def _whole(path: Path, bundle: Bundle) -> bool:
    try:
        return path.is_file() and ExportedModel.read(path).sha256 == bundle.sha256
    except UserError:
        return False
