"""Start the server, say where it is, and stop it so that nobody who was let in is left without an answer."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from manyhot.http.address import address_of, listen, require_safe
from manyhot.inference.predict import Predictor
from manyhot.serving.access import Access
from manyhot.serving.app import Service, create_app
from manyhot.serving.limits import Limits
from manyhot.serving.metrics import Measured
from manyhot.serving.scoring import Scorer

_STOP_SECONDS = 30  # for what was taken to be answered
_HEAD_SECONDS = 10.0  # for the head of a request to arrive
_UNREAD_SECONDS = 60  # that an answer may wait for a client that does not read
_CONNECTIONS = 512


def serve(
    predictor: Predictor,
    *,
    host: str,
    port: int,
    token: str | None,
    limits: Limits,
    threads: int | None = None,
    ready: Callable[[str], None],
) -> int:
    """Serve until SIGINT or SIGTERM; then answer what was taken, and return the signal.

    A second signal ends the process at once.

    Arguments:
        predictor: the model.
        host: address to listen on; another than this machine's own needs a token.
        port: 0 takes a free one.
        token: what every request must show; None asks for nothing.
        limits: bounds.
        threads: that decode; None is one a core, at most 16.
        ready: called with the address once the model is loaded and the server listens.

    Raises:
        UserError: an address without a token, a short token, an address or port that cannot be had.
    """
    require_safe(host, token)
    listening = listen(host, port)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _UNREAD_SECONDS)
    scorer = Scorer(predictor, limits.pixels)
    scorer.warm()
    service = Service(scorer, limits, threads or min(16, os.cpu_count() or 1))
    config = uvicorn.Config(
        Measured(Access(create_app(service), token), service.metrics),
        http=_Protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    server = _Server(config, service)
    ready(address_of(listening, host))
    try:
        server.run(sockets=[listening])
    finally:
        listening.close()
        service.batcher.close()
    return server.signum


class _Server(uvicorn.Server):
    """Uvicorn's, with our way to stop."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.signum = 0
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The first signal is noted; a second one has its usual effect."""
        self.signum = sig
        self.should_exit = True
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen no more, answer what is inside."""
        self._service.stop()
        await super().shutdown(sockets)


class _Protocol(H11Protocol):
    """Uvicorn's, which closes a connection whose next request does not get through its head in time."""

    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """More of a request has come."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        super().connection_lost(exc)
        self._unwatch()

    def _watch_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._watch is None:
            self._watch = self.loop.call_later(_HEAD_SECONDS, self._late)

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _late(self) -> None:
        self._watch = None
        if self.cycle is None or self.cycle.response_complete:
            self.timeout_keep_alive_handler()
