"""Which backend runs a model here by default: what `predict --autotune` measured and left in the cache folder."""

from __future__ import annotations

import json
import logging
import platform
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from manyhot.atomic import sha256_bytes, write_text
from manyhot.data.images import cache_folder
from manyhot.data.preprocessing import Preprocessing
from manyhot.inference.backends import Trained
from manyhot.inference.backends.backend import cores
from manyhot.inference.exported import ExportedModel
from manyhot.inference.packages import installed, version

log = logging.getLogger("manyhot")

PACKAGES = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
"""The package that each backend needs."""


DEFAULT_BATCH = 32


class Choice(BaseModel):
    """A backend and its settings.

    Arguments:
        backend: name.
        threads: of the network; None: one a core.
        batch_size: pictures a forward pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    threads: int | None = None
    batch_size: int = DEFAULT_BATCH


def candidates(model: Trained, preprocessing: Preprocessing) -> list[str]:
    """Names of the installed backends that can run a model."""
    if isinstance(model, ExportedModel):
        names = ["onnxruntime", "openvino"] if model.path.suffix == ".onnx" else ["openvino"]
    else:
        # Without these nothing can be exported into the cache folder.
        exports = preprocessing.window is None and installed("onnx") and installed("onnxscript")
        names = ["torch", *(["onnxruntime", "openvino"] if exports else [])]
    return [name for name in names if installed(PACKAGES[name])]


def default_choice(model: Trained, preprocessing: Preprocessing, *, remembered: bool = True) -> Choice:
    """What was remembered for a model on this machine, where wanted; else torch, or what runs an exported file."""
    if remembered and (found := _recall(_file(model, preprocessing))) is not None:
        return found
    names = candidates(model, preprocessing)
    return Choice(backend=names[0] if names else "onnxruntime" if _is_onnx(model) else "openvino")


def remember(model: Trained, preprocessing: Preprocessing, choice: Choice) -> Path:
    """Store a choice for this model, on this processor, with the versions that are installed; return the file."""
    path = _file(model, preprocessing)
    write_text(path, choice.model_dump_json() + "\n")
    return path


def _recall(path: Path) -> Choice | None:
    try:
        return Choice.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError) as error:
        log.warning("what --autotune found cannot be read (%s): %s", error, path)
        return None


def _is_onnx(model: Trained) -> bool:
    return isinstance(model, ExportedModel) and model.path.suffix == ".onnx"


def _file(model: Trained, preprocessing: Preprocessing) -> Path:
    """Named by all that can change what is fastest."""
    exported = [model.path.suffix, model.precision] if isinstance(model, ExportedModel) else []
    network = [model.sha256, preprocessing.model_dump_json(), *exported]
    parts = [processor_name(), str(cores()), *map(version, PACKAGES.values()), *network]
    return cache_folder() / "autotune" / f"{sha256_bytes(chr(0).join(parts).encode())}.json"


@cache
def processor_name() -> str:
    """The processor's model as it calls itself, such as "Intel(R) Xeon(R) Processor"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
