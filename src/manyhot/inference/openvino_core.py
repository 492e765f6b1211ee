"""OpenVINO's one Core, and the stack on which signals are taken, which every further Core may leave broken."""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from manyhot.inference.packages import require

_making = threading.Lock()


def openvino_core() -> Any:
    """The one `openvino.Core` of this process, which any thread may use; it lives as long as the process.

    On Linux each Core that compiles for a CPU gives the calling thread another stack for its signal handlers. At its
    end it frees that stack and puts the former one back, where it is not in another thread by then; the former one may
    be that of a Core that ended before. Then the next signal, be it Ctrl-C, kills the process by a fault of memory.

    Source: OpenVINO, src/plugins/intel_cpu/src/plugin.cpp, `SigAltStackSetup`.

    Raises:
        UserError: openvino is not installed.
    """
    with _making:
        return _core()


@functools.cache
def _core() -> Any:
    return require("openvino").Core()


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """While open, others may make Cores in this thread: afterwards it takes signals on the stack that it did before.

    Such Cores may end later, then without harm; see `openvino_core` for what they would do. Elsewhere than on Linux
    nothing is done.

    Source: sigaltstack(2).
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    change = ctypes.CDLL(None).sigaltstack
    former = _Stack()
    change(None, ctypes.byref(former))
    try:
        yield
    finally:
        change(ctypes.byref(former), None)
