"""MODEL_CARD.md: what is known of a trained model, for people, beside its bundle."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyhot.atomic import write_text
from manyhot.data.manifest import Manifest
from manyhot.errors import UserError
from manyhot.models.bundle_config import BundleConfig, read_config
from manyhot.recipe import Recipe, load_recipe
from manyhot.runs import Run

log = logging.getLogger("manyhot")

CARD = "MODEL_CARD.md"

FEW = 20
"""Training pictures that show a class, below which the card warns of it."""


def write_card(folder: Path, run: Run | None = None) -> Path:
    """Write the card of a bundle from what is known, and return its path.

    What a file that is missing or cannot be read would say is left out.

    Arguments:
        folder: of the bundle.
        run: whose bundle it is; None: the bundle is all that there is.

    Raises:
        UserError: no bundle there.
    """
    config = read_config(folder)
    sections = [
        _front_matter(config),
        _title(config),
        *(_from_run(config, run) if run else []),
        _thresholds(config),
        _limits(config, run),
        _use(config),
    ]
    path = folder / CARD
    write_text(path, "\n\n".join(section for section in sections if section) + "\n")
    return path


def _front_matter(config: BundleConfig) -> str:
    kind = "object-detection" if config.model.detector is not None else "image-classification"
    tags = [kind, "multi-label" if config.task == "multilabel" else "single-label"]
    return "\n".join([
        "---",
        "library_name: manyhot",
        f"pipeline_tag: {kind}",
        f"tags: {json.dumps([*tags, config.model.backbone])}",
        "---",
    ])  # fmt: skip


def _title(config: BundleConfig) -> str:
    several = "any number of classes a picture" if config.task == "multilabel" else "one class a picture"
    model = config.model
    what = "boxes" if model.detector is not None else "a score of every class"
    pooled = "" if model.detector is not None else f", {model.pooling['name']} pooling"
    frozen = ", frozen" if model.frozen else ""
    by = model.weight_standardization
    standardized = f", weight-standardised ({by['name']})" if by else ""
    rows = [
        ("classes", f"{len(config.classes)}, {several}"),
        ("gives", what),
        ("network", f"{model.backbone}{frozen}{standardized}{pooled}"),
        ("recipe", f"{config.recipe}, epoch {config.epoch}"),
        ("input", config.describe_input()),
        ("labels", config.label_rule),
        ("made by", f"manyhot {config.manyhot}"),
        ("weights", f"SHA-256 `{config.weights_sha256}`"),
    ]
    return f"# {_cell(config.recipe)}\n\n{_table(('', ''), rows)}"


def _from_run(config: BundleConfig, run: Run) -> Iterator[str]:
    recipe, manifest = _recipe(run), _manifest(run)
    if manifest is not None and manifest.classes == config.classes:
        yield _data(config, manifest, recipe)
    yield from (_measures(config, metrics, recipe) for metrics in _evaluations(run, config))
    yield _environment(run)


def _data(config: BundleConfig, manifest: Manifest, recipe: Recipe | None) -> str:
    splits = list(dict.fromkeys(manifest.table["split"]))
    parts = [manifest.split(split) for split in splits]
    roles = {} if recipe is None else {recipe.data.train_split: "trained on", recipe.data.val_split: "chose the epoch"}
    counted = "; ".join(
        f"{split}: {len(part)} pictures" + (f" ({roles[split]})" if split in roles else "")
        for split, part in zip(splits, parts, strict=True)
    )
    rows = [
        (name, *(f"{(part.labels[:, c] == 1).sum()}" + _ignored(part, c) for part in parts))
        for c, name in enumerate(config.classes)
    ]
    return f"## Data\n\n{counted}.\n\nPictures that show each class:\n\n{_table(('class', *splits), rows)}"


def _ignored(part: Manifest, c: int) -> str:
    count = int((part.labels[:, c] == -1).sum())
    return f" (+ {count} not judged)" if count else ""


def _evaluations(run: Run, config: BundleConfig) -> Iterator[dict[str, Any]]:
    """The content of each metrics.json that these very weights gave."""
    for path in sorted((run.path / "evaluation").glob("*/metrics.json")):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            if metrics["bundle_sha256"] == config.weights_sha256:
                yield metrics
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("left out of the model card, for it cannot be read (%s): %s", error, path)


def _measures(config: BundleConfig, metrics: Mapping[str, Any], recipe: Recipe | None) -> str:
    rows = [
        (
            one["name"],
            one["n_positive"],
            _number(one["ap"]) + _interval(one.get("ap_interval")),
            _number(one["precision"]),
            _number(one["recall"]),
        )
        for one in metrics["classes"]
    ]
    error = _number(metrics["mean_ece"])
    notes = [
        f"{metrics['n_images']} pictures; input: {metrics['crops']}; thresholds: {metrics['threshold_rule']}",
        f"calibration: {metrics['calibration'] or 'none'}, expected calibration error {error}",
    ]
    if recipe is not None and metrics["split"] == recipe.data.val_split:
        notes.append("this split chose the epoch, so that its numbers are a little too good")
    if metrics["fitted_here"]:
        notes.append(f"too good: these very pictures gave the {' and '.join(metrics['fitted_here'])}")
    if metrics["damaged"]:
        notes.append(f"{len(metrics['damaged'])} damaged pictures were left out")
    listing = "\n".join(f"- {note}" for note in notes)
    mean = f"**mAP {_number(metrics['map'])}**{_interval(metrics.get('map_interval'))}"
    counted = f"over {metrics['n_classes_in_map']} of {len(config.classes)} classes"
    header = ("class", "positives", "AP (95 % interval)", "precision", "recall")
    return f"## Measured on split {metrics['split']}\n\n{mean} {counted}.\n\n{listing}\n\n{_table(header, rows)}"


def _thresholds(config: BundleConfig) -> str:
    origin, calibrated = config.thresholds_from, config.calibration_from
    lines = [
        f"Thresholds: {origin.rule}, chosen on split {origin.split} ({origin.n_images} pictures)."
        if origin
        else f"Thresholds: {config.thresholds[0]:g} for all classes, by the recipe.",
        f"Calibration: {calibrated.rule}, fitted on split {calibrated.split} ({calibrated.n_images} pictures)."
        if calibrated
        else "Calibration: none; scores are not frequencies.",
    ]
    if origin is None:
        return "## Decisions\n\n" + "\n".join(lines)
    rows = [
        (name, "never predicted" if value >= 1 else f"{value:.4g}")
        for name, value in zip(config.classes, config.thresholds, strict=True)
    ]
    return "## Decisions\n\n" + "\n".join(lines) + f"\n\n{_table(('class', 'threshold'), rows)}"


def _environment(run: Run) -> str:
    try:
        starts = json.loads(run.environment.read_text(encoding="utf-8"))
        last = starts[-1]
        packages = ", ".join(f"{name} {version}" for name, version in last["packages"].items())
        facts = f"Python {last['python']}, {packages}; on {last['device']}, {last['cores']} cores"
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ""
    return f"## Environment\n\n{facts}; started {len(starts)} time{'s' * (len(starts) > 1)}."


def _limits(config: BundleConfig, run: Run | None) -> str:
    notes = [
        "Scores hold for pictures like those above; other cameras, places or times can make them worse, unnoticed.",
        f"It knows {len(config.classes)} classes, and says nothing of what is none of them.",
    ]
    if config.calibration is None:
        notes.append("Scores rank pictures; they are not calibrated, so 0.8 does not mean eight of ten.")
    manifest, recipe = (_manifest(run), _recipe(run)) if run else (None, None)
    if manifest is not None and recipe is not None and manifest.classes == config.classes:
        present = (manifest.split(recipe.data.train_split).labels == 1).sum(axis=0)
        if few := [f"{name} ({n})" for name, n in zip(config.classes, present.tolist(), strict=True) if n < FEW]:
            notes.append(f"Trained on fewer than {FEW} pictures of: {', '.join(few)}.")
    if config.model.detector is None and (run is None or not any(True for _ in _evaluations(run, config))):
        notes.append("It has not been measured by `manyhot evaluate`.")
    return "## Limits\n\n" + "\n".join(f"- {note}" for note in notes)


def _use(config: BundleConfig) -> str:
    verb = "detect RUN" if config.model.detector is not None else "predict FOLDER PICTURES --out scores.csv"
    return f"## Use\n\n```\nmanyhot {verb}\n```"


def _recipe(run: Run) -> Recipe | None:
    try:
        return load_recipe(str(run.recipe))
    except UserError:
        return None


def _manifest(run: Run) -> Manifest | None:
    try:
        return Manifest.load(run.manifest)
    except UserError:
        return None


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: object) -> str:
    """As Markdown shows it and nothing else: class names may hold anything."""
    plain = " ".join(str(text).split())
    for sign in ("\\", "|", "<", "[", "*", "_"):
        plain = plain.replace(sign, f"\\{sign}")
    return plain


def _number(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.4f}"


def _interval(ends: Sequence[float] | None) -> str:
    return f" ({ends[0]:.4f} … {ends[1]:.4f})" if ends else ""
