"""The gallery with a million pictures: start, memory, change of class at the server and in the browser.

Run `python benchmarks/gallery.py` (about a minute; 2 GB of memory, 300 MB of disk). Needs Linux, Chromium and
playwright (the `dev` extra). There is no peer: the numbers stand beside what the gallery is meant to keep.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from manyhot.predictions import Predictions

IMAGES, CLASSES = 1_000_000, 80
FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
WATCH = """window.long = [];
new PerformanceObserver((list) => { for (const one of list.getEntries()) window.long.push(one.duration); })
    .observe({ type: "longtask", buffered: true });"""
TRACED = ["toplevel", "disabled-by-default-devtools.timeline"]


def write_table(path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((IMAGES, CLASSES), dtype=np.float32)
    labels = (rng.random((IMAGES, CLASSES), dtype=np.float32) < 0.2 * scores).astype(np.int8)
    ids = tuple(f"{i:07}" for i in range(IMAGES))
    Predictions(ids, ("val",) * IMAGES, scores, labels, tuple(f"class {c}" for c in range(CLASSES))).save(path)


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def class_at_the_server(url: str, pid: int) -> tuple[float, float]:
    """Seconds by the clock and of the processor for the arrays of one class; the medians of ten."""
    clock, processor = [], []
    for c in range(20, 30):
        start, spent = time.perf_counter(), processor_seconds(pid)
        with urllib.request.urlopen(f"{url}api/classes/{c}/ranking") as answer:  # noqa: S310
            answer.read()
        clock.append(time.perf_counter() - start)
        processor.append(processor_seconds(pid) - spent)
    return float(np.median(clock)), float(np.mean(processor))


def longest_task(trace: bytes) -> float:
    """Processor seconds of the longest task of the page's main thread, which waiting for a core does not lengthen."""
    events = json.loads(trace)["traceEvents"]
    names = {
        (e["pid"], e["tid"]) for e in events if e["name"] == "thread_name" and e["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        e["tdur"] for e in events if "tdur" in e and e["name"].endswith("RunTask") and (e["pid"], e["tid"]) in names
    ]
    return max(tasks) / 1e6


def browse(url: str) -> dict[str, float]:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.add_init_script(WATCH)
        browser.start_tracing(page=page, categories=TRACED)
        page.goto(url)
        page.locator("#count", has_text="1,000,000 of 1,000,000").wait_for(timeout=120_000)
        page.wait_for_timeout(8000)  # the measures of all classes are computed meanwhile
        seconds, nodes = [], 0
        for c in range(3, 11):
            start = time.perf_counter()
            page.locator(f"#class-{c}").click()
            page.locator("#class-name", has_text=re.compile(f"^class {c}$")).wait_for()
            seconds.append(time.perf_counter() - start)
            page.wait_for_timeout(400)
        for order in ("bottom", "near", "loss", "top"):
            page.select_option("#order", order)
            page.wait_for_timeout(500)
        for share in np.linspace(0, 1, 21).tolist():
            page.evaluate(
                "s => { const g = document.getElementById('grid'); g.scrollTop = s * g.scrollHeight; }", share
            )
            page.wait_for_timeout(60)
            nodes = max(nodes, page.evaluate("document.querySelectorAll('*').length"))
        longest = page.evaluate("Math.max(0, ...window.long)")
        spent = longest_task(browser.stop_tracing())
        browser.close()
    return {"change": float(np.median(seconds)), "longest": longest / 1000, "spent": spent, "nodes": nodes}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "scores.parquet"
        write_table(table)
        command = [sys.executable, "-m", "manyhot", "browse", str(table), "--port", "0"]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
            try:
                assert server.stdout is not None
                match = re.search(r"http://\S+", server.stdout.readline())
                assert match, "the server did not start"
                url = match[0]
                urllib.request.urlopen(url + "api/gallery").close()  # noqa: S310
                started, spent = time.perf_counter() - start, processor_seconds(server.pid)
                urllib.request.urlopen(url + "api/classes/0/ranking").close()  # noqa: S310
                first, first_spent = time.perf_counter() - start, processor_seconds(server.pid)
                served, served_spent = class_at_the_server(url, server.pid)
                found = browse(url)
                status = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
                peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1e6
            finally:
                server.terminate()
    rows = [
        ("server start", started, 5, "s"),
        ("the same, processor time", spent, 5, "s"),
        ("start to the first class", first, None, "s"),
        ("the same, processor time", first_spent, None, "s"),
        ("memory of the server, peak", peak, 1.5, "GB"),
        ("a class at the server", served, 0.5, "s"),
        ("the same, processor time", served_spent, 0.5, "s"),
        ("change of class, click to tiles", found["change"], 0.5, "s"),
        ("longest task of the page", found["longest"], 0.2, "s"),
        ("the same, processor time", found["spent"], 0.2, "s"),
        ("elements while scrolling, most", found["nodes"], 1000, "elements"),
    ]
    print(f"{IMAGES:,} pictures x {CLASSES} classes; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name, value, limit, unit in rows:
        print(f"{name:34} {value:8.3g} {unit}" + (f" (to keep: {limit:g})" if limit else ""))
    print(
        json.dumps(
            [{"benchmark": f"gallery: {n}", "value": round(v, 3), "unit": u, "n": IMAGES} for n, v, _, u in rows]
        )
    )


if __name__ == "__main__":
    main()
