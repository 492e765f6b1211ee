"""Ctrl-C and SIGTERM: finish the step, save, and leave with the exit code that shells expect."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from manyhot import processes
from manyhot.errors import Interrupted


class SignalWatch:
    """While open, SIGINT and SIGTERM are noted instead of carried out; a second one has its usual effect."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._former: dict[int, Any] = {}

    def stop_if_asked(self) -> None:
        """Raise Interrupted if a signal came; of several processes in process 0 alone, whose end ends the others."""
        if self.signum is not None and processes.is_main():
            raise Interrupted(self.signum)

    def stop_together(self) -> None:
        """Raise Interrupted in every process if a signal came to any; all call it at the same place of their work."""
        signum = processes.largest(self.signum or 0)
        if signum:
            raise Interrupted(signum)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._former[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._restore()

    def _note(self, signum: int, _: FrameType | None) -> None:
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._former.items():
            signal.signal(signum, handler)
        self._former.clear()
