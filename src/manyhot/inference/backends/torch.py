"""PyTorch: every model of a run or bundle, on CPUs and GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from manyhot.data.decoding import CropGroup
from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.inference.backends.backend import Arithmetic, Backend, Network, Trained, backends
from manyhot.inference.exported import ExportedModel

if TYPE_CHECKING:
    import torch

    from manyhot.models.classifier import Classifier


@backends.register("torch")
class Torch(Backend):
    """On a CPU with BatchNorms folded into their convolutions; on a GPU the network as it was trained."""

    fold: bool = Field(default=True, description="fold BatchNorms, on a CPU")

    def open(self, model: Trained, preprocessing: Preprocessing) -> Network:
        """The network of a Bundle."""
        if isinstance(model, ExportedModel):
            raise UserError(
                "torch does not run exported models.",
                file=model.path,
                remedy="Give --backend onnxruntime or openvino, or the run folder.",
            )
        import torch

        from manyhot.models.bundle import Bundle
        from manyhot.models.folding import fold_batch_norms

        assert isinstance(model, Bundle)
        try:
            device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
            on_device = model.model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"torch cannot use the device '{self.device}': {str(error).splitlines()[0]}") from None
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        network = fold_batch_norms(on_device) if self.fold and device.type == "cpu" else on_device
        return TorchNetwork(network.eval().to(memory_format=torch.channels_last), device, preprocessing, self.precision)


class TorchNetwork:
    """A classifier on its device.

    Arguments:
        model: in eval mode.
        device: where it lies.
        preprocessing: of the pictures.
        precision: of its arithmetic.
    """

    def __init__(
        self, model: Classifier, device: torch.device, preprocessing: Preprocessing, precision: Arithmetic
    ) -> None:
        self.model, self.device, self.preprocessing, self.precision = model, device, preprocessing, precision

    def logits(self, group: CropGroup) -> NDArray[np.float32]:
        """float32 [n, C]."""
        import torch

        from manyhot.data.loading import PictureGroup

        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits_NC = PictureGroup.of(group, self.preprocessing).logits(self.model, self.device)
        found: NDArray[np.float32] = logits_NC.float().cpu().numpy()
        return found
