"""Answers of the gallery's server: places that must exist, binary arrays, files with their ETag."""

from __future__ import annotations

import hashlib

from fastapi import HTTPException, Request
from fastapi.responses import Response

from manyhot.web.thumbnails import Picture


def inside(index: int, length: int, what: str) -> int:
    """The index, or 404 where there is no such `what`."""
    if not 0 <= index < length:
        raise HTTPException(404, f"there is no {what} {index}.")
    return index


def binary(content: bytes) -> Response:
    """An array, which the browser does not keep."""
    return Response(content, media_type="application/octet-stream", headers={"cache-control": "no-store"})


def sent(request: Request, one: Picture) -> Response:
    """A file; 304 where the browser has it already."""
    headers = {"etag": one.etag, "cache-control": "private, no-cache"}
    if one.etag in (tag.strip() for tag in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    media_type = one.media_type + ("; charset=utf-8" if one.media_type.startswith("text/") else "")
    return Response(one.content, media_type=media_type, headers=headers)


def etag(data: bytes) -> str:
    """Of a content."""
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'
