"""`manyhot predict` takes the same pictures whatever scores them: lists, tables, archives and data sources."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import manyhot
from manyhot.cli import app
from manyhot.data.sources import open_source
from manyhot.errors import UserError
from manyhot.inference import packages
from manyhot.inference.predict import Predictor
from manyhot.predictions import Predictions


@pytest.fixture
def pictures(tiny_table: Path) -> list[Path]:
    return sorted(tiny_table.parent.glob("*.png"))[:7]


@pytest.fixture
def predictor(trained: Path) -> Predictor:
    return manyhot.load(trained)


def predict(*arguments: object) -> str:
    """What the command says."""
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.mark.parametrize("kind", ["list", "paths", "bytes", "archive"])
def test_scores_are_those_of_the_files(kind, pictures, predictor, tmp_path):
    if kind == "list":
        source = tmp_path / "list.txt"
        source.write_text("\n".join(map(str, pictures)))
    elif kind == "archive":
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
            for one in pictures:
                file.write(one, one.name)
        source = f"zip://::file://{tmp_path}/all.zip"
    else:
        source = tmp_path / "table.parquet"
        values = [str(one) if kind == "paths" else one.read_bytes() for one in pictures]
        pl.DataFrame({"name": [one.name for one in pictures], "what": values}).write_parquet(source, row_group_size=3)
    columns = {"column": "what", "id_column": "name"} if kind in {"paths", "bytes"} else {}
    found, wanted = predictor.predict(source, **columns), predictor.predict(pictures)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    assert [one.partition("::")[0].rpartition("/")[2] for one in found.ids] == [one.name for one in pictures]
    assert set(found.splits) == {"predict"}


def test_a_data_source_keeps_ids_splits_and_labels(trained, tiny_table, tmp_path):
    predict(trained, tiny_table, "--source", "table", "--out", tmp_path / "scores.parquet")
    found, data = Predictions.load(tmp_path / "scores.parquet"), open_source(str(tiny_table))
    assert (list(found.ids), list(found.splits)) == (data.ids, data.table["split"].to_list())
    np.testing.assert_array_equal(found.labels, data.labels)
    with pytest.raises(UserError, match="--source is of one path"):
        predict(trained, tiny_table, tiny_table, "--source", "table", "--out", tmp_path / "scores.csv")


def test_damaged_pictures_are_told_with_their_address_where_the_id_is_another(pictures, trained, tmp_path, caplog):
    rows = {"id": ["good", "empty", "none"], "bytes": [pictures[0].read_bytes(), b"", None]}
    pl.DataFrame(rows).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "bad.png").write_bytes(b"")
    arguments = [trained, tmp_path / "t.parquet", tmp_path / "bad.png", "--out", tmp_path / "scores.csv"]
    with pytest.raises(UserError, match="3 of 4 pictures cannot be read"):
        predict(*arguments)
    with caplog.at_level(logging.WARNING, "manyhot"):
        logging.getLogger("manyhot").propagate = True
        predictions = manyhot.load(trained).predict([tmp_path / "t.parquet", tmp_path / "bad.png"], on_error="skip")
    assert predictions.ids == ("good",)
    assert f"  empty ({tmp_path}/t.parquet): the file is empty" in caplog.text
    assert f"  none ({tmp_path}/t.parquet): there are no bytes" in caplog.text
    assert f"  {tmp_path}/bad.png: the file is empty" in caplog.text
    with pytest.raises(UserError, match="none of the pictures could be read"):
        manyhot.load(trained).predict(tmp_path / "bad.png", on_error="skip")


def test_autotune_measures_on_pictures_of_a_table(pictures, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("manyhot.inference.autotuning.PICTURES", 4)
    monkeypatch.setattr("manyhot.inference.autotuning.candidates", lambda *_: ["torch"])
    content = [b"" if i == 3 else one.read_bytes() for i, one in enumerate(pictures)]
    pl.DataFrame({"pixels": content}).write_parquet(tmp_path / "t.parquet")
    arguments = [trained, tmp_path / "t.parquet", "--column", "pixels", "--autotune", "--on-error", "skip"]
    told = predict(*arguments, "--out", tmp_path / "scores.csv")
    assert "remembered for this model" in told
    assert "6 pictures scored" in told


def test_without_pyarrow_a_table_says_what_to_install(trained, tmp_path, monkeypatch):
    pl.DataFrame({"bytes": [b""]}).write_parquet(tmp_path / "t.parquet")

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name, name=name.partition(".")[0])

    monkeypatch.setattr(packages.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pyarrow is not installed.*pip install pyarrow"):
        manyhot.inference.pictures.list_pictures([str(tmp_path / "t.parquet")])
