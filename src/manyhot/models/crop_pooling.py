"""From the logits of a picture's crops to those of the picture: the parts that `model.crop_pooling` can name."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from manyhot.registry import Part, Registry

if TYPE_CHECKING:
    from torch import Tensor


class CropPooling(Part):
    """How a picture's crops become one answer.

    `joins` says that the features of all crops go side by side into one wider head, instead of each through the same.
    """

    joins: ClassVar[bool] = False

    @abstractmethod
    def pool(self, logits_NIC: Tensor) -> Tensor:
        """Float logits [N, I, C] of I crops → [N, C], before the sigmoid."""

    @abstractmethod
    def pool_array(self, logits_NIC: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same of a NumPy array, where a network runs without torch."""


crop_poolings: Registry[CropPooling] = Registry("crop pooling", "model.crop_pooling")


@crop_poolings.register("max")
class MaxOverCrops(CropPooling):
    """The largest logit of each class (Wei et al., HCP, TPAMI 2016, section 3.2)."""

    def pool(self, logits_NIC: Tensor) -> Tensor:
        """Float logits [N, I, C] → [N, C]."""
        return logits_NIC.amax(dim=1)

    def pool_array(self, logits_NIC: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [N, I, C] → [N, C]."""
        return _float32(logits_NIC.max(axis=1))


@crop_poolings.register("mean")
class MeanOverCrops(CropPooling):
    """The mean logit of each class (Krizhevsky et al., NIPS 2012, section 4.1, who average probabilities)."""

    def pool(self, logits_NIC: Tensor) -> Tensor:
        """Float logits [N, I, C] → [N, C]."""
        return logits_NIC.mean(dim=1)

    def pool_array(self, logits_NIC: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [N, I, C] → [N, C]."""
        return _float32(logits_NIC.mean(axis=1))


@crop_poolings.register("lse")
class LogSumExpOverCrops(CropPooling):
    """log(mean(exp(r·x))) / r, between the mean and the maximum (Pinheiro and Collobert, CVPR 2015, equation 6)."""

    r: float = Field(1.0, gt=0, description="sharpness: towards 0 the mean, towards infinity the maximum")

    def pool(self, logits_NIC: Tensor) -> Tensor:
        """Float logits [N, I, C] → [N, C]."""
        return ((self.r * logits_NIC).logsumexp(dim=1) - math.log(logits_NIC.shape[1])) / self.r

    def pool_array(self, logits_NIC: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [N, I, C] → [N, C]."""
        sharpened = self.r * logits_NIC.astype(np.float64)
        return _float32((np.logaddexp.reduce(sharpened, axis=1) - math.log(logits_NIC.shape[1])) / self.r)


@crop_poolings.register("concat")
class Concatenated(CropPooling):
    """The features of all crops side by side, each with weights of its own; the number of crops is fixed."""

    joins: ClassVar[bool] = True

    def pool(self, logits_NIC: Tensor) -> Tensor:
        """The head sees one vector: [N, 1, C] → [N, C]."""
        return logits_NIC.squeeze(1)

    def pool_array(self, logits_NIC: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [N, 1, C] → [N, C]."""
        return logits_NIC.squeeze(1)


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)
