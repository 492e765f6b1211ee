"""Pictures for the page: small ones made once and kept, large ones on demand, placeholders for what cannot be read."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import PIL
from PIL import Image

from manyhot.atomic import atomic_open
from manyhot.data.images import DamagedImage, cache_folder, open_image

THUMBNAIL, LARGE = 256, 2048
"""Longest side in pixels of small and of large pictures."""

NOWHERE = "no folder of pictures was given, or the name leads out of it"

_decoding = threading.Semaphore(max(2, os.cpu_count() or 2))  # a picture of 100 megapixels takes 300 MB while decoded


@dataclass(frozen=True)
class Picture:
    """Bytes to send, and what the browser may keep them by."""

    content: bytes
    media_type: str
    etag: str


class Missing(Exception):  # noqa: N818 - it is no fault of the program
    """There is no picture to show; the message says why."""


def picture(path: Path | None, longest: int) -> Picture:
    """The picture at `path` upright, as JPEG of at most `longest` pixels a side; small ones are kept on disk.

    Whatever the file is, what is sent was drawn anew from its pixels: no script, no position, no second content.

    Raises:
        Missing: no file, or one that cannot be decoded.
    """
    try:
        stat = path.stat() if path is not None else None
    except (OSError, ValueError):
        stat = None
    if path is None or stat is None:
        raise Missing("no such file" if path is not None else NOWHERE)
    text = f"{PIL.__version__}\0{longest}\0{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
    kept = cache_folder() / "thumbnails" / digest[:2] / f"{digest}.jpg"
    if longest <= THUMBNAIL:
        try:
            return Picture(kept.read_bytes(), "image/jpeg", f'"{digest}"')
        except OSError:
            pass
    content = _drawn(path, longest)
    if longest <= THUMBNAIL:
        try:
            with atomic_open(kept) as file:
                file.write(content)
        except OSError:
            pass  # a cache that cannot be written costs time only
    return Picture(content, "image/jpeg", f'"{digest}"')


def placeholder(name: str, reason: str) -> Picture:
    """A drawing that names the picture and says why it is not here."""
    lines = [reason, *(name[i : i + 30] for i in range(0, min(len(name), 90), 30))]
    rows = "".join(
        f'<text x="120" y="{66 + 22 * i}" font-weight="{400 if i else 700}">{escape(_printable(line))}</text>'
        for i, line in enumerate(lines)
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 180" width="240" height="180">'
        '<rect x="1" y="1" width="238" height="178" rx="6" fill="none" stroke="#7d8892" stroke-dasharray="5 4"/>'
        f'<g font-family="sans-serif" font-size="13" fill="#7d8892" text-anchor="middle">{rows}</g></svg>'
    ).encode()
    return Picture(svg, "image/svg+xml", f'"{hashlib.sha256(svg).hexdigest()[:32]}"')


def as_jpeg(image: Image.Image, longest: int) -> bytes:
    """An RGB picture as JPEG of at most `longest` pixels a side; `image` may be changed by it."""
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82 if longest <= THUMBNAIL else 90)
    return buffer.getvalue()


def _drawn(path: Path, longest: int) -> bytes:
    with _decoding:
        try:
            image = open_image(path, (longest, longest))
        except DamagedImage as fault:
            raise Missing(fault.reason) from None
        return as_jpeg(image, longest)


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else "·" for one in text)
