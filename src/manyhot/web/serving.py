"""Start the gallery's server and say where it is."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from collections.abc import Callable

import uvicorn

from manyhot.errors import UserError
from manyhot.web.app import create_app
from manyhot.web.guard import Guard
from manyhot.web.opening import Opened

log = logging.getLogger("manyhot")

MIN_TOKEN = 16
"""Characters of a token; `python -c "import secrets; print(secrets.token_urlsafe())"` gives a good one."""


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
    loopback = _is_loopback(host)
    if not loopback and not token:
        remedy = f"Give --token, {MIN_TOKEN} characters or more."
        raise UserError(f"{host} can be reached from other machines; that needs a token.", remedy=remedy)
    if token is not None and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable()):
        raise UserError(f"a token has {MIN_TOKEN} characters or more, of plain ASCII.")
    listening = _listen(host, port)
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
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listening.getsockname()[1]}/"
    ready(address + (f"?token={token}" if token else ""))
    if opened.collection is not None:  # begin to read scores: the first page will ask for them
        threading.Thread(target=opened.collection.warm, daemon=True).start()
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()


def _listen(host: str, port: int) -> socket.socket:
    listening = None
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(128)
    except OSError as error:
        if listening is not None:
            listening.close()
        remedy = "Choose another one: --port, or --port 0 for a free one."
        raise UserError(f"port {port} of {host} cannot be had ({error.strerror}).", remedy=remedy) from None
    return listening


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
