"""How long `manyhot --help` takes, beside the import of the library that parses the command line."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

OURS = [sys.executable, "-m", "manyhot", "--help"]
PEER = [sys.executable, "-c", "import typer"]
TURNS = 15


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return time.perf_counter() - start


def main() -> None:
    """Take turns, and compare medians."""
    for command in (OURS, PEER):
        seconds(command)  # warm-up: compiled bytecode, disk cache
    pairs = [(seconds(OURS), seconds(PEER)) for _ in range(TURNS)]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"manyhot --help   {ours * 1e3:6.0f} ms\nimport typer     {theirs * 1e3:6.0f} ms")
    print(f"ratio            {ours / theirs:6.2f}")
    result = {
        "benchmark": "startup", "ratio": round(ours / theirs, 3), "peer": "import typer",
        "ours": round(ours, 4), "theirs": round(theirs, 4), "unit": "s", "n": TURNS,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
