"""The C allocator on Linux: keep large blocks instead of giving them back after every layer."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def keep_large_blocks() -> None:
    """Tell glibc's malloc to reuse blocks of up to 1 GiB; does nothing elsewhere.

    By default glibc maps every feature map anew and unmaps it after use, and the kernel clears its pages each time:
    a third of the processor time of a convolutional network on a CPU (benchmarks/allocator.py).
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
