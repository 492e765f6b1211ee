"""Who asks, told from the head of a request: host names, other sites, tokens; and the answer to those refused."""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?")


class Headers:
    """Headers of an ASGI request, by their names in small letters."""

    def __init__(self, scope: Scope) -> None:
        self._pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]

    def first(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self._pairs if key == name), None)

    def only(self, name: str) -> str | None:
        """The value of a header that stands once."""
        values = [value for key, value in self._pairs if key == name]
        return values[0] if len(values) == 1 else None


def is_ours(host: str | None, *, loopback: bool) -> bool:
    """Whether a `Host` header names this machine; of `loopback`, by its names for itself alone.

    A page of another site whose name was made to lead here names that site instead (DNS rebinding).
    """
    match = _HOST.fullmatch(host or "")
    if match is None:
        return False
    name = match[1].lower()
    if name in _LOOPBACK:
        return True
    if loopback:
        return False
    try:  # no name of a foreign domain can stand for an address that is written out
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name in {socket.gethostname().lower(), socket.getfqdn().lower()}
    return True


def writes_from_elsewhere(headers: Headers) -> bool:
    """Whether a browser says that the page of another site sends this request."""
    origin = headers.first("origin")
    foreign = origin is not None and urlsplit(origin).netloc != headers.only("host")
    return foreign or headers.first("sec-fetch-site") in ("cross-site", "same-site")


def bearer(headers: Headers) -> str:
    """The token of `Authorization: Bearer`; empty where there is none."""
    return (headers.first("authorization") or "").removeprefix("Bearer ")


def same(shown: str, wanted: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell how much of them is."""
    return hmac.compare_digest(shown.encode(), wanted.encode())


async def answer(send: Send, status: int, what: str, headers: dict[str, str] | None = None) -> None:
    """Answer by `{"detail": what}`; by nothing where `what` is empty."""
    body = json.dumps({"detail": what}).encode() if what else b""
    pairs = {"content-type": "application/json", "content-length": str(len(body)), "cache-control": "no-store"}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in (pairs | (headers or {})).items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
