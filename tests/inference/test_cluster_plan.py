"""A plan holds the work to what was planned: parts are checked, reruns compared, and the merge is the whole table."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhot.errors import UserError
from manyhot.inference.cluster.merging import merge, write_damaged
from manyhot.inference.cluster.plan import BATCH, Plan, Scored, default_part_size, locked, open_plan
from manyhot.inference.predict import activate
from manyhot.predictions import Predictions

SETTINGS = {"model": "abc", "crops": "one crop"}


def listing(n: int, labels: bool = False) -> pl.DataFrame:
    frame = pl.DataFrame(
        {"id": [f"p{i}" for i in range(n)], "address": [f"/x/{i}.png" for i in range(n)], "row": [-1] * n}
    ).with_columns(split=pl.Series(["val" if i % 3 else "test" for i in range(n)]))
    signs = pl.Series([[i % 2, -1] for i in range(n)], dtype=pl.Array(pl.Int8, 2))
    return frame.with_columns(labels=signs) if labels else frame


def scored(plan: Plan, number: int, lost: tuple[int, ...] = (), *, calibrated: bool = True) -> Scored:
    places = [place for place in range(len(plan.part(number))) if place not in lost]
    scores = np.random.default_rng(number).random((len(places), 2)).astype(np.float32)
    predictions = Predictions(
        tuple(map(str, places)), ("",) * len(places), scores, np.full((len(places), 2), -1, np.int8), ("a", "b"),
        source={"bundle_sha256": "abc"}, uncalibrated=scores / 2 if calibrated else None, thresholds=(0.5, 0.25),
    )  # fmt: skip
    return Scored(predictions, [(place, f"reason {place}") for place in lost])


def test_parts_are_checked_and_merged(tmp_path):
    plan = open_plan(tmp_path, listing(100, labels=True), SETTINGS, {"label_rule": "drawn"}, part_size=32)
    assert plan.parts == 4
    assert [plan.damaged(number) for number in range(4)] == [None] * 4
    lost = {0: (), 1: (0, 31), 2: tuple(range(32)), 3: (3,)}
    for number in (2, 0, 3, 1):
        plan.write(number, scored(plan, number, lost[number], calibrated=number != 2))
    damaged = {number: plan.damaged(number) for number in range(4)}
    assert damaged == {number: [(place, f"reason {place}") for place in places] for number, places in lost.items()}
    assert write_damaged(plan, damaged) == 35
    table = pl.read_csv(tmp_path / "damaged.csv")
    assert table.columns == ["id", "address", "row", "reason"]
    assert table.row(0) == ("p32", "/x/32.png", -1, "reason 0")
    assert write_damaged(plan, {0: []}) == 0
    assert not (tmp_path / "damaged.csv").exists()

    merged = Predictions.load(merge(plan))
    kept = [i for i in range(100) if i - 32 * (i // 32) not in lost[i // 32]]
    assert merged.ids == tuple(f"p{i}" for i in kept)
    assert merged.splits == tuple(plan.pictures["split"][i] for i in kept)
    assert merged.labels.tolist() == [[i % 2, -1] for i in kept]
    wanted = np.concatenate([scored(plan, number, lost[number]).predictions.scores for number in range(4)])
    assert np.array_equal(merged.scores, wanted)
    assert np.array_equal(merged.uncalibrated, wanted / 2)
    assert merged.source == {"label_rule": "drawn", "bundle_sha256": "abc"}
    assert merged.thresholds == (0.5, 0.25)
    assert pl.read_parquet_metadata(tmp_path / "predictions.parquet").keys() <= {"manyhot.predictions", "ARROW:schema"}
    merged.save(tmp_path / "saved.parquet")
    assert pl.read_parquet(tmp_path / "saved.parquet").equals(pl.read_parquet(tmp_path / "predictions.parquet"))


def test_a_part_that_is_not_whole_is_not_finished(tmp_path):
    plan = open_plan(tmp_path, listing(64), SETTINGS, part_size=32)
    path = plan.path(0)
    plan.write(0, scored(plan, 0))
    whole = path.read_bytes()
    assert plan.damaged(0) == []
    for content in (b"", whole[:-9], whole[: len(whole) // 2], b"x" * len(whole)):
        path.write_bytes(content)
        assert plan.damaged(0) is None
    plan.write(1, scored(plan, 1))
    path.write_bytes(plan.path(1).read_bytes())  # another part's
    assert plan.damaged(0) is None
    stored = {name: text for name, text in pl.read_parquet_metadata(plan.path(1)).items() if name != "ARROW:schema"}
    note = json.loads(stored["manyhot.part"])
    frame = pl.read_parquet(plan.path(1))
    changed = {
        "scores": (frame.with_columns(scores=pl.lit([0.5, 0.5], pl.Array(pl.Float32, 2))), note),
        "a row less": (frame[:-1], note),
        "another plan": (frame, {**note, "plan": "f00"}),
        "a damaged one that is scored": (frame, {**note, "damaged": [[0, "x"]]}),
        "nothing": (frame, {}),
    }
    for name, (table, said) in changed.items():
        table.write_parquet(plan.path(1), metadata={**stored, "manyhot.part": json.dumps(said)})
        assert plan.damaged(1) is None, name


def test_a_rerun_is_held_against_the_plan(tmp_path):
    first = open_plan(tmp_path, listing(70), SETTINGS, part_size=64)
    again = open_plan(tmp_path, listing(70), SETTINGS)
    assert (again.sha256, again.part_size) == (first.sha256, 64)
    cases = [
        (listing(71), SETTINGS, None, None, r"other pictures \(70; now it would be 71\)"),
        (listing(70).reverse(), SETTINGS, None, None, "other pictures"),
        (listing(70), {**SETTINGS, "model": "def"}, None, None, "by another model"),
        (listing(70), {"model": "d", "crops": "ten"}, None, None, "by another model and another crops"),
        (listing(70), SETTINGS, {"label_rule": "x"}, None, "by another label rule"),
        (listing(70), SETTINGS, None, 32, "parts of 64 pictures, not 32"),
        (listing(70), SETTINGS, None, 33, "no multiple of 32"),
    ]
    for pictures, settings, source, part_size, message in cases:
        with pytest.raises(UserError, match=message):
            open_plan(tmp_path, pictures, settings, source, part_size)
    (tmp_path / "plan.parquet").write_bytes(b"no plan")
    with pytest.raises(UserError, match=r"plan.parquet: this is not a plan that can be read"):
        open_plan(tmp_path, listing(70), SETTINGS)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds something else"):
        open_plan(tmp_path, listing(3), SETTINGS)
    assert os.listdir(tmp_path) == ["thesis.tex"]  # noqa: PTH208


def test_one_process_at_a_time(tmp_path):
    with (
        locked(tmp_path / "out"),
        pytest.raises(UserError, match="another process is writing"),
        locked(tmp_path / "out"),
    ):
        pass


def test_no_picture_at_all(tmp_path):
    plan = open_plan(tmp_path, listing(2), SETTINGS)
    plan.write(0, scored(plan, 0, (0, 1)))
    assert plan.damaged(0) == [(0, "reason 0"), (1, "reason 1")]
    with pytest.raises(UserError, match="none of the pictures could be read"):
        merge(plan)
    assert not (tmp_path / "predictions.parquet").exists()


@given(st.integers(1, 10_000_000))
def test_parts_are_whole_batches_many_enough_and_not_too_large(n):
    size = default_part_size(n)
    assert size % BATCH == 0
    assert BATCH <= size <= 4096
    parts = -(-n // size)
    assert parts >= min(64, -(-n // BATCH))


@given(st.integers(1, 70), st.integers(1, 9), st.sampled_from(["sigmoid", "softmax"]), st.integers(0, 99))
def test_the_scores_of_a_picture_do_not_depend_on_how_many_are_scored(n, classes, activation, seed):
    logits = np.random.default_rng(seed).normal(0, 4, (n, classes)).astype(np.float32)
    whole = activate(logits, activation)
    cut = n // 3
    parts = [activate(part, activation) for part in (logits[:cut], logits[cut:]) if len(part)]
    assert np.array_equal(whole, np.concatenate(parts))
    exact = np.exp(logits.astype(np.float64))
    wanted = exact / exact.sum(axis=1, keepdims=True) if activation == "softmax" else exact / (1 + exact)
    np.testing.assert_allclose(whole, wanted, atol=1e-6)


def test_notes_are_further_metadata(tmp_path):
    plan = open_plan(tmp_path, listing(2), SETTINGS)
    predictions = replace(scored(plan, 0).predictions, ids=("x", "y"))
    path = Path(tmp_path / "noted.parquet")
    predictions.save(path, notes={"own": "text"})
    assert pl.read_parquet_metadata(path)["own"] == "text"
    assert Predictions.load(path).ids == ("x", "y")
