"""OpenVINO: exported .xml and .onnx files, without torch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.inference.backends.backend import Backend, Network, Trained, backends, cores
from manyhot.inference.backends.crops import CropsNetwork, exported_file
from manyhot.inference.openvino_core import openvino_core


@backends.register("openvino")
class OpenVino(Backend):
    """An .xml or .onnx file; of a run or bundle one is made in the cache folder."""

    def open(self, model: Trained, preprocessing: Preprocessing) -> Network:
        """The network, on `cpu` unless another device of OpenVINO is asked for, such as `gpu` or `npu`."""
        path = exported_file(model, preprocessing)
        device = (self.device or "cpu").upper()
        core = openvino_core()
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

        def compiled(name: str) -> Any:
            """The part of the network that one output needs."""
            network = core.read_model(path)
            for output in network.outputs:
                if name not in output.names:
                    network.remove_result(output.node)
            return core.compile_model(network, device, settings)

        try:
            outputs = {name for output in core.read_model(path).outputs for name in output.names}
            return OpenVinoNetwork(compiled, outputs, model)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"openvino cannot run this file: {reason}", file=path) from None


class OpenVinoNetwork(CropsNetwork):
    """A model of OpenVINO, compiled for each output by itself: what only the other one needs is left out.

    Arguments:
        compile_for: from the name of an output to a compiled model.
        outputs: their names.
        model: of which it is.
    """

    def __init__(self, compile_for: Callable[[str], Any], outputs: Collection[str], model: Trained) -> None:
        super().__init__(model)
        self._compile_for, self._outputs = compile_for, outputs
        self._requests = {"logits": compile_for("logits").create_infer_request()}

    @property
    def has_score_maps(self) -> bool:
        """See `CropsNetwork`."""
        return "score_maps" in self._outputs

    def run(self, crops_MHWC: NDArray[np.uint8], output: str = "logits") -> NDArray[np.float32]:
        """See `CropsNetwork`."""
        if output not in self._requests:
            self._requests[output] = self._compile_for(output).create_infer_request()
        found = self._requests[output].infer({"crops": np.ascontiguousarray(crops_MHWC)}, share_inputs=True)[output]
        return np.array(found, dtype=np.float32)
