"""Settings of the process under which networks run well on a CPU, made before torch is loaded."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h

ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Environment for processes that do not begin with `prepare_processor`: their threads have arenas before it runs."""


def prepare_processor() -> None:
    """Let waiting threads sleep, and keep large memory blocks (benchmarks/processor.py measures both).

    OpenMP's threads spin at the end of each parallel loop. Where another program, or our own decoding, holds a core,
    they spin for one that is not running: training falls to a third of its speed, at times to far less. Asleep they
    cost training about a tenth on an idle machine. A value of OMP_WAIT_POLICY that the user set holds.

    glibc's malloc maps every large feature map anew and unmaps it after use, and the kernel clears its pages each
    time: up to a third of the processor time of a convolutional network. Threads other than the first have arenas of
    their own, which give pages back whatever the threshold; with one arena for all they do not. A value of
    MALLOC_ARENA_MAX that the user set holds. Threads that have allocated before keep their arenas.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    if "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)
