"""Pictures whose pixels lie in an array: what random crops and flips do with them costs no copy of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class PixelImage(Image.Image):
    """A Pillow image over uint8 [H, W, 3] in RGB.

    Cutting gives a view, mirroring one copy, and NumPy sees the array itself. Whatever else Pillow can do makes it an
    ordinary image first, as a file is loaded when it is first needed.

    Arguments:
        pixels: uint8 [H, W, 3], rows contiguous or not; never written to.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        super().__init__()
        self._pixels: NDArray[np.uint8] | None = pixels
        self._mode = "RGB"
        self._size = (pixels.shape[1], pixels.shape[0])

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]; read-only, or a copy."""
        return np.asarray(super() if self._pixels is None else self._pixels)

    def load(self) -> Any:
        """Make it an ordinary image, which may be written to."""
        if self._pixels is not None:
            pixels, self._pixels = self._pixels, None
            self.im = Image.fromarray(pixels).im
        return super().load()

    @property
    def __array_interface__(self) -> dict[str, Any]:
        if self._pixels is None:
            return super().__array_interface__
        return self._pixels.__array_interface__

    def crop(self, box: tuple[float, float, float, float] | None = None) -> Image.Image:
        """A view where the box lies inside, in whole pixels; else as Pillow cuts."""
        if self._pixels is None or box is None:
            return super().crop(box)
        left, top, right, bottom = (round(side) for side in box)
        if not (0 <= left < right <= self.width and 0 <= top < bottom <= self.height):
            return super().crop(box)
        return PixelImage(self._pixels[top:bottom, left:right])

    def transpose(self, method: Image.Transpose) -> Image.Image:
        """Mirrored left and right, as an array; else as Pillow does it."""
        if self._pixels is None or method != Image.Transpose.FLIP_LEFT_RIGHT:
            return super().transpose(method)
        import torch

        pixels = self._pixels if self._pixels.flags.writeable else np.array(self._pixels)  # torch takes no others
        return PixelImage(torch.from_numpy(pixels).flip(1).numpy())


def resized_part(
    image: Image.Image, box: tuple[int, int, int, int], size: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """A part of a picture, resized with antialiasing.

    The bilinear filter is torch's for bytes, in a third of the time of Pillow's. It differs from that by a level of 255
    here and there. It is used for files and stores alike; other filters are Pillow's.

    Arguments:
        image: RGB.
        box: left, upper, right and lower edge, whole pixels inside the picture.
        size: width and height of the result.
        resample: the filter.
    """
    import torch

    left, top, right, bottom = box
    if (right - left, bottom - top) == size:
        return image.crop(box)
    if resample != Image.Resampling.BILINEAR:
        return image.resize(size, resample, box=box)
    part_HWC = np.array(np.asarray(image)[top:bottom, left:right])
    # Turned by NumPy, as every call of torch lets go of Python's lock, and threads then wait for one another. With the
    # strides of a batch that lies channels last, so does the result.
    part_NCHW = torch.from_numpy(part_HWC.reshape(1, *part_HWC.shape).transpose(0, 3, 1, 2))
    found_NCHW = torch.nn.functional.interpolate(part_NCHW, size[::-1], mode="bilinear", antialias=True).numpy()
    return PixelImage(found_NCHW[0].transpose(1, 2, 0))
