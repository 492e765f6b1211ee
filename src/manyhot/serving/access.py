"""Who may ask the server: this machine, or whoever shows the token."""

from __future__ import annotations

from dataclasses import dataclass

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

OPEN = frozenset({"/healthz", "/readyz"})
"""Places that need no token: what watches over the server seldom has one."""


@dataclass(frozen=True)
class Access:
    """Lets through who may ask.

    Without a token only this machine reaches the server, and so do the pages that a browser here shows: those of other
    sites are refused, by the host name they ask for and by what the browser says of their origin.

    Arguments:
        app: what answers.
        token: as `Authorization: Bearer`; None asks for nothing.
    """

    app: App
    token: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http" and (fault := self._fault(Headers(scope), scope)):
            await answer(send, *fault)
            return
        await self.app(scope, receive, send)

    def _fault(self, headers: Headers, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        if self.token is None:
            if not is_ours(headers.only("host"), loopback=True):
                return 400, "without a token this server answers under 127.0.0.1 and localhost alone.", _CLOSE
            if scope["method"] not in ("GET", "HEAD") and writes_from_elsewhere(headers):
                return 403, "the page of another site may not ask here.", _CLOSE
        elif scope["path"] not in OPEN and not same(bearer(headers), self.token):
            return 401, "show the token: Authorization: Bearer TOKEN.", {"www-authenticate": "Bearer", **_CLOSE}
        return None


_CLOSE = {"connection": "close"}  # a body that follows is not read
