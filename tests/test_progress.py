"""Progress: log lines where nobody watches, a bar on a terminal, and never a change of what is iterated."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from manyhot import progress as module
from manyhot.progress import progress, track

BAR = (
    "import logging, time; from manyhot.progress import track; logging.getLogger('manyhot').setLevel(logging.INFO)\n"
    "assert list(track(range(20), 20, 'reading', 'pages', )) == list(range(20))\n"
)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Every step may say a line."""
    monkeypatch.setattr(module, "LOG_EVERY_SECONDS", 0.0)
    caplog.set_level(logging.INFO, logger="manyhot")
    return caplog


def test_tracking_gives_the_items_and_takes_them_one_by_one():
    taken = []

    def source():
        for number in range(5):
            taken.append(number)
            yield number

    for number in track(source(), 5, "counting"):
        assert taken[-1] == number


def test_lines_count_up_and_stop_before_the_end(said):
    with progress(4, "scoring", "pages") as bar:
        for _ in range(4):
            bar.advance(note="loss 0.5")
    assert [record.getMessage().split(",")[0] for record in said.records] == [
        "scoring: 1 of 4",
        "scoring: 2 of 4",
        "scoring: 3 of 4",
    ]
    assert all("pages/s" in text and "s left" in text and text.endswith("loss 0.5") for text in said.messages)


def test_nothing_done_yet_is_no_rate(said):
    with progress(4, "scoring") as bar:
        bar.advance(0)
        bar.advance(2)
    assert [text.split(",")[0] for text in said.messages] == ["scoring: 2 of 4"]


def test_quick_work_says_nothing(caplog):
    caplog.set_level(logging.INFO, logger="manyhot")
    assert list(track("abc", 3, "spelling")) == ["a", "b", "c"]
    assert not caplog.records


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("quiet", "shown"), [(False, True), (True, False)])
def test_a_terminal_shows_a_bar_unless_told_to_be_quiet(quiet, shown):
    ours, theirs = os.openpty()
    code = BAR.replace("manyhot').setLevel(logging.INFO)", "manyhot.progress').disabled = True") if quiet else BAR
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env=environment) as process:
        os.close(theirs)
        pieces = []
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            pieces.append(piece)
    os.close(ours)
    assert process.returncode == 0
    text = b"".join(pieces).decode()
    assert ("reading" in text) is shown
    assert ("pages/s" in text) is shown
    assert ("20/20" in text) is shown
