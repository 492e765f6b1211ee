"""Start the gallery's server and say where it is."""

from __future__ import annotations

import threading
from collections.abc import Callable

import uvicorn

from manyhot.http.address import address_of, listen, require_safe
from manyhot.web.app import create_app
from manyhot.web.guard import Guard
from manyhot.web.opening import Opened


def serve(opened: Opened, *, host: str, port: int, token: str | None, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Arguments:
        opened: what is to be seen.
        host: address to listen on; another than this machine's own needs a token.
        port: 0 takes a free one.
        token: what every visitor must show; None asks for nothing.
        ready: called with the address once the server listens.

    Raises:
        UserError: an address without a token, a short token, an address or port that cannot be had.
    """
    loopback = require_safe(host, token)
    listening = listen(host, port)
    guard = Guard(create_app(opened), loopback, token)
    config = uvicorn.Config(
        guard,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    ready(address_of(listening, host) + (f"?token={token}" if token else ""))
    if opened.collection is not None:  # begin to read scores: the first page will ask for them
        threading.Thread(target=opened.collection.warm, daemon=True).start()
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()
