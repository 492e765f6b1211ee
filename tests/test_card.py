"""The model card says what is known of a model, in words that people read, and nothing else."""

from __future__ import annotations

import json
import logging
import shutil

import pytest

import manyhot
from manyhot.card import CARD, write_card
from manyhot.errors import UserError
from manyhot.models.bundle_config import read_config, write_config
from manyhot.runs import Run


def section(card: str, title: str) -> str:
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_evaluated_runs_have_a_whole_card(trained):
    card = (trained / "model" / CARD).read_text(encoding="utf-8")
    config = read_config(trained / "model")
    metrics = json.loads((trained / "evaluation" / "val" / "metrics.json").read_text(encoding="utf-8"))
    manifest = manyhot.Manifest.load(trained / "manifest.parquet")
    assert card.startswith("---\nlibrary_name: manyhot\n")
    assert config.weights_sha256 in card
    assert str(manifest.root) not in card  # a place on the training machine is nobody's business
    present = (manifest.split("train").labels == 1).sum(axis=0)
    assert f"| red | {present[0]}" in section(card, "Data")
    measured = section(card, "Measured on split val")
    assert f"**mAP {metrics['map']:.4f}**" in measured
    assert all(f"| {one['name']} | {one['n_positive']} | {one['ap']:.4f}" in measured for one in metrics["classes"])
    assert "chose the epoch" in measured
    assert "torch" in section(card, "Environment")
    assert "by the recipe" in section(card, "Decisions")
    assert "fewer than 20 pictures" in section(card, "Limits")
    assert "not been measured" not in card


def test_calibrate_writes_it_anew(trained_run):
    manyhot.calibrate(trained_run, "val")
    decisions = section((trained_run / "model" / CARD).read_text(encoding="utf-8"), "Decisions")
    assert "temperature, fitted on split val (12 pictures)" in decisions
    assert "| red |" in decisions


def test_what_cannot_be_read_is_left_out(trained_run, caplog):
    run = Run(trained_run)
    (trained_run / "evaluation" / "val" / "metrics.json").write_text('{"n_images": 1')
    run.environment.write_text("[")
    run.manifest.write_bytes(b"PAR1")
    run.recipe.write_text("name: [")
    with caplog.at_level(logging.WARNING, logger="manyhot"):
        card = write_card(run.model, run).read_text(encoding="utf-8")
    assert "metrics.json" in caplog.text
    assert section(card, "Limits")
    assert "not been measured" in card
    for title in ("Data", "Environment", "Measured on split val"):
        assert not section(card, title)


def test_measures_of_other_weights_are_left_out(trained_run):
    run = Run(trained_run)
    write_config(run.model, read_config(run.model).model_copy(update={"weights_sha256": "0" * 64}))
    assert "Measured on" not in write_card(run.model, run).read_text(encoding="utf-8")


def test_a_bundle_alone_has_a_card_too(trained, tmp_path):
    bundle = shutil.copytree(trained / "model", tmp_path / "bundle")
    (bundle / CARD).unlink()
    assert "## Limits" in write_card(bundle).read_text(encoding="utf-8")
    with pytest.raises(UserError, match="no trained model"):
        write_card(tmp_path)


def test_class_names_are_text_and_nothing_else(trained, tmp_path):
    bundle = shutil.copytree(trained / "model", tmp_path / "bundle")
    config = read_config(bundle)
    origin = {"rule": "F1", "split": "val", "n_images": 3, "ids_sha256": ""}
    names = ("<script>|", "a\nb", "[x](y)")
    write_config(bundle, config.model_validate({**config.model_dump(), "classes": names, "thresholds_from": origin}))
    card = write_card(bundle).read_text(encoding="utf-8")
    assert "| \\<script>\\| | 0.5 |" in card
    assert "| a b | 0.5 |" in card
    assert "| \\[x](y) | 0.5 |" in card
