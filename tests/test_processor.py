"""What the process's settings do, by the kernel's own count of the pages that it had to clear."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc's malloc")

# Like a network's feature maps: blocks of tens of megabytes, two alive at a time, all of them written to.
WORK = textwrap.dedent("""
    import resource, sys, threading
    if sys.argv[1] == "ours":
        from manyhot.processor import prepare_processor
        prepare_processor()
    import numpy as np

    def work():
        def maps():
            former = np.ones(5 << 20)
            for _ in range(30):
                former = former + 1.0
        maps()
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        maps()
        print(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)

    if sys.argv[2] == "thread":
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        work()
""")


def pages(way: str, where: str, **variables: str) -> int:
    """That the kernel cleared for the second of two rounds of the same work."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, "-c", WORK, way, where]
    result = subprocess.run(command, capture_output=True, text=True, env={**kept, **variables}, check=True)
    return int(result.stdout)


@pytest.mark.parametrize("where", ["main", "thread"])
def test_memory_of_large_blocks_is_kept(where: str) -> None:
    assert pages("plain", where) > 300
    assert pages("ours", where) < 100


def test_a_number_of_arenas_that_the_user_set_holds() -> None:
    assert pages("ours", "thread", MALLOC_ARENA_MAX="8") > 300
