"""ONNX Runtime: exported .onnx files, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.inference.backends.backend import Backend, Network, Trained, backends, cores, refuse_device
from manyhot.inference.backends.crops import CropsNetwork, exported_file
from manyhot.inference.packages import require

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@backends.register("onnxruntime")
class OnnxRuntime(Backend):
    """An .onnx file; of a run or bundle one is made in the cache folder."""

    def open(self, model: Trained, preprocessing: Preprocessing) -> Network:
        """The network, on `cpu` unless `cuda` is asked for."""
        refuse_device(self.device, tuple(_PROVIDERS), "onnxruntime")
        if self.precision != "float32":
            raise UserError("onnxruntime computes what the file holds.", remedy="Export with --int8, or use openvino.")
        runtime = require("onnxruntime")
        path = exported_file(model, preprocessing)
        if path.suffix != ".onnx":
            raise UserError("onnxruntime runs .onnx files.", file=path, remedy="Give --backend openvino.")
        kind, _, number = (self.device or "cpu").partition(":")
        provider = _PROVIDERS[kind]
        if provider not in runtime.get_available_providers():
            raise UserError(f"this onnxruntime has no device '{kind}'.", remedy="Install the package onnxruntime-gpu.")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads or cores()
        options.log_severity_level = 3  # errors
        # Threads that wait spin otherwise, and take the cores from those that decode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings = {"device_id": number} if number else {}
        try:
            session = runtime.InferenceSession(str(path), options, providers=[(provider, settings)])
        except Exception as error:  # noqa: BLE001 - its own classes derive from nothing narrower
            raise UserError(f"onnxruntime cannot run this file: {str(error).splitlines()[0]}", file=path) from None
        return OnnxNetwork(session, model)


class OnnxNetwork(CropsNetwork):
    """A session of ONNX Runtime."""

    def __init__(self, session: Any, model: Trained) -> None:
        super().__init__(model)
        self._session = session

    @property
    def has_score_maps(self) -> bool:
        """See `CropsNetwork`."""
        return any(one.name == "score_maps" for one in self._session.get_outputs())

    def run(self, crops_MHWC: NDArray[np.uint8], output: str = "logits") -> NDArray[np.float32]:
        """See `CropsNetwork`."""
        found: NDArray[np.float32] = self._session.run([output], {"crops": crops_MHWC})[0]
        return found
