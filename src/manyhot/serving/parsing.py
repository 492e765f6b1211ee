"""From the body of a request to the picture files in it: one file as it is, multipart, or JSON with base64."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import HTTPException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

FIELD = "images"
"""The field of a form, and the key of a JSON object, that holds pictures."""

_PICTURE = "image"  # what a picture without a name is called
_HEAD = 4096  # bytes of the heads of one part


@dataclass(frozen=True, eq=False)
class SentPicture:
    """One picture file of a request.

    Arguments:
        name: the file name that was sent with it, or a number.
        content: its bytes, a part of the body or decoded of it.
    """

    name: str
    content: bytes | memoryview


def _from_base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("a string of base64 is wanted")  # noqa: TRY004 - pydantic tells ValueErrors to the asker
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("this is not base64 (RFC 4648, section 4), without blanks or a data: prefix") from None


class EncodedPicture(BaseModel):
    """A picture file as JSON."""

    model_config = ConfigDict(extra="forbid")

    data: Annotated[bytes, BeforeValidator(_from_base64)] = Field(
        description="the file's bytes in base64",
        json_schema_extra={"type": "string", "format": "byte", "contentEncoding": "base64"},
    )
    name: str | None = Field(None, max_length=1000, description="given back with the answer")


class EncodedPictures(BaseModel):
    """Picture files as JSON."""

    model_config = ConfigDict(extra="forbid")

    images: list[EncodedPicture] = Field(min_length=1)


def parse_pictures(body: bytes, content_type: str, most: int) -> list[SentPicture]:
    """The picture files in a body, by its content type.

    Arguments:
        body: the pictures are parts of it where they stand in it as they are.
        content_type: `image/…` or `application/octet-stream`: one file; `multipart/form-data`: one in each field
            `images`; `application/json`: EncodedPictures.
        most: pictures.

    Raises:
        HTTPException: 415 another content type; 400 a broken form; 422 unknown fields, none at all, no base64; 413 too
            many.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        found = _from_form(body, _parameter(content_type.encode("latin-1", "replace"), b"boundary"), most)
    elif kind == "application/json":
        found = _from_json(body, most)
    elif kind == "application/octet-stream" or kind.startswith("image/"):
        found = [SentPicture(_PICTURE, memoryview(body))]
    else:
        raise HTTPException(415, "send image/…, application/octet-stream, multipart/form-data or application/json.")
    if not found:
        raise HTTPException(422, f"there is no picture: send files in fields named '{FIELD}'.")
    return found


def _from_json(body: bytes, most: int) -> list[SentPicture]:
    try:
        sent = EncodedPictures.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        words = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in faults[:5])
        raise HTTPException(422, words) from None
    if len(sent.images) > most:
        raise _too_many(most)
    return [SentPicture(one.name or f"{_PICTURE} {i}", one.data) for i, one in enumerate(sent.images)]


@dataclass
class _Form:
    """What a parser finds, part by part."""

    body: memoryview
    most: int
    found: list[SentPicture] = field(default_factory=list)
    _head: bytes = b""
    _heads: list[bytes] = field(default_factory=list)
    _start: int = 0
    _end: int = 0

    def begin(self) -> None:
        if len(self.found) >= self.most:
            raise _too_many(self.most)
        self._heads, self._head, self._start, self._end = [], b"", 0, 0

    def head(self, data: bytes, start: int, end: int) -> None:
        self._head += bytes(data[start:end])

    def colon(self, data: bytes, start: int, end: int) -> None:
        self._head += (b"" if b":" in self._head else b":") + bytes(data[start:end])

    def head_ends(self) -> None:
        self._heads.append(self._head)
        self._head = b""

    def data(self, _data: bytes, start: int, end: int) -> None:
        if self._start == self._end:
            self._start = start
        self._end = end

    def end(self) -> None:
        disposition = next((h for h in self._heads if h.lower().startswith(b"content-disposition:")), b":")
        value = disposition.partition(b":")[2].strip()
        name = _parameter(value, b"name")
        if name != FIELD:
            raise HTTPException(422, f"unknown field {name!r}: pictures stand in fields named '{FIELD}'.")
        known = _parameter(value, b"filename") or f"{_PICTURE} {len(self.found)}"
        self.found.append(SentPicture(known, self.body[self._start : self._end]))


def _from_form(body: bytes, boundary: str, most: int) -> list[SentPicture]:
    form = _Form(memoryview(body), most)
    ended: list[bool] = []
    try:
        parser = MultipartParser(
            boundary.encode("latin-1", "replace"),
            {
                "on_part_begin": form.begin,
                "on_header_field": form.head,
                "on_header_value": form.colon,
                "on_header_end": form.head_ends,
                "on_part_data": form.data,
                "on_part_end": form.end,
                "on_end": lambda: ended.append(True),
            },
            max_header_size=_HEAD,
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise HTTPException(400, f"this form cannot be read: {error}.") from None
    if not ended:
        raise HTTPException(400, "this form breaks off before its last boundary.")
    return form.found


def _parameter(header: bytes, name: bytes) -> str:
    """A parameter of a header such as `form-data; name="images"; filename="a.jpg"`; empty where it has none."""
    return parse_options_header(header)[1].get(name, b"").decode("utf-8", "replace")


def _too_many(most: int) -> HTTPException:
    return HTTPException(413, f"a request may have {most} pictures.")
