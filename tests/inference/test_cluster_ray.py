"""Real clusters of Ray on this machine: the same numbers as one process, whoever dies and whatever is damaged."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest
import torch
from typer.testing import CliRunner

import manyhot
from manyhot.cli import app
from manyhot.errors import UserError
from manyhot.inference.cluster import Workers, engine, predict_on_ray
from manyhot.inference.cluster import ray_session as session
from manyhot.inference.cluster.ray_session import ray_session
from manyhot.inference.cluster.worker import score_part
from manyhot.inference.pictures import list_pictures
from manyhot.predictions import Predictions

# Ray leaves sockets, files and child processes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

N, DAMAGED = 900, 20
DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Done:
    """A run on 900 pictures, 20 of them damaged, one of whose two workers was killed on the way."""

    run: Path
    table: Path
    out: Path
    refused: str
    parts_at_the_kill: int
    wanted: Predictions


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for one in process.children(recursive=True):
        try:
            if any("MapWorker" in text for text in one.cmdline()):
                found.append(one)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster for all tests here: each start costs seconds."""
    with ray_session(None, cpus=2, gpus=0, store_bytes=16 << 20):
        yield
    with warnings.catch_warnings():  # what Ray leaves must not be found by the tests of another module
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Of torch in this process, as in the workers: sums are taken in the same order."""
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(former)


@pytest.fixture(scope="module")
def done(
    cluster: None, one_thread: None, trained: Path, tiny_table: Path, tmp_path_factory: pytest.TempPathFactory
) -> Done:
    folder = tmp_path_factory.mktemp("ray")
    sound = sorted(tiny_table.parent.glob("*.png"))
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.png").write_bytes(sound[0].read_bytes()[:800])
    bad = ["empty.png", "half.png", "missing.png", "table.parquet"]
    rng = np.random.default_rng(1)
    paths = [str(sound[i]) for i in rng.integers(0, len(sound), N)]
    for i, row in enumerate(sorted(rng.choice(N, DAMAGED, replace=False))):
        paths[row] = bad[i % len(bad)]
    table = folder / "table.parquet"
    pl.DataFrame({"id": [f"picture {i}" for i in range(N)], "path": paths}).write_parquet(table)

    at_the_kill: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 300
        while not (parts := list((folder / "out").glob("part-*.parquet"))) and time.monotonic() < deadline:
            time.sleep(0.002)
        workers_of(psutil.Process())[0].send_signal(signal.SIGKILL)
        at_the_kill.append(len(parts))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(UserError) as refused:
        predict_on_ray(trained, list_pictures([str(table)]), folder / "out", workers=Workers(2))
    killer.join()
    files = [Path(path) if Path(path).is_absolute() else folder / path for path in paths]
    unknown = np.full((N, 3), -1, np.int8)
    predictor = manyhot.load(trained, workers=0)
    wanted, _ = predictor.score(files, [f"picture {i}" for i in range(N)], ["predict"] * N, unknown, {})
    return Done(trained, table, folder / "out", str(refused.value), at_the_kill[0], wanted)


def test_damaged_pictures_are_counted_and_listed(done):
    assert f"{DAMAGED} of {N} pictures cannot be read" in done.refused
    assert "--on-error skip" in done.refused
    listed = pl.read_csv(done.out / "damaged.csv")
    assert len(listed) == DAMAGED
    assert set(listed["id"]) == {f"picture {i}" for i in range(N)} - set(done.wanted.ids)
    assert set(listed["reason"]) == {
        "the file is empty", "truncated", "there is no such file", "not an image of a known format",
    }  # fmt: skip


def test_a_killed_worker_costs_nothing_and_the_numbers_are_those_of_one_process(done):
    parts = sorted(done.out.glob("part-*.parquet"))
    assert 0 < done.parts_at_the_kill < len(parts) == 29
    before = {part: part.stat().st_mtime_ns for part in parts}
    outcome = predict_on_ray(done.run, list_pictures([str(done.table)]), done.out, on_error="skip")
    assert (outcome.scored, outcome.damaged, outcome.skipped) == (N - DAMAGED, DAMAGED, N)
    assert {part: part.stat().st_mtime_ns for part in parts} == before, "finished parts were written again"
    found = Predictions.load(outcome.predictions)
    assert found.ids == done.wanted.ids
    apart = np.abs(found.scores - done.wanted.scores).max(axis=1)
    assert not apart.any(), [(found.ids[row], float(apart[row])) for row in np.flatnonzero(apart)]
    assert (found.classes, found.task, found.source) == (done.wanted.classes, done.wanted.task, done.wanted.source)
    assert found.thresholds == done.wanted.thresholds
    assert set(found.splits) == {"predict"}


def test_a_rerun_scores_what_is_not_whole_and_nothing_else(done, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    parts = sorted(out.glob("part-*.parquet"))
    parts[3].write_bytes(parts[3].read_bytes()[:-100])
    parts[5].unlink()
    before = {part: part.stat().st_mtime_ns for part in parts if part not in {parts[3], parts[5]}}
    outcome = predict_on_ray(
        done.run, list_pictures([str(done.table)]), out, on_error="skip", workers=Workers(1, threads=2)
    )
    assert outcome.skipped == N - 64
    assert {part: part.stat().st_mtime_ns for part in before} == before
    found = Predictions.load(outcome.predictions)
    assert found.ids == done.wanted.ids
    np.testing.assert_allclose(found.scores, done.wanted.scores, atol=1e-6)  # another number of threads


def test_another_source_or_model_is_refused(done, trained_run, tiny_table):
    with pytest.raises(UserError, match="other pictures"):
        predict_on_ray(done.run, list_pictures([str(tiny_table.parent)]), done.out)
    config = trained_run / "model" / "config.json"
    config.write_text(config.read_text().replace('"thresholds": [\n  0.5', '"thresholds": [\n  0.75'))
    with pytest.raises(UserError, match="by another model"):
        predict_on_ray(trained_run, list_pictures([str(done.table)]), done.out)


def test_archives_tables_lists_and_files_by_the_command_line(cluster, one_thread, trained, tiny_table, tmp_path):
    sound = sorted(tiny_table.parent.glob("*.png"))
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as file:
        for one in sound[:5]:
            file.write(one, one.name)
    pl.DataFrame({"jpeg": [one.read_bytes() for one in sound[5:9]]}).write_parquet(tmp_path / "some.parquet")
    (tmp_path / "some.txt").write_text("\n".join(f"file://{one}" for one in sound[9:12]))
    paths = [f"zip://::file://{tmp_path}/some.zip", f"{tmp_path}/some.parquet", f"{tmp_path}/some.txt", str(sound[12])]
    out = tmp_path / "out"
    options = ["--engine", "ray", "--workers", "1", "--column", "jpeg", "--out", str(out)]
    result = CliRunner().invoke(app, ["predict", str(trained), *paths, *options])
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.output == f"13 pictures scored: {out / 'predictions.parquet'}\n"
    wanted = manyhot.load(trained, workers=0).predict(sound[:13])
    assert np.array_equal(Predictions.load(out / "predictions.parquet").scores, wanted.scores)
    assert not (out / "damaged.csv").exists()


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> list[Workers]:
    """Parts are scored in this process, without the seconds that workers take to start; gives who was asked for."""
    asked = []

    def scored(plan, parts, model, workers, column):
        asked.append(workers)
        predictor = model.load(workers=0)
        for number in parts:
            pictures = plan.part(number)
            yield number, score_part(predictor, pictures["address"].to_list(), pictures["row"].to_list(), column)

    monkeypatch.setattr(engine, "_scored", scored)
    return asked


def test_a_data_source_keeps_its_labels(without_ray, one_thread, trained, tiny_table, tmp_path):
    arguments = ["predict", str(trained), str(tiny_table), "--source", "table", "--engine", "ray"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, (result.output, result.exception)
    manifest = manyhot.open_source(str(tiny_table))
    wanted, _ = manyhot.load(trained, workers=0).predict_manifest(manifest)
    found = Predictions.load(tmp_path / "out" / "predictions.parquet")
    assert np.array_equal(found.scores, wanted.scores)
    assert np.array_equal(found.labels, wanted.labels)
    assert (found.ids, found.splits, found.source) == (wanted.ids, wanted.splits, wanted.source)


COMMANDS = re.findall(
    r"^manyhot predict .*--engine ray.*$", (DOCS / "ray.md").read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_docs(command, without_ray, trained, tiny_table, tmp_path, monkeypatch):
    sound = sorted(tiny_table.parent.glob("*.png"))[:3]
    (tmp_path / "photos").mkdir()
    for one in sound:
        shutil.copy(one, tmp_path / "photos")
    (tmp_path / "photos.txt").write_text("".join(f"photos/{one.name}\n" for one in sound))
    pl.DataFrame({"jpeg": [one.read_bytes() for one in sound], "name": ["x", "y", "z"]}).write_parquet(
        tmp_path / "photos.parquet"
    )
    monkeypatch.chdir(tmp_path)
    here = {"RUN": str(trained), "s3://bucket/photos": f"file://{tmp_path}/photos"}
    words = [here.get(word, word) for word in command.split()]
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.output == f"3 pictures scored: {Path('scores/predictions.parquet')}\n"
    (who,) = without_ray
    assert (who.address == "auto") == ("--address" in words)
    assert (who.count, who.threads) == ((8, 2) if "--workers" in words else (None, 1))
    if "--id-column" in words:
        assert Predictions.load(Path("scores/predictions.parquet")).ids == ("x", "y", "z")


def test_the_commands_of_the_docs_are_found():
    assert len(COMMANDS) == 5


def test_what_fails_in_a_worker_is_told_in_one_line(cluster, trained, tiny_table, tmp_path):
    found = list_pictures([str(tiny_table.parent)])
    gone = found.with_columns(address=pl.lit(f"zip://x.png::file://{tmp_path}/gone.zip"))
    with pytest.raises(UserError, match=r"(?s)gone.zip.*Finished parts are kept"):
        predict_on_ray(trained, gone, tmp_path / "out", workers=Workers(1))


def test_options_of_ray_are_refused_elsewhere(trained, tiny_table, tmp_path):
    arguments = ["predict", str(trained), str(tiny_table.parent), "--out", str(tmp_path / "x.csv"), "--workers", "2"]
    result = CliRunner().invoke(app, arguments)
    assert "--workers: only with --engine ray" in str(result.exception)
    with pytest.raises(UserError, match="at least 1"):
        Workers(0)


def test_without_ray_the_line_that_installs_it_is_given(monkeypatch):
    monkeypatch.setattr(session.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'manyhot\[ray\]'"):
        session.import_ray()


def test_ctrl_c_ends_everything_and_says_how_to_go_on(trained, tiny_table, tmp_path_factory):
    tmp_path, data = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("data")
    paths = [str(one) for one in sorted(tiny_table.parent.glob("*.png"))] * 200
    table = data / "table.parquet"
    pl.DataFrame({"id": [str(i) for i in range(len(paths))], "path": paths}).write_parquet(table)
    mark, temporary = uuid.uuid4().hex, tempfile.mkdtemp(prefix="mh", dir="/tmp")
    command = [
        *[sys.executable, "-m", "manyhot", "--quiet", "predict", str(trained), str(table)],
        *["--out", str(tmp_path / "out"), "--engine", "ray", "--workers", "1"],
    ]
    environment = {**os.environ, "MANYHOT_TEST_MARK": mark, "TMPDIR": temporary}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment, cwd=tmp_path, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while not list((tmp_path / "out").glob("part-*")) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, output) == (130, "stopped; everything is saved. Continue with the same command.\n")
    assert [one.name for one in tmp_path.iterdir()] == ["out"], "files of Ray are left where the user works"
    assert list(Path(temporary).iterdir()) == []
    deadline = time.monotonic() + 30
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    shutil.rmtree(temporary)


def marked(mark: str) -> list[list[str]]:
    """Command lines of the processes that have this mark in their environment."""
    found = []
    for one in psutil.process_iter():
        try:
            if one.environ().get("MANYHOT_TEST_MARK") == mark and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one.cmdline())
        except psutil.Error:
            continue
    return found
