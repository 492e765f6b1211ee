"""`convert`: a trained run or bundle in; its weight-standardised twin, of the same function, out."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch

from manyhot.atomic import atomic_open, write_text
from manyhot.card import write_card
from manyhot.errors import UserError
from manyhot.models.bundle import load_bundle, save_bundle
from manyhot.models.bundle_config import CONFIG
from manyhot.models.weight_standardization import (
    Difference,
    StandardizationReport,
    output_difference,
    standardizations,
    standardize_weights,
)
from manyhot.recipe import dump_recipe, load_recipe
from manyhot.runs import Run, open_run, record_environment

PICTURES = 4
"""Pictures of random numbers on which both networks are compared."""


@dataclass(frozen=True)
class Conversion:
    """What was converted, and the check.

    Arguments:
        report: one row a convolution.
        float64: largest difference of the logits, where network and conversion are computed in float64: the formulas.
        float32: of the bundle that was written, read again, in float32, as pictures are scored: what rounding adds.
        model: folder of the new bundle.
    """

    report: StandardizationReport
    float64: Difference
    float32: Difference
    model: Path


def convert(source: str | Path, mode: str, out: str | Path) -> Conversion:
    """Weight-standardise a trained model, write it, read it again and compare it with the one it was made from.

    From a run comes a run that can be evaluated: recipe (with `model.weight_standardization`), manifest, history,
    environment, log (the report) and bundle. From a bundle comes a bundle. Classes, preprocessing, thresholds and
    calibration stay.

    Arguments:
        source: a run folder, or a bundle folder.
        mode: see `manyhot.models.weight_standardization.standardize_weights`.
        out: a folder that does not exist, or is empty.

    Raises:
        UserError: no trained model there, one that is weight-standardised already, an unknown mode, a folder that holds
            something.
    """
    setting = {"name": mode}
    standardizations.build(setting)
    folder, target = Path(source), Path(out)
    is_bundle = (folder / CONFIG).is_file()
    run = None if is_bundle else open_run(folder)
    bundle = load_bundle(run.model if run else folder)
    if bundle.config.model.weight_standardization is not None:
        name = bundle.config.model.weight_standardization["name"]
        raise UserError(f"this model is weight-standardised already (by {name}).", file=folder)
    if target.exists() and not (target.is_dir() and next(target.iterdir(), None) is None):
        raise UserError("there is something here already.", file=target, remedy="Give another --out.")
    side = bundle.config.preprocessing.size
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(PICTURES, 3, side, side, generator=generator, dtype=torch.float64)
    _, exact = standardize_weights(copy.deepcopy(bundle.model).double(), mode, pictures)
    converted, report = standardize_weights(bundle.model, mode, pictures.float())
    assert exact.difference is not None
    model = bundle.config.model.model_copy(update={"weight_standardization": setting})
    config = bundle.config.model_copy(update={"model": model})
    made = Run(target)
    place = made.model if run else target
    save_bundle(place, config, converted.state_dict())
    written = output_difference(bundle.model, load_bundle(place).model, pictures.float())
    conversion = Conversion(report, exact.difference, written, place)
    if run:
        _write_run(run, made, setting, summarize(conversion))
    write_card(place, made if run else None)
    return conversion


def summarize(conversion: Conversion) -> str:
    """The report and the check in both precisions, for a terminal."""
    lines = conversion.report.render().splitlines()
    return "\n".join([
        *lines[:-1],
        conversion.report.summarize(),
        f"logits of {PICTURES} random pictures, before and after: largest difference",
        f"  float64  {conversion.float64}",
        f"  float32  {conversion.float32}",
    ])  # fmt: skip


def _write_run(source: Run, made: Run, setting: dict[str, str], said: str) -> None:
    """What an evaluation needs beside the bundle, and where it comes from; the recipe last, for it makes a run."""
    recipe = load_recipe(str(source.recipe))
    model = recipe.model.model_copy(update={"weight_standardization": setting})
    with atomic_open(made.manifest) as file:
        file.write(source.manifest.read_bytes())
    for theirs, ours in ((source.history, made.history), (source.environment, made.environment)):
        if theirs.exists():
            write_text(ours, theirs.read_text(encoding="utf-8"))
    record_environment(made, "cpu")
    write_text(made.log, f"converted from {source.path}\n{said}\n")
    write_text(made.recipe, dump_recipe(recipe.model_copy(update={"model": model})))
