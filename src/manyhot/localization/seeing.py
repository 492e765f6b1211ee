"""One picture as a classifier sees it: its scores, and the heat of any class on one scale for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from manyhot.localization.heat import fixed
from manyhot.localization.placing import Size, ViewMap, place, scaled

if TYPE_CHECKING:
    from manyhot.localization.looking import Look

LONGEST = 384
"""Longest side of a heat map, in its own cells, unless another is asked for."""

_SURE = 1e-6  # scores nearer to 0 or 1 than this are taken as this near, so that their logit is finite


@dataclass(frozen=True, eq=False)
class Seen:
    """What a model saw in one picture.

    Arguments:
        size: width and height of the picture as displayed, pixels.
        scores: float32 [C], as `manyhot predict` gives them.
        views: of each view the class activation maps of all C classes on their cells, as logits of the class's score.
    """

    size: Size
    scores: NDArray[np.float32]
    views: list[ViewMap]

    def heat(self, class_index: int, longest: int = LONGEST) -> NDArray[np.uint8]:
        """Heat of one class over the whole picture, uint8 [h, w]: see `heat_of`."""
        return heat_of(self.views, self.size, class_index, longest)


def see(look: Look, views: list[NDArray[np.uint8]], size: Size, activation: str) -> Seen:
    """Look at a decoded picture.

    Arguments:
        look: the classifier, with the heat map "cam".
        views: uint8 [H, W, 3] each, as the preprocessing of `look` cuts them.
        size: width and height of the picture as displayed, pixels.
        activation: the model's, "sigmoid" or "softmax".
    """
    scores, maps = look.once(views, size)
    return Seen(size, scores, as_logits(maps, activation))


def as_logits(maps: list[ViewMap], activation: str) -> list[ViewMap]:
    """What a network says of each cell, as logits of each class's own score.

    Arguments:
        maps: float [C, h, w] of each view, all classes, before the activation.
        activation: the model's, "sigmoid" or "softmax".
    """
    return [_as_one_of(one) for one in maps] if activation == "softmax" else maps


def heat_of(views: Sequence[ViewMap], size: Size, class_index: int, longest: int = LONGEST) -> NDArray[np.uint8]:
    """Heat of one class over the whole picture, uint8 [h, w], 0…255 for scores 0…1.

    Each value is that of the map at the centre of one of h x w equal parts of the picture, by
    `manyhot.localization.placing`. The scale is the same for all pictures and classes: what the model would say of a
    view that were nothing but this place, before any calibration.

    Arguments:
        views: maps of all classes as logits of each class's own score (`as_logits`).
        size: width and height of the picture as displayed, pixels.
        class_index: 0…C - 1.
        longest: longest side of the heat, in its own cells; the picture's own where that is smaller.
    """
    width, height = size
    by = min(1.0, longest / max(size))
    small = max(1, round(width * by)), max(1, round(height * by))
    one = slice(class_index, class_index + 1)
    own = [ViewMap(view.cells[one], view.geometry, view.frame) for view in views]
    placed = place(scaled(own, (small[0] / width, small[1] / height)), small)[0]
    return np.asarray(np.rint(255 * fixed(placed)), np.uint8)


def _as_one_of(view: ViewMap) -> ViewMap:
    """Logits of softmax scores, cell by cell, from maps [C, h, w] that are the network's logits."""
    raw = np.asarray(view.cells, np.float64)
    scores = np.exp(raw - raw.max(axis=0))
    scores = (scores / scores.sum(axis=0)).clip(_SURE, 1 - _SURE)
    return ViewMap((np.log(scores) - np.log1p(-scores)).astype(np.float32), view.geometry, view.frame)
