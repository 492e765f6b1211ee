"""Which parts of a picture the network sees, one by one: the parts that `input.crops` of a recipe can name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from PIL import Image
from pydantic import Field

from manyhot.registry import Part, Registry

if TYPE_CHECKING:
    from manyhot.data.preprocessing import Preprocessing

Sizes = Annotated[tuple[Annotated[int, Field(ge=16, le=4096)], ...], Field(min_length=1)]

# A panorama longer than this many times its height is squashed to it: memory grows with the length.
_LONGEST = 4


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
        side = max(rules.resize, rules.size)
        return image.resize(scaled(image.size, side, squash=rules.fit == "squash"), rules.filter)

    def cut(self, canvas: Image.Image, rules: Preprocessing) -> list[Image.Image]:
        """Top left, top right, bottom left, bottom right, centre: the order of torchvision's `five_crop`."""
        size = rules.size
        right, bottom = canvas.width - size, canvas.height - size
        corners = ((0, 0), (right, 0), (0, bottom), (right, bottom), (round(right / 2), round(bottom / 2)))
        return [canvas.crop((x, y, x + size, y + size)) for x, y in corners]

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


def scaled(size: tuple[int, int], side: int, *, squash: bool) -> tuple[int, int]:
    """Width and height with a shorter side of `side`, in proportion up to 1:4, or both `side` with `squash`."""
    if squash:
        return side, side
    scale = side / min(size)
    width, height = (min(_LONGEST * side, max(side, round(length * scale))) for length in size)
    return width, height


def _shorter_side(rules: Preprocessing) -> str:
    what = "picture squashed to" if rules.fit == "squash" else "shorter side"
    return f"{what} {max(rules.resize, rules.size)}"
