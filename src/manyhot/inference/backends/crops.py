"""What the backends of exported networks share: crops go in one by one, and are pooled here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manyhot.data.decoding import CropGroup
from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.inference.backends.backend import Trained
from manyhot.inference.exported import ExportedModel
from manyhot.models.crop_pooling import crop_poolings


class CropsNetwork:
    """A network from crops to logits, and the pooling over the crops of a picture behind it.

    Arguments:
        model: of which it is.
    """

    def __init__(self, model: Trained) -> None:
        self._pooling = crop_poolings.build(model.config.model.crop_pooling)

    @property
    @abstractmethod
    def has_score_maps(self) -> bool:
        """Whether it has the output `score_maps`."""

    @abstractmethod
    def run(self, crops_MHWC: NDArray[np.uint8], output: str = "logits") -> NDArray[np.float32]:
        """One output for crops, uint8 [M, H, W, 3], in float32.

        Arguments:
            crops_MHWC: of one picture after the other.
            output: "logits": [M, C], or a row for every picture where crops are joined; "score_maps": [M, C, h, w].
        """

    def logits(self, group: CropGroup) -> NDArray[np.float32]:
        """float32 [n, C]."""
        n = len(group.places)
        stacks = [self.run(stack.reshape(-1, *stack.shape[2:])) for stack in group.stacks]
        return self._pooling.pool_array(np.concatenate([one.reshape(n, -1, one.shape[-1]) for one in stacks], axis=1))

    def score_maps(self, views: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Of each crop of a picture, uint8 [H, W, 3], what the network says of its cells: float32 [C, h, w]."""
        return [self.run(view[None], "score_maps")[0] for view in views]


def exported_file(model: Trained, preprocessing: Preprocessing) -> Path:
    """The file to run: of an ExportedModel its own, of a Bundle one that is made in the cache folder.

    Raises:
        UserError: crops that an exported network cannot take.
    """
    if preprocessing.window is not None:
        raise UserError(
            f"'{preprocessing.crops['name']}' crops pool windows of a map, which exported networks cannot.",
            remedy="Use --backend torch, or other crops.",
        )
    if isinstance(model, ExportedModel):
        return model.path
    from manyhot.inference.cached_export import cached_export
    from manyhot.models.bundle import Bundle

    assert isinstance(model, Bundle)
    return cached_export(model, preprocessing)
