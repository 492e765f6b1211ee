"""A picture that somebody drops on the page: read within bounds, held in memory, refused where it is none."""

from __future__ import annotations

import asyncio
import io
import re
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request
from PIL import Image
from starlette.requests import ClientDisconnect

from manyhot.data.images import DamagedImage, decode_image

LIMIT = 32 * 2**20
"""Bytes of a picture that may be sent."""

_SECONDS = 60  # for the whole picture to arrive
_AT_ONCE = 2  # pictures in memory; others wait unread

# What makes a browser or an interpreter take a file for something else than a picture, wherever it stands.
_MARKUP = re.compile(rb"<(?:!doctype|html|script|iframe|\?php)[\s>/]|http://www\.w3\.org/2000/svg", re.IGNORECASE)
_PDF_WITHIN = 1024  # bytes in which readers look for a PDF's first line


class Uploads:
    """Bodies of requests that hold a picture, a few in memory at a time."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)

    @asynccontextmanager
    async def taken(self, request: Request) -> AsyncIterator[io.BytesIO]:
        """The body of a request, kept until the block ends.

        Raises:
            HTTPException: 413 a longer body than LIMIT, of which no more is kept; 415 one that calls itself no
                picture; 408 one that does not arrive; 400 one that breaks off.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/octet-stream" and (not kind.startswith("image/") or "svg" in kind):
            raise HTTPException(415, "send a picture: content-type image/… or application/octet-stream.")
        announced = request.headers.get("content-length", "0")
        if not announced.isdecimal() or int(announced) > LIMIT:
            raise HTTPException(413, _TOO_LONG)
        async with self._turns:
            yield await _read(request)


def picture_in(file: io.BytesIO) -> Image.Image:
    """The picture in a file that lies in memory, RGB.

    Raises:
        HTTPException: 415 no picture, a damaged one, or one that is also a page, a script or an archive; 413 one of too
            many pixels.
    """
    content = file.getbuffer()
    disguised = _MARKUP.search(content) or b"%PDF-" in bytes(content[:_PDF_WITHIN])
    content.release()
    if disguised or zipfile.is_zipfile(file):
        raise HTTPException(415, "this file is more than a picture: it holds a page, a script or an archive.")
    file.seek(0)
    try:
        return decode_image(file)
    except DamagedImage as fault:
        status = 413 if fault.reason.startswith("too large") else 415
        raise HTTPException(status, f"this picture cannot be read: {fault.reason}.") from None


_TOO_LONG = f"a picture may have {LIMIT // 2**20} MiB."


async def _read(request: Request) -> io.BytesIO:
    file = io.BytesIO()
    try:
        async with asyncio.timeout(_SECONDS):
            async for chunk in request.stream():
                if file.tell() + len(chunk) > LIMIT:
                    raise HTTPException(413, _TOO_LONG, {"connection": "close"})  # what follows is not read
                file.write(chunk)
    except TimeoutError:
        raise HTTPException(408, "the picture did not arrive in time.") from None
    except ClientDisconnect:
        raise HTTPException(400, "the picture broke off.") from None
    file.seek(0)
    return file
