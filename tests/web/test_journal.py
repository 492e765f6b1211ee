"""The file of decisions: what was acknowledged is there after any kill, and nothing else is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhot.errors import UserError
from manyhot.web.journal import ACTIONS, Journal

WRITER = """
import sys
from pathlib import Path
from manyhot.web.journal import Journal
journal = Journal(Path(sys.argv[1]))
for i in range(10**9):
    journal.decide(f"picture {i}", "cat", 1, "flip")
    print(i, flush=True)
"""

steps = st.lists(
    st.one_of(st.none(), st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.sampled_from(ACTIONS)))
)


@given(steps)
def test_undo_walks_back_step_by_step(tmp_path_factory, taken):
    path = tmp_path_factory.mktemp("journal") / "made.jsonl"
    journal, states = Journal(path), [{}]
    for step in taken:
        if step is None:
            journal.undo()
            if len(states) > 1:
                states.pop()
        else:
            id_, name, action = step
            journal.decide(id_, name, 1, action)
            states.append({**states[-1], (id_, name): action})
        assert {pair: one.action for pair, one in journal.decisions.items()} == states[-1]
    journal.close()
    assert {pair: one.action for pair, one in Journal(path).decisions.items()} == states[-1]


@given(st.integers(0, 400))
def test_a_line_cut_anywhere_costs_that_line_alone(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "made.jsonl"
    journal = Journal(path)
    for i in range(4):
        journal.decide(f"bild-ä{i}", "cat", 1, "keep")
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    left = whole[:cut].count(b"\n")
    journal = Journal(path)
    assert [one.id for one in journal.decisions.values()] == [f"bild-ä{i}" for i in range(left)]
    journal.decide("next", "cat", 0, "flip")
    journal.close()
    assert [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()][-1] == "next"
    assert len(Journal(path).decisions) == left + 1


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path):
    path = tmp_path / "made.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(25):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        said = 25 + len(writer.stdout.read().split())
    assert said <= len(Journal(path).decisions) <= said + 1


def test_one_writes_at_a_time(tmp_path):
    path = tmp_path / "made.jsonl"
    first, second = Journal(path), Journal(path)
    assert not path.exists()
    first.decide("a", "cat", 1, "keep")
    with pytest.raises(UserError, match="another gallery"):
        second.decide("b", "cat", 1, "keep")
    first.close()
    second.decide("b", "cat", 1, "keep")
    assert [one.id for one in second.decisions.values()] == ["a", "b"]
    second.close()


@pytest.mark.parametrize(
    "line", [b"{}", b"nonsense", b"[]", b'{"action": "undo"}', b"\xff", b"", b'{"action": "keep"}']
)
def test_a_foreign_line_is_named(tmp_path: Path, line):
    path = tmp_path / "made.jsonl"
    journal = Journal(path)
    journal.decide("a", "cat", 1, "keep")
    journal.close()
    path.write_bytes((b"" if b"undo" in line else path.read_bytes()) + line + b"\n")
    with pytest.raises(UserError, match=r"made\.jsonl, line \d: this is no line of decisions"):
        Journal(path)
