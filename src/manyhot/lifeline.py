"""Connections between the processes of a run, by which each learns at once that another has ended, and how."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_CONNECT_SECONDS = 60.0
# A machine that lost its power sends no end of the connection: it is given up after 10 + 4 * 5 seconds.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


class Lifeline:
    """Process 0 is connected with each of the others; the kernel closes the connections of a process that dies.

    A process that ends says how, in one line, before it closes its own. Process 0 alone speaks to people: it prints the
    error of another one, or that one has died, and ends them all. If it is itself the one that died, process 1 says so.
    Without this a collective operation would wait for the dead until its timeout.

    Arguments:
        rank: of this process.
        connections: by rank; process 0 has all others, which have process 0 alone.
        remedy: what people can do when a process has died.
    """

    def __init__(self, rank: int, connections: dict[int, socket.socket], remedy: str) -> None:
        self._rank, self._connections, self._remedy = rank, connections, remedy
        self._count = max((rank, *connections)) + 1
        self._lock = threading.Lock()
        self._left = False
        self._listeners = []
        for peer, connection in connections.items():
            _keep_alive(connection)
            self._listeners.append(threading.Thread(target=self._listen, args=(peer, connection), daemon=True))
            self._listeners[-1].start()

    def leave(self, code: int, text: str = "") -> None:
        """End this process's part: with code 0 in order, else `text` is the error that ends the run."""
        with self._lock:
            if self._left:
                return
            self._left = True
            self._tell(code, text if self._rank else "")  # process 0 prints its own

    def await_others(self, seconds: float) -> None:
        """Wait until another process has told its end, which ends this one too, or for so long."""
        deadline = time.monotonic() + seconds
        for listener in self._listeners:
            listener.join(max(0.0, deadline - time.monotonic()))

    def _tell(self, code: int, text: str) -> None:
        for connection in self._connections.values():
            try:
                connection.sendall(json.dumps([code, text]).encode())
                connection.shutdown(socket.SHUT_WR)
            except OSError:  # it ended before
                continue

    def _listen(self, peer: int, connection: socket.socket) -> None:
        code, text = _read_all(connection)
        if code == 0:
            return
        with self._lock:
            if self._left:
                return
            if code is None:
                code = 1
                text = f"process {peer} of {self._count} has died: the run stops. {self._remedy}"
            self._left = True
            self._tell(code, "")
            if text and self._rank in {0, 1}:
                print(f"error: {text}", file=sys.stderr, flush=True)
            os._exit(code)  # the main thread may wait within a collective operation, where no exception reaches it


def connect(rank: int, count: int, host: str, share: Callable[[Any], Any], secret: str, remedy: str) -> Lifeline:
    """Connect process 0 with all others.

    Arguments:
        rank: of this process, 0…count - 1.
        count: of processes.
        host: name or address of the machine of process 0.
        share: gives every process what process 0 gives to it; a collective operation.
        secret: known to the processes alone; connections of strangers are closed.
        remedy: as `Lifeline`.
    """
    if rank:
        connection = socket.create_connection((host, share(None)), timeout=_CONNECT_SECONDS)
        connection.sendall(f"{secret} {rank}\n".encode())
        return Lifeline(rank, {0: connection}, remedy)
    connections: dict[int, socket.socket] = {}
    with _listener(host) as listener:
        listener.settimeout(_CONNECT_SECONDS)
        share(listener.getsockname()[1])
        while len(connections) < count - 1:
            connection, _ = listener.accept()
            connection.settimeout(_CONNECT_SECONDS)
            said, _, number = _read_line(connection).partition(" ")
            if said == secret:
                connections[int(number)] = connection
            else:
                connection.close()
    return Lifeline(0, connections, remedy)


def _listener(host: str) -> socket.socket:
    try:
        return socket.create_server((host, 0))
    except OSError:  # the name leads here by way of another machine
        return socket.create_server(("", 0))


def _keep_alive(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _read_line(connection: socket.socket) -> str:
    """One line, read byte by byte: what follows it is left in the connection."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 200:
            byte = connection.recv(1)
            if not byte:
                break
            line += byte
    except OSError:
        return ""
    return line.decode(errors="replace").strip()


def _read_all(connection: socket.socket) -> tuple[int | None, str]:
    """What the other side said before its end; None where it died without a word."""
    said = b""
    try:
        while more := connection.recv(4096):
            said += more
        code, text = json.loads(said)
    except (OSError, ValueError):
        return None, ""
    return code, text
