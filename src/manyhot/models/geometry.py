"""Where a feature map lies on the picture: cell i is centred on pixel index offset + stride * i."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """Stride and offset of a map, the same on both axes.

    Arguments:
        stride: pixels from one cell's centre to the next.
        offset: pixel index (0 is the centre of the first pixel) of the centre of cell 0.
    """

    stride: float = 1.0
    offset: float = 0.0

    def then(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Geometry:
        """The geometry after one more convolution or pooling with these settings, in cells of this map."""
        return Geometry(
            stride=self.stride * stride,
            offset=self.offset + self.stride * (dilation * (kernel - 1) / 2 - padding),
        )

    def centre(self, cell: float) -> float:
        """Pixel index of the centre of a cell."""
        return self.offset + self.stride * cell

    def cell(self, pixel: float) -> float:
        """The (fractional) cell that is centred on a pixel index."""
        return (pixel - self.offset) / self.stride
