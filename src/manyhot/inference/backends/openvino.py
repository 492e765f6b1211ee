"""OpenVINO: exported .xml and .onnx files, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.inference.backends.backend import Backend, Network, Trained, backends, cores
from manyhot.inference.backends.crops import CropsNetwork, exported_file
from manyhot.inference.packages import require


@backends.register("openvino")
class OpenVino(Backend):
    """An .xml or .onnx file; of a run or bundle one is made in the cache folder."""

    def open(self, model: Trained, preprocessing: Preprocessing) -> Network:
        """The network, on `cpu` unless another device of OpenVINO is asked for, such as `gpu` or `npu`."""
        openvino = require("openvino")
        path = exported_file(model, preprocessing)
        device = (self.device or "cpu").upper()
        core = openvino.Core()
        if device.partition(":")[0].partition(".")[0] not in {one.partition(".")[0] for one in core.available_devices}:
            known = ", ".join(one.lower() for one in core.available_devices)
            raise UserError(f"openvino has no device '{self.device}' here.", remedy=f"Known: {known}.")
        # Left to itself OpenVINO computes float32 networks in bf16 where the processor has that, for scores that are
        # wrong in the third digit.
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32" if self.precision == "float32" else "bf16",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = self.threads or cores()
        try:
            network = core.read_model(path)
            for output in network.outputs:
                if "logits" not in output.names:
                    network.remove_result(output.node)
            compiled = core.compile_model(network, device, settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"openvino cannot run this file: {reason}", file=path) from None
        return OpenVinoNetwork(compiled, model)


class OpenVinoNetwork(CropsNetwork):
    """A compiled model of OpenVINO."""

    def __init__(self, compiled: Any, model: Trained) -> None:
        super().__init__(model)
        self._request = compiled.create_infer_request()

    def run(self, crops_MHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `CropsNetwork`."""
        found = self._request.infer({"crops": np.ascontiguousarray(crops_MHWC)}, share_inputs=True)["logits"]
        return np.array(found, dtype=np.float32)
