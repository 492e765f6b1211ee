"""How pictures are resized before they are stored, and where their boxes come to lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from manyhot.data.images import MAX_PIXELS
from manyhot.data.manifest import Box
from manyhot.errors import UserError

_LARGEST_SIDE = 16384


@dataclass(frozen=True)
class Placement:
    """Where a picture's pixels go: x becomes x · scale_x - left, y becomes y · scale_y - top.

    Arguments:
        width: of the stored picture, pixels.
        height: likewise.
        scale_x: stored pixels a pixel.
        scale_y: likewise.
        left: stored pixels cut off at the left.
        top: likewise, above.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: int = 0
    top: int = 0

    def picture(self, image: Image.Image) -> Image.Image:
        """The picture as it is stored: antialiased bilinear resizing of the part that is kept."""
        x0, y0 = self.left / self.scale_x, self.top / self.scale_y
        box = (
            x0,
            y0,
            min(image.width, x0 + self.width / self.scale_x),
            min(image.height, y0 + self.height / self.scale_y),
        )
        if (self.width, self.height) == image.size and box == (0, 0, *image.size):
            return image
        return image.resize((self.width, self.height), Image.Resampling.BILINEAR, box=box)

    def box(self, box: Box) -> Box | None:
        """The part of a box that is kept, in stored pixels; None where nothing is."""
        x0, x1 = (min(max(x * self.scale_x - self.left, 0.0), self.width) for x in (box.x0, box.x1))
        y0, y1 = (min(max(y * self.scale_y - self.top, 0.0), self.height) for y in (box.y0, box.y1))
        return replace(box, x0=x0, y0=y0, x1=x1, y1=y1) if x1 > x0 and y1 > y0 else None


@dataclass(frozen=True)
class Resizing:
    """The size of stored pictures.

    Arguments:
        size: the shorter side, pixels, smaller pictures enlarged; None keeps the size.
        center_crop: cut the centre square.
        exact: height and width, pixels, out of proportion where need be; takes the place of `size`.

    Raises:
        UserError: settings that contradict one another, or sides beyond 1…16384.
    """

    size: int | None = 256
    center_crop: bool = False
    exact: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.center_crop and (self.size is None or self.exact is not None):
            raise UserError("a centre crop goes with a shorter side, not with --exact or --keep-size.")
        for side in (self.size, *(self.exact or ())):
            if side is not None and not 1 <= side <= _LARGEST_SIDE:
                raise UserError(f"a side of {side} pixels is none; it is 1 to {_LARGEST_SIDE}.")

    def place(self, width: int, height: int) -> Placement:
        """Where the pixels of a picture of this size go.

        A picture so long that it would be enlarged beyond `images.MAX_PIXELS` keeps its size.
        """
        if self.exact is not None:
            return Placement(self.exact[1], self.exact[0], self.exact[1] / width, self.exact[0] / height)
        if self.size is None:
            return Placement(width, height, 1.0, 1.0)
        scale = self.size / min(width, height)
        wide, high = (max(self.size, round(side * scale)) for side in (width, height))
        scale_x, scale_y = wide / width, high / height
        if self.center_crop:
            left, top = (wide - self.size) // 2, (high - self.size) // 2
            return Placement(self.size, self.size, scale_x, scale_y, left, top)
        if wide * high > MAX_PIXELS and scale > 1:
            return Placement(width, height, 1.0, 1.0)
        return Placement(wide, high, scale_x, scale_y)

    def describe(self) -> str:
        """In words: "shorter side 256"."""
        if self.exact is not None:
            return f"{self.exact[1]} x {self.exact[0]}"
        if self.size is None:
            return "as they are"
        return f"centre square of {self.size}" if self.center_crop else f"shorter side {self.size}"

    def settings(self) -> dict[str, Any]:
        """For JSON."""
        exact = None if self.exact is None else list(self.exact)
        return {"size": None if exact else self.size, "center_crop": self.center_crop, "exact": exact}
