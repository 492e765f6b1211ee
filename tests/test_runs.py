"""The run folder: its paths, its lock, its record of what it ran on, its history."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhot.errors import UserError
from manyhot.runs import Run, open_run, record_environment
from manyhot.training.state import State
from manyhot.training.tracking import write_history

HOLD = (
    "import sys; from pathlib import Path; from manyhot.runs import Run\n"
    "with Run(Path(sys.argv[1])).locked():\n"
    "    print('held', flush=True); sys.stdin.readline()\n"
)


def test_everything_lies_inside_the_folder(tmp_path: Path):
    run = Run(tmp_path)
    paths = [getattr(run, name) for name, kind in vars(Run).items() if isinstance(kind, property)]
    paths.append(run.evaluation("val"))
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(tmp_path) and path != tmp_path for path in paths)


def test_a_folder_is_a_run_by_its_recipe(tmp_path: Path):
    with pytest.raises(UserError, match="no such run folder"):
        open_run(tmp_path / "none")
    with pytest.raises(UserError, match="holds no run"):
        open_run(tmp_path)
    (tmp_path / "recipe.yaml").touch()
    assert open_run(tmp_path) == Run(tmp_path)


def test_another_process_cannot_write_until_the_first_has_ended(tmp_path: Path):
    run = Run(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another process is writing"), run.locked():
            pass
        holder.kill()
    with run.locked(), pytest.raises(UserError, match="another process"), Run(run.path).locked():
        pass
    with run.locked():  # both let go
        pass


def test_an_exception_lets_go_of_the_lock(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), Run(tmp_path).locked():
        raise ZeroDivisionError
    with Run(tmp_path).locked():
        pass


def test_each_start_is_recorded(tmp_path: Path):
    run = Run(tmp_path)
    record_environment(run, "cpu")
    record_environment(run, "cuda:0")
    first, second = json.loads(run.environment.read_text(encoding="utf-8"))
    assert (first["device"], second["device"]) == ("cpu", "cuda:0")
    assert first["python"] == platform.python_version()
    assert (
        first["packages"]["torch"] == torch.__version__.split("+")[0] or first["packages"]["torch"] == torch.__version__
    )
    assert first["threads"] == torch.get_num_threads()
    assert first["command"][1:] == sys.argv[1:]
    assert "/" not in first["command"][0]


lines = st.fixed_dictionaries(
    {
        "epoch": st.integers(1, 99),
        "train_loss": st.floats(allow_nan=False),
        "val_map": st.none() | st.floats(0, 1),
        "val_ap": st.dictionaries(st.text(st.characters(codec="utf-8")), st.none() | st.floats(0, 1), max_size=3),
    }
)


@settings(deadline=None, max_examples=50)
@given(st.lists(lines, max_size=4))
def test_history_reads_back_whatever_the_classes_are_called(tmp_path_factory, history):
    run = Run(tmp_path_factory.mktemp("run"))
    assert run.read_history() == []
    write_history(run, history)
    assert run.read_history() == history
    assert run.history.read_text(encoding="utf-8").count("\n") == len(history)


def test_class_names_with_line_separators_do_not_break_a_line(tmp_path: Path):
    history = [{"val_ap": {"a\u2028b": 0.5, "c\x85d": 1.0}}]
    write_history(Run(tmp_path), history)
    assert Run(tmp_path).read_history() == history


def test_state_counts_and_starts_each_epoch_anew():
    state = State()
    for loss in (1.0, 0.5, 0.25):
        state.add_step(loss, images=4, seconds=0.5)
    assert (state.step, state.total_steps, state.loss_sum, state.images, state.seconds) == (3, 3, 1.75, 12, 1.5)
    state.end_epoch({"epoch": 1})
    assert (state.epoch, state.step, state.loss_sum, state.images, state.seconds) == (1, 0, 0.0, 0, 0.0)
    assert (state.total_steps, state.history) == (3, [{"epoch": 1}])
    assert state.best_value == -math.inf
    assert State(**state.to_dict()) == state
    assert state.to_dict()["history"] is not state.history
