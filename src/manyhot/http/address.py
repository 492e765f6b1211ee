"""Where a server listens: this machine alone, unless visitors must show a token."""

from __future__ import annotations

import ipaddress
import socket

from manyhot.errors import UserError

MIN_TOKEN = 16
"""Characters of a token; `python -c "import secrets; print(secrets.token_urlsafe())"` gives a good one."""


def require_safe(host: str, token: str | None) -> bool:
    """Whether `host` is this machine's own address, which other machines do not reach.

    Raises:
        UserError: another address without a token, or a token that is short or not of plain ASCII.
    """
    loopback = _is_loopback(host)
    if not loopback and not token:
        remedy = f"Give --token, {MIN_TOKEN} characters or more."
        raise UserError(f"{host} can be reached from other machines; that needs a token.", remedy=remedy)
    if token is not None and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable()):
        raise UserError(f"a token has {MIN_TOKEN} characters or more, of plain ASCII.")
    return loopback


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        UserError: an address or port that cannot be had.
    """
    listening = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        family, kind, protocol, _, place = found
        # With the protocol named, asyncio sends every part of an answer at once (TCP_NODELAY); else the second part
        # waits for the client to acknowledge the first: 40 ms.
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(128)
    except OSError as error:
        if listening is not None:
            listening.close()
        remedy = "Choose another one: --port, or --port 0 for a free one."
        raise UserError(f"port {port} of {host} cannot be had ({error.strerror}).", remedy=remedy) from None
    return listening


def address_of(listening: socket.socket, host: str) -> str:
    """`http://HOST:PORT/` of a listening socket."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}/"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
