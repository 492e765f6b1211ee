"""Which parts of a picture the network sees, one by one: the parts that `input.crops` of a recipe can name."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from PIL import Image
from pydantic import Field

from manyhot.registry import Part, Registry

if TYPE_CHECKING:
    from manyhot.data.preprocessing import Preprocessing

Sizes = Annotated[tuple[Annotated[int, Field(ge=16, le=4096)], ...], Field(min_length=1)]

# A panorama longer than this many times its height is squashed to it: memory grows with the length.
_LONGEST = 4


Size = tuple[int, int]
"""Width and height, pixels."""


@dataclass(frozen=True)
class Frame:
    """Which part of a picture a crop shows, and how large.

    Places are measured along the edges of pixels: 0 is the left edge of the first one, the picture's width the right
    edge of the last. The centre of the pixel with index p lies at p + 0.5.

    Arguments:
        left: edge of the part, pixels of the picture as displayed.
        top: likewise.
        right: likewise.
        bottom: likewise.
        width: of the crop, pixels of the crop.
        height: likewise.
        mirrored: the crop shows the part with left and right exchanged.
    """

    left: float
    top: float
    right: float
    bottom: float
    width: int
    height: int
    mirrored: bool = False

    def flipped(self) -> Frame:
        """The frame of the same crop, mirrored."""
        return replace(self, mirrored=not self.mirrored)


class Crops(Part):
    """From a decoded picture to its crops.

    `canvas` comes first, then the augmentation of training changes the canvas, then `cut`.
    """

    @property
    def count(self) -> int | None:
        """Crops of every picture; None where it depends on the picture's shape."""
        return 1

    def window(self, size: int) -> tuple[int, int] | None:  # noqa: ARG002
        """Side of the windows that the network pools over, and the step between them, pixels; None: all at once."""
        return None

    def canvas(self, image: Image.Image, rules: Preprocessing) -> Image.Image:
        """The picture resized as far as all crops share it."""
        raise NotImplementedError

    def cut(self, canvas: Image.Image, rules: Preprocessing) -> list[Image.Image]:
        """The crops of a canvas; crops of equal size follow each other."""
        raise NotImplementedError

    def frames(self, size: Size, rules: Preprocessing) -> list[Frame]:
        """For a picture of this width and height, where each crop that `cut` gives without augmentation lies."""
        raise NotImplementedError

    def describe(self, rules: Preprocessing) -> str:
        """What of a picture is seen, in words."""
        raise NotImplementedError


crops: Registry[Crops] = Registry("way to crop", "input.crops")


@crops.register("one")
class One(Crops):
    """One crop: the centre, or with `fit: squash` the whole picture."""

    def canvas(self, image: Image.Image, rules: Preprocessing) -> Image.Image:
        """The crop itself, size x size: resizing only the part that is kept costs less than resizing all."""
        return rules.fit_image(image)

    def cut(self, canvas: Image.Image, rules: Preprocessing) -> list[Image.Image]:  # noqa: ARG002
        """The canvas."""
        return [canvas]

    def frames(self, size: Size, rules: Preprocessing) -> list[Frame]:
        """The part that is kept."""
        return [Frame(*rules.kept(size), rules.size, rules.size)]

    def describe(self, rules: Preprocessing) -> str:
        """For example "centre crop 224 of shorter side 256"."""
        if rules.fit == "squash":
            return f"whole picture squashed to {rules.size}"
        return f"centre crop {rules.size} of {_shorter_side(rules)}"


@crops.register("five")
class Five(Crops):
    """The four corners and the centre, size x size each, of the picture resized to `resize`."""

    @property
    def count(self) -> int:
        """5."""
        return 5

    def canvas(self, image: Image.Image, rules: Preprocessing) -> Image.Image:
        """The shorter side is `resize`; with `fit: squash` both sides are."""
        return image.resize(_shared(image.size, rules), rules.filter)

    def cut(self, canvas: Image.Image, rules: Preprocessing) -> list[Image.Image]:
        """Top left, top right, bottom left, bottom right, centre: the order of torchvision's `five_crop`."""
        return [canvas.crop((x, y, x + rules.size, y + rules.size)) for x, y in _corners(canvas.size, rules.size)]

    def frames(self, size: Size, rules: Preprocessing) -> list[Frame]:
        """Five squares of the resized picture."""
        width, height = _shared(size, rules)
        across, down = size[0] / width, size[1] / height
        side = rules.size
        return [
            Frame(x * across, y * down, (x + side) * across, (y + side) * down, side, side)
            for x, y in _corners((width, height), side)
        ]

    def describe(self, rules: Preprocessing) -> str:
        """For example "five crops 224 of shorter side 400"."""
        return f"five crops {rules.size} of {_shorter_side(rules)}"


@crops.register("ten")
class Ten(Five):
    """The five crops, and those of the mirrored picture."""

    @property
    def count(self) -> int:
        """10."""
        return 10

    def cut(self, canvas: Image.Image, rules: Preprocessing) -> list[Image.Image]:
        """The five crops, then those of the mirrored picture: the order of torchvision's `ten_crop`."""
        mirrored = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return super().cut(canvas, rules) + super().cut(mirrored, rules)

    def frames(self, size: Size, rules: Preprocessing) -> list[Frame]:
        """Of the mirrored picture, the crop on the left shows what is on the right."""
        plain = super().frames(size, rules)
        width = size[0]
        return plain + [
            replace(frame, left=width - frame.right, right=width - frame.left, mirrored=True) for frame in plain
        ]

    def describe(self, rules: Preprocessing) -> str:
        """For example "ten crops 224 of shorter side 400"."""
        return f"five crops {rules.size} of {_shorter_side(rules)}, and mirrored"


@crops.register("scales")
class Scales(Crops):
    """The whole picture at several sizes, each pooled as a whole.

    With `fit: squash` it is resized to size x size, otherwise its shorter side is the size and its shape is kept.
    `input.size` and `input.resize` have no say.
    """

    sizes: Sizes = Field((224, 320, 448), description="sides, or with `fit: crop` shorter sides, pixels")
    mirrored: bool = Field(default=False, description="each size also mirrored")

    @property
    def count(self) -> int | None:
        """One a size, two with their mirror images."""
        return len(self.sizes) * (1 + self.mirrored)

    def canvas(self, image: Image.Image, rules: Preprocessing) -> Image.Image:  # noqa: ARG002
        """The picture as it is: every size is resized from it directly."""
        return image

    def cut(self, canvas: Image.Image, rules: Preprocessing) -> list[Image.Image]:
        """The picture at each size, in their order, each followed by its mirror image where asked for."""
        found = []
        for size in self.sizes:
            whole = canvas.resize(scaled(canvas.size, size, squash=rules.fit == "squash"), rules.filter)
            found.append(whole)
            if self.mirrored:
                found.append(whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        return found

    def frames(self, size: Size, rules: Preprocessing) -> list[Frame]:
        """The whole picture every time."""
        shapes = [scaled(size, side, squash=rules.fit == "squash") for side in self.sizes]
        mirrors = (False, True) if self.mirrored else (False,)
        return [Frame(0, 0, *size, *shape, mirrored) for shape, mirrored in itertools.product(shapes, mirrors)]

    def describe(self, rules: Preprocessing) -> str:
        """For example "whole picture squashed to 224, 320, 448"."""
        how = "squashed to" if rules.fit == "squash" else "at shorter side"
        return f"whole picture {how} {', '.join(map(str, self.sizes))}{', and mirrored' if self.mirrored else ''}"


@crops.register("dense")
class Dense(Scales):
    """Windows of `input.size` all over the picture at several sizes, cut from the feature map.

    The network runs once a size, fully convolutionally, and its map is pooled window by window
    (Sermanet et al., OverFeat, ICLR 2014, section 3.3).
    """

    step: int = Field(64, ge=1, description="pixels between windows, rounded to cells of the map")

    @property
    def count(self) -> None:
        """It depends on the picture's shape and the network's stride."""
        return

    def window(self, size: int) -> tuple[int, int]:
        """Windows of the input's size."""
        return size, self.step

    def describe(self, rules: Preprocessing) -> str:
        """For example "windows 224 every 64 px of whole picture at shorter side 256, 384"."""
        return f"windows {rules.size} every {self.step} px of {super().describe(rules)}"


def scaled(size: Size, side: int, *, squash: bool) -> Size:
    """Width and height with a shorter side of `side`, in proportion up to 1:4, or both `side` with `squash`."""
    if squash:
        return side, side
    scale = side / min(size)
    width, height = (min(_LONGEST * side, max(side, round(length * scale))) for length in size)
    return width, height


def _shared(size: Size, rules: Preprocessing) -> Size:
    """Size of the canvas that crops are cut from, of a picture of this size."""
    return scaled(size, max(rules.resize, rules.size), squash=rules.fit == "squash")


def _corners(canvas: Size, side: int) -> list[tuple[int, int]]:
    """Top left corners of five squares."""
    right, bottom = canvas[0] - side, canvas[1] - side
    return [(0, 0), (right, 0), (0, bottom), (right, bottom), (round(right / 2), round(bottom / 2))]


def _shorter_side(rules: Preprocessing) -> str:
    what = "picture squashed to" if rules.fit == "squash" else "shorter side"
    return f"{what} {max(rules.resize, rules.size)}"
