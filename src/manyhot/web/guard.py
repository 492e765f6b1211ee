"""What stands between the network and the gallery: hosts, origins, token, sizes of bodies, headers of answers."""

from __future__ import annotations

import hashlib
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode

from manyhot.http.visitors import (
    App,
    Headers,
    Receive,
    Scope,
    Send,
    answer,
    bearer,
    is_ours,
    same,
    writes_from_elsewhere,
)

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
        headers = Headers(scope)
        if fault := self._fault(scope, headers):
            await answer(_with_headers(send), *fault)
        elif self.token and (entry := self._entered(scope, headers)):
            await answer(_with_headers(send), *entry)
        elif scope["method"] == "POST" and scope["path"] in STREAMED:
            await self.app(scope, receive, _with_headers(send))
        elif (body := await _body(headers, receive)) is None:
            await answer(_with_headers(send), 413, "the request is too large.")
        else:
            await self.app(scope, _replayed(body, receive), _with_headers(send))

    def _fault(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        if not is_ours(headers.only("host"), loopback=self.loopback):
            return 400, "this address is not the gallery's."
        if scope["method"] in ("GET", "HEAD"):
            navigates = headers.first("sec-fetch-mode") == "navigate" and scope["path"] == "/"
            if headers.first("sec-fetch-site") in ("cross-site", "same-site") and not navigates:
                return 403, "another site may not read this."
            return None
        return (403, "another site may not write here.") if writes_from_elsewhere(headers) else None

    def _entered(self, scope: Scope, headers: Headers) -> tuple[int, str, dict[str, str]] | None:
        """None where the token was shown; else what to answer."""
        assert self.token is not None
        proof = hashlib.sha256(b"manyhot gallery\0" + self.token.encode()).hexdigest()
        cookies = dict(pair.strip().partition("=")[::2] for pair in (headers.first("cookie") or "").split(";"))
        if same(bearer(headers), self.token) or same(cookies.get("manyhot", ""), proof):
            return None
        asked = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["path"] == "/" and scope["method"] == "GET" and same(asked.pop("token", [""])[0], self.token):
            cookie = f"manyhot={proof}; Path=/; HttpOnly; SameSite=Strict"
            return 303, "", {"location": "/?" + urlencode(asked, doseq=True), "set-cookie": cookie}
        return 401, "open the address that `manyhot browse` printed; it holds the token.", {}


async def _body(headers: Headers, receive: Receive) -> bytes | None:
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
