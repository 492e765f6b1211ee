"""From a heat map on the picture to boxes: the rules that `--boxes` can name."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from manyhot.errors import UserError
from manyhot.localization.heat import Heat
from manyhot.metrics.overlap import suppress
from manyhot.registry import Part, Registry

Corners: TypeAlias = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, 0-based, x1 and y1 exclusive."""

Share = Annotated[float, Field(gt=0, le=1)]

SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8)
"""Shares of the maximum that are tried where the best is chosen."""

Place: TypeAlias = tuple[slice, slice]

_EIGHT = np.ones((3, 3), int)  # pixels that touch at a corner hang together


class HeatBox(NamedTuple):
    """A box, and the mean heat of what it was drawn round."""

    corners: Corners
    heat: float


class BoxRule(Part):
    """From the heat map of one class to its boxes."""

    @abstractmethod
    def find(self, heat: Heat) -> list[HeatBox]:
        """Boxes of a map, the hottest first; none where the map is nowhere above 0."""

    @abstractmethod
    def at(self, threshold: float) -> Self:
        """The same rule with this threshold alone."""

    @property
    def candidates(self) -> tuple[float, ...]:
        """Thresholds among which one is chosen where true boxes are known."""
        return SHARES


box_rules: Registry[BoxRule] = Registry("box rule", "--boxes")


@box_rules.register("largest")
class Largest(BoxRule):
    """The largest connected part above a share of the maximum (Zhou et al., CVPR 2016, section 3.2, who use 20 %)."""

    threshold: Share = Field(0.2, description="share of the maximum")

    def find(self, heat: Heat) -> list[HeatBox]:
        """One box, or none."""
        labels, places = _components(_above(heat, self.threshold))
        if not places:
            return []
        largest = 1 if len(places) == 1 else int(np.bincount(labels.ravel())[1:].argmax()) + 1
        return [_box(heat, labels, places, largest)]

    def at(self, threshold: float) -> Self:
        """The same rule with this threshold."""
        return self.model_copy(update={"threshold": threshold})


@box_rules.register("extreme")
class Extreme(BoxRule):
    """From the leftmost to the rightmost and the topmost to the lowest pixel above a share of the maximum."""

    threshold: Share = Field(0.15, description="share of the maximum")

    def find(self, heat: Heat) -> list[HeatBox]:
        """One box, or none."""
        labels = _above(heat, self.threshold).astype(np.int32)
        return [_box(heat, labels, places, 1)] if (places := ndimage.find_objects(labels)) else []

    def at(self, threshold: float) -> Self:
        """The same rule with this threshold."""
        return self.model_copy(update={"threshold": threshold})


@box_rules.register("components")
class Components(BoxRule):
    """Every connected part above any of several shares of the maximum; small ones and near-doubles removed."""

    thresholds: Annotated[tuple[Share, ...], Field(min_length=1)] = Field(
        (0.1, 0.2, 0.3, 0.5), description="shares of the maximum"
    )
    least_area: float = Field(0.01, ge=0, lt=1, description="share of the picture that a box must cover")
    overlap: float = Field(0.4, ge=0, le=1, description="IoU above which the cooler of two boxes is removed")

    def find(self, heat: Heat) -> list[HeatBox]:
        """Boxes of any number, hottest first."""
        least = self.least_area * heat.size
        found: list[HeatBox] = []
        for threshold in self.thresholds:
            labels, places = _components(_above(heat, threshold))
            large = [number for number, place in enumerate(places, 1) if _area(_corners(place)) >= least]
            found.extend(_box(heat, labels, places, number) for number in large)
        corners = np.array([box.corners for box in found], np.float64).reshape(-1, 4)
        return [found[row] for row in suppress(corners, np.array([box.heat for box in found]), self.overlap)]

    def at(self, threshold: float) -> Self:
        """The same rule with this threshold alone."""
        return self.model_copy(update={"thresholds": (threshold,)})


@box_rules.register("mass")
class Mass(BoxRule):
    """Between quantiles of the heat: a share of it lies left of the box, as much right of it, above it and below it.

    One far pixel moves it little, where a connected part or an outermost pixel would decide; and two animals far apart
    get one box round both.
    """

    threshold: float = Field(0.03, gt=0, lt=0.5, description="share of the heat beyond each side")
    power: float = Field(1.5, gt=0, description="the heat is raised to it first: more gives smaller boxes")

    def find(self, heat: Heat) -> list[HeatBox]:
        """One box, or none."""
        mass = np.asarray(heat, np.float64).clip(min=0) ** self.power
        if not mass.any():
            return []
        (x0, x1), (y0, y1) = (_quantiles(mass.sum(axis), self.threshold) for axis in (0, 1))
        return [HeatBox((x0, y0, x1, y1), float(heat[y0:y1, x0:x1].mean()))]

    def at(self, threshold: float) -> Self:
        """The same rule with this threshold."""
        if threshold >= 0.5:
            raise UserError(f"--threshold {threshold:g}: half of the heat or more beyond each side leaves no box.")
        return self.model_copy(update={"threshold": threshold})

    @property
    def candidates(self) -> tuple[float, ...]:
        """Small shares: four of them are outside."""
        return (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.14, 0.18)


def _quantiles(mass: NDArray[np.float64], tail: float) -> tuple[int, int]:
    """First index, and one beyond the last, of the pixels that the tails at both ends leave."""
    before = np.concatenate([[0.0], mass.cumsum()]) / mass.sum()
    start = int(np.searchsorted(before, tail, side="right")) - 1
    end = int(np.searchsorted(before, 1 - tail, side="left"))
    return min(start, len(mass) - 1), max(min(end, len(mass)), min(start, len(mass) - 1) + 1)


def _above(heat: Heat, share: float) -> NDArray[np.bool_]:
    top = heat.max(initial=0)
    return np.asarray(heat >= share * top) if top > 0 else np.zeros(heat.shape, bool)


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], list[Place]]:
    """The number, from 1, of the connected part that each pixel belongs to (0: none), and the place of each part."""
    labels, _ = ndimage.label(mask, structure=_EIGHT)
    return labels, ndimage.find_objects(labels)


def _box(heat: Heat, labels: NDArray[np.int32], places: list[Place], number: int) -> HeatBox:
    """The box of one part."""
    place = places[number - 1]
    return HeatBox(_corners(place), float(heat[place][labels[place] == number].mean()))


def _corners(place: Place) -> Corners:
    rows, columns = place
    return columns.start, rows.start, columns.stop, rows.stop


def _area(corners: Corners) -> int:
    x0, y0, x1, y1 = corners
    return (x1 - x0) * (y1 - y0)
