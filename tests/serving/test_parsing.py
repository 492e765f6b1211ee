"""Bodies: forms, JSON and single files, and what is none of them."""

from __future__ import annotations

import base64
import contextlib
import json

import httpx
import pytest
from fastapi import HTTPException
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhot.serving.parsing import parse_pictures

NAMES = st.text(st.characters(codec="utf-8", exclude_characters='"\\', exclude_categories=["Cc"]), min_size=1)
CONTENTS = st.binary(max_size=300) | st.sampled_from([b"\r\n", b"\r\n--", b"--\r\n", b"\r", bytes(100_000)])


def status(body: bytes, kind: str, most: int = 8) -> int:
    with pytest.raises(HTTPException) as refused:
        parse_pictures(body, kind, most)
    return refused.value.status_code


def form(parts: list[tuple[str, bytes]], field: str = "images") -> tuple[bytes, str]:
    request = httpx.Request("POST", "http://x/", files=[(field, part) for part in parts])
    return request.read(), request.headers["content-type"]


@settings(deadline=None, database=None)
@given(st.lists(st.tuples(NAMES, CONTENTS), min_size=1, max_size=6))
def test_a_form_gives_the_files_back(parts):
    found = parse_pictures(*form(parts), 6)
    assert [bytes(one.content) for one in found] == [content for _, content in parts]
    assert [one.name for one in found] == [name for name, _ in parts]


@settings(deadline=None, database=None)
@given(st.lists(st.tuples(NAMES, CONTENTS), min_size=1, max_size=6))
def test_json_gives_the_files_back(parts):
    sent = {"images": [{"name": name, "data": base64.b64encode(content).decode()} for name, content in parts]}
    found = parse_pictures(json.dumps(sent).encode(), "application/json; charset=utf-8", 6)
    assert [(one.name, bytes(one.content)) for one in found] == parts


@settings(deadline=None, database=None, max_examples=300)
@given(st.data())
def test_broken_bodies_are_refused_and_never_a_fault(data):
    parts = [("a.jpg", b"abc"), ("b.jpg", bytes(50))]
    body, kind = data.draw(st.sampled_from([form(parts), (b'{"images": [{"data": "AAAA"}]}', "application/json")]))
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=4))
        changed = changed or bytearray(b"x")
    with contextlib.suppress(HTTPException):
        parse_pictures(bytes(changed), kind, 8)


def test_one_file_is_the_body():
    for kind in ("image/jpeg", "Image/PNG", "application/octet-stream"):
        (one,) = parse_pictures(b"abc", kind, 1)
        assert (one.name, bytes(one.content)) == ("image", b"abc")


def test_what_is_refused():
    two, boundary = form([("a", b"1"), ("b", b"2")])
    assert status(b"x", "text/plain") == 415
    assert status(b"x", "") == 415
    assert status(two, boundary, 1) == 413
    assert status(*form([("a", b"1")], "pictures")) == 422
    assert status(two[:-8], boundary) == 400
    assert status(two, "multipart/form-data") == 400
    assert status(two, f"multipart/form-data; boundary={'b' * 500}") == 400
    assert status(b"--b--\r\n", "multipart/form-data; boundary=b") in {400, 422}
    for body in (
        b"", b"[]", b"{", b'{"images": []}', b'{"images": [{"data": "!"}]}', b'{"images": [{"data": 3}]}',
        b'{"images": [{"data": "AAAA", "x": 1}]}', b'{"images": [{"data": "AAAA"}], "x": 1}', b"\xff\xfe",
        b'{"images": [{"data": "data:image/png;base64,AAAA"}]}', b"[" * 100_000,
    ):  # fmt: skip
        assert status(body, "application/json") == 422
    assert status(b'{"images": [{"data": "AAAA"}, {"data": "AAAA"}]}', "application/json", 1) == 413
