"""What stands between the network and the gallery: hosts, origins, token, sizes of bodies, headers of answers."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types manyhot-worker"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
BODY_LIMIT = 65_536
"""Bytes that a request may send."""

STREAMED = frozenset({"/api/try/scores", "/api/try/heat", "/api/try/image"})
"""Places that take longer bodies, and count them themselves while they read (`manyhot.web.uploading`)."""

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?")


@dataclass(frozen=True)
class Guard:
    """Lets through what the page itself may ask.

    Arguments:
        app: what answers.
        loopback: served on this machine alone; else also under addresses and names of this machine.
        token: what every request must show, as cookie or `Authorization: Bearer`; None asks for nothing.
    """

    app: App
    loopback: bool = True
    token: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = _Headers(scope)
        if fault := self._fault(scope, headers):
            await _answer(send, *fault)
        elif self.token and (answer := self._entered(scope, headers)):
            await _answer(send, *answer)
        elif scope["method"] == "POST" and scope["path"] in STREAMED:
            await self.app(scope, receive, _with_headers(send))
        elif (body := await _body(headers, receive)) is None:
            await _answer(send, 413, "the request is too large.")
        else:
            await self.app(scope, _replayed(body, receive), _with_headers(send))

    def _fault(self, scope: Scope, headers: _Headers) -> tuple[int, str] | None:
        host = headers.only("host")
        if host is None or not self._is_ours(host):
            return 400, "this address is not the gallery's."
        site = headers.first("sec-fetch-site")
        if scope["method"] in ("GET", "HEAD"):
            navigates = headers.first("sec-fetch-mode") == "navigate" and scope["path"] == "/"
            if site in ("cross-site", "same-site") and not navigates:
                return 403, "another site may not read this."
            return None
        origin = headers.first("origin")
        if (origin is not None and urlsplit(origin).netloc != host) or site in ("cross-site", "same-site"):
            return 403, "another site may not write here."
        return None

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].lower()
        if name in _LOOPBACK:
            return True
        if self.loopback:
            return False
        try:  # no name of a foreign domain can stand for an address that is written out
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name in {socket.gethostname().lower(), socket.getfqdn().lower()}
        return True

    def _entered(self, scope: Scope, headers: _Headers) -> tuple[int, str, dict[str, str]] | None:
        """None where the token was shown; else what to answer."""
        assert self.token is not None
        proof = hashlib.sha256(b"manyhot gallery\0" + self.token.encode()).hexdigest()
        bearer = (headers.first("authorization") or "").removeprefix("Bearer ")
        cookies = dict(pair.strip().partition("=")[::2] for pair in (headers.first("cookie") or "").split(";"))
        if _same(bearer, self.token) or _same(cookies.get("manyhot", ""), proof):
            return None
        asked = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["path"] == "/" and scope["method"] == "GET" and _same(asked.pop("token", [""])[0], self.token):
            cookie = f"manyhot={proof}; Path=/; HttpOnly; SameSite=Strict"
            return 303, "", {"location": "/?" + urlencode(asked, doseq=True), "set-cookie": cookie}
        return 401, "open the address that `manyhot browse` printed; it holds the token.", {}


class _Headers:
    def __init__(self, scope: Scope) -> None:
        self._pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]

    def first(self, name: str) -> str | None:
        return next((value for key, value in self._pairs if key == name), None)

    def only(self, name: str) -> str | None:
        values = [value for key, value in self._pairs if key == name]
        return values[0] if len(values) == 1 else None


def _same(shown: str, wanted: str) -> bool:
    return hmac.compare_digest(shown.encode(), wanted.encode())


async def _body(headers: _Headers, receive: Receive) -> bytes | None:
    """The whole body; None where it is longer than allowed, however it was announced."""
    length = headers.first("content-length")
    if length is not None and (not length.isdecimal() or int(length) > BODY_LIMIT):
        return None
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > BODY_LIMIT:
            return None
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(send: Send) -> Send:
    extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *extra]
        await send(message)

    return wrapped


async def _answer(send: Send, status: int, what: str, headers: dict[str, str] | None = None) -> None:
    body = json.dumps({"detail": what}).encode() if what else b""
    pairs = {"content-type": "application/json", "content-length": str(len(body)), "cache-control": "no-store"}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in (pairs | (headers or {})).items()]
    send = _with_headers(send)
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
