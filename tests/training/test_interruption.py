"""Real signals: the first is noted, the second has its usual effect."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from manyhot.errors import Interrupted
from manyhot.training.interruption import SignalWatch

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
BOTH = [signal.SIGINT, signal.SIGTERM]

CHILD = """
import os, signal, sys
from manyhot.training.interruption import SignalWatch
with SignalWatch() as watch:
    for _ in range({times}):
        os.kill(os.getpid(), {signum})
        print(watch.signum, flush=True)
os.kill(os.getpid(), {after})
print("still here")
"""


def child(times: int, signum: int, after: int = 0) -> tuple[int, str]:
    code = CHILD.format(times=times, signum=int(signum), after=int(after))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return run.returncode, run.stdout


@pytest.fixture
def handlers():
    former = {signum: signal.getsignal(signum) for signum in BOTH}
    yield former
    assert {signum: signal.getsignal(signum) for signum in BOTH} == former


@pytest.mark.parametrize("signum", BOTH)
def test_the_first_signal_is_noted(signum, handlers):
    with SignalWatch() as watch:
        assert watch.signum is None
        os.kill(os.getpid(), signum)
        assert watch.signum == signum
    assert watch.signum == signum


@pytest.mark.parametrize("signum", BOTH)
def test_a_second_signal_ends_the_program_as_usual(signum):
    code, said = child(2, signum)
    assert code == -signum
    assert said == f"{int(signum)}\n"


@pytest.mark.parametrize("signum", BOTH)
def test_one_signal_does_not_end_the_program_and_later_ones_do(signum):
    assert child(1, signum) == (0, f"{int(signum)}\nstill here\n")
    assert child(1, signum, after=signum) == (-signum, f"{int(signum)}\n")


def test_after_the_first_of_one_kind_the_other_kind_works_again(handlers):
    with SignalWatch() as watch:
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_exception_gives_the_handlers_back(handlers):
    with pytest.raises(ZeroDivisionError), SignalWatch():
        raise ZeroDivisionError


def test_handlers_of_others_come_back(handlers):
    heard = []
    former = signal.signal(signal.SIGTERM, lambda signum, _: heard.append(signum))
    try:
        with SignalWatch() as watch:
            os.kill(os.getpid(), signal.SIGTERM)
            assert (watch.signum, heard) == (signal.SIGTERM, [])
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, former)


def test_in_another_thread_it_watches_nothing_and_breaks_nothing(handlers):
    seen = []

    def work():
        with SignalWatch() as watch:
            seen.append((watch.signum, signal.getsignal(signal.SIGTERM) == handlers[signal.SIGTERM]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, True)]


def test_the_exception_carries_the_signal():
    assert Interrupted(signal.SIGTERM).signum == 15
    assert str(Interrupted(signal.SIGINT)) == "SIGINT"
