"""Scenes of handwritten digits, composed on the fly: a small data set with honest labels and known boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manyhot.data.manifest import Box

Array: TypeAlias = NDArray[np.float32]

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = ("train", "val", "test")
SIDE = 96
"""Width and height of a scene, pixels."""

SHARES = (0.6, 0.15, 0.25)
"""Shares of the handwritten samples of a class that go to train, val and test."""

LARGEST = {1: 0.70, 2: 0.60, 3: 0.50, 4: 0.42}
"""Largest side of a digit's cell over the scene's side, by the number of digits in the scene."""

SMALLEST = 0.24
MAX_COVERED = 0.15
"""Two boxes share at most this part of the smaller one, which keeps their IoU under 0.082."""

MIN_CONTRAST = 0.3
"""Least difference of luminance between a digit and the mean of what lies under its box, in 0…1."""

_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Scene:
    """One to four handwritten digits over a generated background.

    Arguments:
        picture: uint8 [side, side, 3], RGB.
        boxes: one a digit, tight around its strokes; pixels, 0-based, x1 and y1 exclusive.
        samples: for each box, the row of `sklearn.datasets.load_digits` it shows.
        strokes: uint8 [side, side]; 0 background, k where digit k - 1 is visible.
    """

    picture: NDArray[np.uint8]
    boxes: tuple[Box, ...]
    samples: tuple[int, ...]
    strokes: NDArray[np.uint8]

    @property
    def labels(self) -> list[int]:
        """Ten labels: 1 where the scene holds the digit, else 0."""
        present = {box.name for box in self.boxes}
        return [int(name in present) for name in CLASSES]


def compose(seed: int, split: str, index: int, side: int = SIDE) -> Scene:
    """Scene `index` of a split: a pure function of its arguments.

    Arguments:
        seed: non-negative; another seed gives other scenes of the same samples.
        split: "train", "val" or "test"; no handwritten sample appears in two of them.
        index: non-negative.
        side: width and height, pixels.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    picture = _background(rng, side)
    strokes = np.zeros((side, side), dtype=np.uint8)
    boxes: list[Box] = []
    samples: list[int] = []
    ink, names = handwriting()
    count = int(rng.integers(1, 5))
    for _ in range(count):
        sample = int(rng.choice(members(split)))
        placed = _place(rng, ink[sample], CLASSES[names[sample]], boxes, side, LARGEST[count])
        if placed is None:  # no room left: the scene holds fewer digits, and its labels say so
            continue
        alpha, box = placed
        window = slice(int(box.y0), int(box.y1)), slice(int(box.x0), int(box.x1))
        under = picture[window]
        picture[window] = under + alpha[:, :, None] * (_colour(rng, under) - under)
        boxes.append(box)
        samples.append(sample)
        strokes[window][alpha > 0] = len(boxes)
    picture += np.float32(rng.uniform(0, 0.04)) * rng.standard_normal((side, side, 1), dtype=np.float32)
    return Scene((picture.clip(0, 1) * 255 + 0.5).astype(np.uint8), tuple(boxes), tuple(samples), strokes)


@cache
def handwriting() -> tuple[Array, NDArray[np.int64]]:
    """Scikit-learn's 1,797 handwritten digits: ink, float32 [1797, 8, 8] in 0…1, and the digits, int64 [1797]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images / 16).astype(np.float32), data.target.astype(np.int64)


@cache
def members(split: str) -> NDArray[np.int64]:
    """The rows of `handwriting` that a split may show, int64, sorted; splits are disjoint, classes in proportion."""
    digits = handwriting()[1]
    cuts = np.cumsum((0.0, *SHARES))
    start, stop = cuts[SPLITS.index(split)], cuts[SPLITS.index(split) + 1]
    rows = []
    for digit in range(len(CLASSES)):
        mine = np.random.default_rng([1797, digit]).permutation(np.flatnonzero(digits == digit))
        rows.append(mine[round(start * len(mine)) : round(stop * len(mine))])
    return np.sort(np.concatenate(rows))


def _place(
    rng: np.random.Generator, ink: Array, name: str, boxes: list[Box], side: int, largest: float
) -> tuple[Array, Box] | None:
    """A digit's opacity and a box for it that leaves the others visible; smaller and smaller until one is free."""
    cell = side * rng.uniform(SMALLEST, largest)
    aspect, angle = rng.uniform(0.8, 1.15), rng.uniform(-10, 10)
    while True:
        alpha = _strokes(ink, cell, aspect, angle)
        height, width = alpha.shape
        for _ in range(20):
            x0, y0 = int(rng.integers(0, side - width + 1)), int(rng.integers(0, side - height + 1))
            box = Box(name, x0, y0, x0 + width, y0 + height)
            if all(_apart(box, other) for other in boxes):
                return alpha, box
        if cell <= side * SMALLEST:
            return None
        cell = max(cell * 0.8, side * SMALLEST)


def _strokes(ink: Array, cell: float, aspect: float, angle: float) -> Array:
    """Opacity of a digit, float32 [height, width] in 0…1, cut tight around what is visible.

    Arguments:
        ink: float32 [8, 8] in 0…1.
        cell: height that the 8 rows are stretched to, pixels.
        aspect: width of a column over height of a row.
        angle: degrees, anticlockwise.
    """
    grid = np.pad(ink, 1)  # room to turn
    middle, scale = len(grid) / 2, cell / len(ink)
    width, height = round(len(grid) * scale * aspect), round(len(grid) * scale)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    along_x, along_y = (cos / (scale * aspect), -sin / (scale * aspect)), (sin / scale, cos / scale)
    # Where pixel (x, y) of the large picture comes from on the grid; both turn about their middle.
    affine = (
        *along_x, middle - along_x[0] * width / 2 - along_x[1] * height / 2,
        *along_y, middle - along_y[0] * width / 2 - along_y[1] * height / 2,
    )  # fmt: skip
    large = Image.fromarray(grid).transform(
        (width, height), Image.Transform.AFFINE, affine, resample=Image.Resampling.BICUBIC
    )
    alpha = ((np.asarray(large) - 0.3) / 0.5).clip(0, 1)
    visible = alpha >= 0.15
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    tight: Array = np.where(visible, alpha, 0).astype(np.float32)
    return tight[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _apart(a: Box, b: Box) -> bool:
    """Whether two boxes hide little of one another, and neither the other's centre."""
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    if width <= 0 or height <= 0:
        return True
    smaller = min((box.x1 - box.x0) * (box.y1 - box.y0) for box in (a, b))
    return width * height <= MAX_COVERED * smaller and not _holds_centre(a, b) and not _holds_centre(b, a)


def _holds_centre(a: Box, b: Box) -> bool:
    x, y = (b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2
    return a.x0 <= x <= a.x1 and a.y0 <= y <= a.y1


def _colour(rng: np.random.Generator, under: Array) -> Array:
    """A colour, float32 [3], that stands out from what lies under the digit; the best of 30 where none does."""
    light = under @ _LUMINANCE
    colours: Array = rng.random((30, 3), dtype=np.float32)
    contrast = np.abs(colours @ _LUMINANCE - light.mean()) - light.std()
    enough = contrast >= MIN_CONTRAST
    best: Array = colours[int(enough.argmax() if enough.any() else contrast.argmax())]
    return best


def _background(rng: np.random.Generator, side: int) -> Array:
    """Two colours mixed by one or two random fields, float32 [side, side, 3] in 0…1."""
    first, second = rng.choice(len(_FIELDS), size=2, replace=False)
    share = np.float32(rng.uniform(0.5, 1))
    field = share * _FIELDS[first](rng, side) + (1 - share) * _FIELDS[second](rng, side)
    base: Array = rng.random(3, dtype=np.float32)
    other = (base + rng.uniform(-0.45, 0.45, size=3).astype(np.float32)).clip(0, 1)
    return (base + field[:, :, None] * (other - base)).astype(np.float32, copy=False)


def _grid(side: int) -> tuple[Array, Array]:
    """Coordinates x [1, side] and y [side, 1], both in -0.5…0.5."""
    axis: Array = ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
    return axis.reshape(1, side), axis.reshape(side, 1)


def _ramp(rng: np.random.Generator, side: int) -> Array:
    """Distance along a random direction, float32 [side, side], about -0.7…0.7."""
    x, y = _grid(side)
    angle = rng.uniform(0, 2 * math.pi)
    return (math.cos(angle) * x + math.sin(angle) * y).astype(np.float32)


def _gradient(rng: np.random.Generator, side: int) -> Array:
    return (_ramp(rng, side) + 0.5).clip(0, 1)


def _noise(rng: np.random.Generator, side: int) -> Array:
    """Smooth noise in three octaves."""
    cells = int(rng.integers(3, 9))
    total = np.zeros((side, side), dtype=np.float32)
    for octave in range(3):
        coarse = rng.random((cells << octave, cells << octave), dtype=np.float32)
        fine = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        total += np.asarray(fine) * 0.5**octave
    return (total / 1.75).clip(0, 1)


def _stripes(rng: np.random.Generator, side: int) -> Array:
    """Parallel stripes, soft or crisp, straight or waved."""
    wave = rng.uniform(0, 0.08) * np.sin(rng.uniform(5, 20) * _ramp(rng, side))
    phase = 2 * math.pi * rng.uniform(2, 9) * (_ramp(rng, side) + wave) + rng.uniform(0, 2 * math.pi)
    level: Array = (np.tanh(rng.uniform(0.5, 4) * np.sin(phase)) / 2 + 0.5).astype(np.float32)
    return level


def _blobs(rng: np.random.Generator, side: int) -> Array:
    """Discs and ellipses of random level over one another."""
    x, y = _grid(side)
    field: Array = np.full((side, side), rng.random(), dtype=np.float32)
    for _ in range(int(rng.integers(4, 13))):
        dx, dy = x - rng.uniform(-0.6, 0.6), y - rng.uniform(-0.6, 0.6)
        distance = np.sqrt(dx**2 + (rng.uniform(0.6, 1.6) * dy) ** 2)
        alpha: Array = ((rng.uniform(0.04, 0.25) - distance) * side / rng.uniform(1, 8) + 0.5).clip(0, 1)
        field += alpha * (np.float32(rng.random()) - field)
    return field


_FIELDS = (_gradient, _noise, _stripes, _blobs)
