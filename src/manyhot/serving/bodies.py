"""Bodies of requests, read within bounds: so long, so slow, so much of them in memory at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from manyhot.serving.limits import Limits

_LAST_SECONDS = 5.0  # that a body still has when the server is to stop


class Bodies:
    """Reads bodies whole, and knows how much of them is in memory.

    Arguments:
        limits: bytes and seconds.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0
        self._arriving: set[asyncio.Timeout] = set()
        self._stopping = False

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return self._held

    def stop(self) -> None:
        """Give what still arrives a few seconds more."""
        self._stopping = True
        latest = asyncio.get_running_loop().time() + _LAST_SECONDS
        for timeout in self._arriving:
            timeout.reschedule(min(latest, timeout.when() or latest))

    @asynccontextmanager
    async def taken(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, counted until the block ends.

        Raises:
            HTTPException: 413 too long; 408 it does not arrive in time; 503 too many others are in memory, or the
                server stops; 415 packed by `Content-Encoding`; 400 it breaks off.
        """
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, "send the body as it is, without content-encoding.")
        announced = request.headers.get("content-length", "0")
        if not announced.isdecimal() or int(announced) > self._limits.body:
            raise self._too_long()
        chunks: list[bytes] = []
        try:
            await self._read(request, chunks)
            if len(chunks) > 1:
                chunks = [b"".join(chunks)]
            yield chunks[0] if chunks else b""
        finally:
            self._held -= sum(map(len, chunks))

    async def _read(self, request: Request, chunks: list[bytes]) -> None:
        """Add to `chunks`; what is in them is counted already, however it ends."""
        length = 0
        timeout = asyncio.timeout(_LAST_SECONDS if self._stopping else self._limits.seconds)
        try:
            async with timeout:
                self._arriving.add(timeout)
                async for chunk in request.stream():
                    length += len(chunk)
                    if length > self._limits.body:
                        raise self._too_long()
                    if self._held + len(chunk) > self._limits.held:
                        raise HTTPException(
                            503, "too much is being sent; try again.", {"retry-after": "1", "connection": "close"}
                        )
                    self._held += len(chunk)
                    chunks.append(chunk)
        except TimeoutError:
            if self._stopping:
                raise HTTPException(503, "the server stops.", {"retry-after": "5", "connection": "close"}) from None
            words = f"the body did not arrive within {self._limits.seconds:g} s."
            raise HTTPException(408, words, {"connection": "close"}) from None
        except ClientDisconnect:
            raise HTTPException(400, "the body broke off.") from None
        finally:
            self._arriving.discard(timeout)

    def _too_long(self) -> HTTPException:
        words = f"a request may have {self._limits.body / 2**20:g} MiB."
        return HTTPException(413, words, {"connection": "close"})  # what follows is not read
