"""Safe decoding: any picture file becomes 8-bit RGB as people see it, or a DamagedImage that says why not."""

from __future__ import annotations

import io
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError

from manyhot.atomic import sha256_file
from manyhot.data.pixel_image import PixelImage
from manyhot.data.pixels import StoredPicture, stored_picture
from manyhot.errors import UserError

T = TypeVar("T")
log = logging.getLogger("manyhot")

MAX_PIXELS = 100_000_000
"""Larger pictures are refused from their header; a decoded RGB picture of this size takes 300 MB."""

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pfm", ".pgm", ".png", ".ppm", ".tif"}
    | {".tiff", ".webp"}
)
"""File name endings, in lower case, that folders are searched for."""

# Formats that run a program (EPS), hold no photograph or are recognised by their name alone stay closed.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class DamagedImage(UserError):  # noqa: N818 - it names the picture, and reads well in "raises DamagedImage"
    """A picture file that cannot be decoded.

    Arguments:
        path: the file.
        reason: why, in words: "truncated", "the file is empty", "too large: 900 megapixels, the limit is 100".
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(reason, file=path)
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[DamagedImage], tuple[Path, str]]:
        """Crosses process borders whole."""
        return DamagedImage, (self.path, self.reason)


@dataclass(frozen=True)
class EncodedPicture:
    """A picture file that lies in memory.

    Arguments:
        content: its bytes.
        name: what it is called in faults.
    """

    content: bytes
    name: str


def open_image(path: str | Path | EncodedPicture, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode a picture file to 8-bit RGB as it is meant to be seen; a picture of a pixel store is there already.

    EXIF orientation is applied; transparency lies on white; of several frames the first is taken. 16-bit grey is
    divided by 257. 32-bit integers and floats tell no range, so theirs is taken from the picture: 0…1 (floats only)
    times 255, else 0…255 as it is, else 0…65535 by 257, else the smallest value becomes 0 and the largest 255.

    Arguments:
        path: the file, or one that lies in memory.
        at_least: width and height in pixels that are enough; a JPEG is then decoded at an eighth, a quarter or half of
            its size where that reaches them, which takes a fraction of the time. None: at its full size.

    Raises:
        DamagedImage: missing, empty, truncated, more than MAX_PIXELS pixels, or no picture that Pillow can read.
    """
    use = _rgb if at_least is None else partial(_reduced_rgb, at_least)
    if isinstance(path, EncodedPicture):
        if not path.content:
            raise DamagedImage(path.name, "the file is empty")
        return _with_image(path.name, use, file=io.BytesIO(path.content))
    stored = _stored(path)
    if stored is not None and stored.store.layout == "raw":
        return PixelImage(stored.content())
    return _with_image(path, use, stored)


def decode_image(file: io.BytesIO, name: str = "the picture", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """`open_image` of a picture file that lies in memory.

    Arguments:
        file: the content.
        name: what it is called in faults.
        max_pixels: larger pictures are refused from their header; at most MAX_PIXELS.

    Raises:
        DamagedImage: as `open_image`.
    """
    return _with_image(name, _rgb, file=file, max_pixels=max_pixels)


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels as displayed (after EXIF rotation), from the header alone.

    Raises:
        DamagedImage: as `open_image`, as far as the header tells.
    """
    stored = _stored(path)
    return _with_image(path, _displayed_size) if stored is None else stored.size


def content_digest(path: Path) -> str:
    """SHA-256 of a picture file's content, or of the pixels of a picture in a store: the name of what it shows.

    Raises:
        DamagedImage: missing, or cannot be read.
    """
    stored = _stored(path)
    if stored is not None:
        return stored.digest
    try:
        return sha256_file(path)
    except OSError as error:
        raise DamagedImage(path, _reason(path, error)) from None


def content_length(path: Path) -> int:
    """Bytes of a picture file, or of a picture in a store: those of one content have one length.

    Raises:
        DamagedImage: missing, or cannot be read.
    """
    stored = _stored(path)
    if stored is not None:
        return int(stored.store.bytes_N[stored.number])
    try:
        return path.stat().st_size
    except OSError as error:
        raise DamagedImage(path, _reason(path, error)) from None


def is_present(path: Path) -> bool:
    """Whether there is a file at `path`, or a picture of a store."""
    try:
        return _stored(path) is not None or path.is_file()
    except DamagedImage:
        return False


def cache_folder() -> Path:
    """Folder of what can be computed again: $MANYHOT_CACHE, else $XDG_CACHE_HOME/manyhot, else ~/.cache/manyhot."""
    if own := os.environ.get("MANYHOT_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "manyhot"
    return Path.home() / ".cache" / "manyhot"


def _stored(path: str | Path) -> StoredPicture | None:
    """The picture of a store; None where `path` is a file's. A store that cannot be read is a damaged picture."""
    try:
        return stored_picture(path if isinstance(path, Path) else Path(path))  # parsing one anew takes time
    except UserError as error:
        raise DamagedImage(path, f"its pixel store cannot be read ({error})") from None


def _with_image(
    path: str | Path,
    use: Callable[[Image.Image], T],
    stored: StoredPicture | None = None,
    file: io.BytesIO | None = None,
    max_pixels: int = MAX_PIXELS,
) -> T:
    """`use` of the opened, not yet decoded image; whatever goes wrong in there becomes a DamagedImage."""
    try:
        source = file or (path if stored is None else io.BytesIO(stored.content().data))
        with _pillow_quiet(), Image.open(source, formats=_formats()) as image:
            _refuse_large(image, max_pixels)
            return use(image)
    except Exception as error:  # noqa: BLE001 - on a damaged file a decoder may raise anything
        raise DamagedImage(path, _reason(path, error, max_pixels)) from None


class _TooLarge(Exception):  # noqa: N818
    pass


def _refuse_large(image: Image.Image, max_pixels: int) -> None:
    pixels = image.width * image.height
    if pixels > min(max_pixels, MAX_PIXELS):
        raise _TooLarge(pixels)


def _reason(path: str | Path, error: Exception, max_pixels: int = MAX_PIXELS) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    if isinstance(error, _TooLarge | Image.DecompressionBombError):
        # Pillow's own limit of 179 megapixels strikes before ours; its message holds the number.
        pixels = re.search(r"\d+", str(error))
        size = f": {int(pixels[0]) / 1e6:.0f} megapixels, the limit is {max_pixels / 1e6:g}" if pixels else ""
        return f"too large{size}"
    if Path(path).is_file() and not Path(path).stat().st_size:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if "truncated" in str(error).lower():
        return "truncated"
    return f"damaged ({error or type(error).__name__})"


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def find_damage(path: Path) -> DamagedImage | None:
    """What is wrong with a picture file, all of which is read; None: nothing."""
    try:
        _with_image(path, _decode_quickly)
    except DamagedImage as fault:
        return fault
    return None


def _decode_quickly(image: Image.Image) -> None:
    """Read all the data; a JPEG at an eighth of its size, which reads every coefficient and skips most arithmetic."""
    image.draft(None, (1, 1))
    image.load()


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1…8 that is still to be applied; 1 where there is none or the EXIF data are broken."""
    if image.format == "TIFF":
        return 1  # Pillow applies it while it loads, and swaps width and height in the header
    try:
        # The base class's method: PNG's own would decode the whole picture to look for EXIF behind it.
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - broken EXIF data do not damage the picture
        return 1
    return value if isinstance(value, int) and value in _TRANSPOSE else 1


def _displayed_size(image: Image.Image) -> tuple[int, int]:
    return (image.height, image.width) if _orientation(image) >= 5 else (image.width, image.height)


def _rgb(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    image.load()
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        result = _from_wide_grey(image)
    elif image.has_transparency_data:
        above = image.convert("RGBA")
        result = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    elif image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for one of Adobe's, which are stored inverted.
        result = ImageChops.invert(image).convert("RGB")
    else:
        result = image.convert("RGB")
    if orientation != 1:
        result = result.transpose(_TRANSPOSE[orientation])
    # A file that is RGB already comes back as the lazy file object itself, tied to the file that is about to close.
    return result.copy() if result is image else result


def _reduced_rgb(at_least: tuple[int, int], image: Image.Image) -> Image.Image:
    image.draft(None, at_least if _orientation(image) < 5 else at_least[::-1])
    return _rgb(image)


def _from_wide_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I"):
        grey = (values.astype(np.uint32) + 128) // 257
    else:
        grey = np.rint(_to_255(values.astype(np.float64), fractions=image.mode == "F"))
    if image.mode.startswith("I;16") and isinstance(clear := image.info.get("transparency"), int):
        grey[values == clear] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _to_255(values: NDArray[np.float64], *, fractions: bool) -> NDArray[np.float64]:
    """Numbers of unknown range to 0…255; see `open_image` for the rule. Not-a-number counts as the smallest."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.zeros_like(values)
    low, high = float(finite.min()), float(finite.max())
    values = np.nan_to_num(values, nan=low, neginf=low, posinf=high)
    if low >= 0 and high <= 1 and fractions:
        return values * 255
    if low >= 0 and high <= 255:
        return values
    if low >= 0 and high <= 65535:
        return values / 257
    return (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)


class _PillowQuiet:
    """Silences Pillow's warnings while any thread decodes.

    `warnings.catch_warnings` alone is not safe between threads: overlapping uses restore each other's filters. Here
    the first thread in sets the filter and the last one out takes it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught: warnings.catch_warnings[Any] = warnings.catch_warnings()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._caught.__exit__(None, None, None)


_pillow_quiet = _PillowQuiet()
