"""`calibrate`: a run and a split in; calibrated scores and chosen thresholds for its bundle out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from manyhot.atomic import sha256_file
from manyhot.card import write_card
from manyhot.data.manifest import Manifest
from manyhot.errors import UserError, nearest
from manyhot.inference.predict import Predictor
from manyhot.metrics.calibration import Calibration, expected_calibration_error, fit_isotonic, fit_temperature
from manyhot.metrics.choosing import ChosenThresholds, best_f1, carried_over, wanted_precision, wanted_recall
from manyhot.metrics.columns import Labels, Scores
from manyhot.metrics.thresholds import threshold_counts
from manyhot.models.bundle_config import WEIGHTS, BundleConfig, Origin, digest_ids, read_config, write_config
from manyhot.predictions import Predictions
from manyhot.recipe import Recipe, load_recipe
from manyhot.runs import Run, open_run

log = logging.getLogger("manyhot")

FOLDS = 5
CONFIDENCE = 0.9

Fit: TypeAlias = Callable[[Scores, Labels], Calibration]

METHODS: dict[str, Fit] = {
    "temperature": fit_temperature,
    "isotonic": lambda scores, labels: fit_isotonic(scores, labels).without_plateaus(),
}


@dataclass(frozen=True)
class ThresholdRule:
    """What thresholds are asked to do.

    Arguments:
        name: "f1", "precision" or "recall".
        wanted: above 0, at most 1; None for "f1".
        confidence: between 0 and 1; None for "f1".
    """

    name: str
    wanted: float | None = None
    confidence: float | None = None

    @classmethod
    def parse(cls, text: str, confidence: float | None = None) -> ThresholdRule | None:
        """The rule that `f1`, `precision=P`, `recall=R` or `none` (None) writes; confidence is 0.9 unless given.

        Raises:
            UserError: another text, a share or a confidence out of range, or a confidence that has no effect.
        """
        name, equals, share = text.partition("=")
        try:
            wanted = float(share) if equals else None
        except ValueError:
            wanted = None
        if (wanted is not None) != (name in {"precision", "recall"}) or name not in {
            "f1",
            "precision",
            "recall",
            "none",
        }:
            raise UserError(
                f"--thresholds {text} is no rule.",
                remedy="Known: f1, precision=0.9, recall=0.9 (or other shares), none.",
            )
        if wanted is None:
            if confidence is not None:
                raise UserError(f"--confidence has no effect with --thresholds {text}.")
            return None if name == "none" else cls(name)
        rule = cls(name, wanted, CONFIDENCE if confidence is None else confidence)
        rule._on_scores(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int8))
        return rule

    def _on_scores(self, scores: Scores, labels: Labels) -> ChosenThresholds:
        if self.wanted is None:
            return best_f1(scores, labels)
        rule = wanted_precision if self.name == "precision" else wanted_recall
        return rule(scores, labels, self.wanted, self.confidence)

    def choose(self, ranking: Scores, scores: Scores, labels: Labels) -> ChosenThresholds:
        """Thresholds for calibrated scores that keep what the rule promises.

        The F1 is searched on the calibrated scores. A promise is made on the scores before calibration and carried
        over: scores that float32 ties after isotonic regression go as a whole to the side that keeps it.

        Arguments:
            ranking: float32 [N, C], the scores before calibration.
            scores: float32 [N, C], the calibrated ones, rising with `ranking`; or the same.
            labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.
        """
        if self.wanted is None:
            return best_f1(scores, labels)
        before = self._on_scores(ranking, labels)
        thresholds = carried_over(before, ranking, scores, stricter=self.name == "precision")
        after = ChosenThresholds(before.rule, thresholds, np.full(thresholds.shape, np.nan), before.bound)
        counts = threshold_counts(scores, labels, after.filled())
        achieved = counts.precision() if self.name == "precision" else counts.recall()
        # On a stricter side of a tie the tested bound is another set's: what is left is the promise itself.
        same = (counts.tp + counts.fp) == _predicted(ranking, labels, before.filled())
        bound = np.where(same, before.bound, self.wanted) if self.name == "precision" else before.bound
        missing = np.isnan(thresholds)
        if lost := int((missing & ~np.isnan(before.thresholds)).sum()):
            log.warning("calibrated scores tie where the threshold of %d classes lies: temperature would keep it", lost)
        return ChosenThresholds(
            before.rule, thresholds, np.where(missing, np.nan, achieved), np.where(missing, np.nan, bound)
        )


@dataclass(frozen=True)
class Calibrated:
    """What `calibrate` found and stored.

    Arguments:
        folder: of the bundle.
        config: the bundle's config, as stored.
        split: name of the split.
        n_images: its pictures.
        n_positive: C numbers of pictures that show the class.
        rule: of the thresholds; None: the recipe's threshold is kept.
        chosen: thresholds for calibrated scores, what they achieve on the split, and its lower bound; None likewise.
        ece_before: float64 [C], expected calibration error of the scores as they were; NaN where nothing is known.
        ece_after: float64 [C], of pictures that the fit left out, by 5 folds; None without calibration.
    """

    folder: Path
    config: BundleConfig
    split: str
    n_images: int
    n_positive: tuple[int, ...]
    rule: ThresholdRule | None
    chosen: ChosenThresholds | None
    ece_before: NDArray[np.float64]
    ece_after: NDArray[np.float64] | None


def calibrate(
    path: str | Path,
    split: str | None = None,
    *,
    manifest: Manifest | None = None,
    thresholds: str = "f1",
    confidence: float | None = None,
    calibration: str = "temperature",
    on_error: str | None = None,
) -> Calibrated:
    """Fit a calibration on a split, choose thresholds on the calibrated scores, and store both in the run's bundle.

    Scores of an evaluation of the same split by the same weights are used again. A class for which no threshold keeps
    the rule is stored with 1.0, which no score exceeds.

    Arguments:
        path: the run folder.
        split: split name; None is the recipe's val split. Nothing should have been trained on it.
        manifest: other data than the run was trained on; its classes must be the model's.
        thresholds: "f1", "precision=P", "recall=R", or "none" for the recipe's threshold.
        confidence: of the promise of a precision or recall; None is 0.9.
        calibration: "temperature", "isotonic" or "none".
        on_error: "stop" or "skip" at damaged pictures; None is the recipe's.

    Raises:
        UserError: no run or no trained model there, an empty split, other classes, damaged pictures, a rule that is
            none, another process writing to the run.
    """
    rule = ThresholdRule.parse(thresholds, confidence)
    if calibration not in {*METHODS, "none"}:
        raise UserError(f"there is no calibration '{calibration}'.", remedy=nearest(calibration, [*METHODS, "none"]))
    run = open_run(Path(path))
    recipe = load_recipe(str(run.recipe))
    split = split or recipe.data.val_split
    if split == recipe.data.train_split and manifest is None:
        log.warning("split '%s' was trained on: its scores are too good, and no promise holds for new pictures", split)
    with run.locked():
        config = read_config(run.model)
        part = (manifest or Manifest.load(run.manifest)).split(split)
        table = None if manifest else _evaluated(run, config, part, split)
        if table is None:
            table = _score(run, recipe, part, on_error)
        ranking, labels = table.ranking, table.labels
        fit = METHODS.get(calibration)
        fitted = fit(ranking, labels) if fit else None
        scores = fitted.apply(ranking).astype(np.float32) if fitted else ranking
        chosen = rule.choose(ranking, scores, labels) if rule else None
        origin = {"split": split, "n_images": len(table), "ids_sha256": digest_ids(part.ids)}
        updates = {
            "format": 2,
            "thresholds": _stored(chosen, recipe.evaluation.threshold, len(table.classes)),
            "thresholds_from": Origin(rule=chosen.rule, **origin) if chosen else None,
            "calibration": fitted.to_json() if fitted else None,
            "calibration_from": Origin(rule=calibration, **origin) if fitted else None,
        }
        config = config.model_copy(update=updates)
        write_config(run.model, config)
        write_card(run.model, run)
    return Calibrated(
        folder=run.model,
        config=config,
        split=split,
        n_images=len(table),
        n_positive=tuple((labels == 1).sum(axis=0).tolist()),
        rule=rule,
        chosen=chosen,
        ece_before=expected_calibration_error(ranking, labels),
        ece_after=held_out_error(fit, ranking, labels) if fit else None,
    )


def held_out_error(fit: Fit, scores: Scores, labels: Labels, folds: int = FOLDS) -> NDArray[np.float64]:
    """Expected calibration error of scores whose calibration was fitted without them, float64 [C].

    Each fold is calibrated by a fit on the others; the error is that of all folds together. Which pictures make a
    fold is drawn once and for all from their number.

    Arguments:
        fit: from scores and labels to a Calibration.
        scores: float32 or float64 [N, C], 0…1.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.
        folds: 2 or more.
    """
    fold_N = np.random.default_rng(0).permutation(len(scores)) % folds
    out = np.zeros(scores.shape, np.float64)
    for fold in np.unique(fold_N):
        held_out = fold_N == fold
        out[held_out] = fit(scores[~held_out], labels[~held_out]).apply(scores[held_out])
    return expected_calibration_error(out, labels)


def summarize(calibrated: Calibrated) -> str:
    """What was chosen, in a table for a terminal: a line a class, then the rules behind it."""
    config, chosen, rule = calibrated.config, calibrated.chosen, calibrated.rule
    width = max(len("class"), *(len(name) for name in config.classes))
    promised = rule is not None and rule.wanted is not None
    after = calibrated.ece_after
    achieved = "" if rule is None else {"f1": "F1"}.get(rule.name, rule.name)
    columns = ["positives", "threshold", *([f"{achieved:>9}"] if chosen else []), *([" bound"] if promised else [])]
    lines = [f"{'class':{width}}  {'  '.join(columns)}     ECE" + (" → after" if after is not None else "")]
    for c, name in enumerate(config.classes):
        never = chosen is not None and np.isnan(chosen.thresholds[c])
        cells = [f"{calibrated.n_positive[c]:9}", f"{'never' if never else _threshold(config.thresholds[c]):>9}"]
        if chosen:
            cells.append(_cell(chosen.achieved[c], 9))
        if promised and chosen:
            cells.append(_cell(chosen.bound[c], 6))
        ece = _cell(calibrated.ece_before[c], 6) + (f" → {_cell(after[c])}" if after is not None else "")
        lines.append(f"{name:{width}}  {'  '.join(cells)}  {ece}")
    return "\n".join([*lines, "", *_rules(calibrated), f"stored: {calibrated.folder}"])


def _rules(calibrated: Calibrated) -> list[str]:
    config, chosen, after = calibrated.config, calibrated.chosen, calibrated.ece_after
    before = _cell(_mean(calibrated.ece_before))
    lines = [f"split {calibrated.split}, {calibrated.n_images} pictures"]
    if chosen:
        lines.append(f"thresholds: {chosen.rule}, each class by itself")
        if never := [name for name, t in zip(config.classes, chosen.thresholds, strict=True) if np.isnan(t)]:
            lines.append(f"never predicted, for no threshold of theirs keeps the rule: {', '.join(never)}")
    else:
        lines.append(f"thresholds: {config.thresholds[0]:g} for all classes, by the recipe")
    if after is not None and config.calibration is not None:
        lines.append(f"calibration: {config.calibration['method']}, each class by itself; mean ECE {before} before, ")
        lines[-1] += f"{_cell(_mean(after))} after, on pictures that the fit left out ({FOLDS} folds)"
    else:
        lines.append(f"calibration: none; mean ECE {before}")
    return lines


def _evaluated(run: Run, config: BundleConfig, part: Manifest, split: str) -> Predictions | None:
    """The scores of a former evaluation, where the same weights gave them to the same pictures with the same labels."""
    path = run.evaluation(split) / "predictions.parquet"
    if not path.is_file():
        return None
    try:
        table = Predictions.load(path)
    except UserError:
        return None
    source, weights = table.source, run.model / WEIGHTS
    by_these = source.get("bundle_sha256") == config.weights_sha256 and source.get("crops") == config.describe_input()
    if not by_these or not weights.is_file() or sha256_file(weights) != config.weights_sha256:
        return None
    same = table.ids == tuple(part.ids) and table.classes == part.classes and np.array_equal(table.labels, part.labels)
    return table if same else None


def _score(run: Run, recipe: Recipe, part: Manifest, on_error: str | None) -> Predictions:
    settings = {"batch_size": recipe.evaluation.batch_size, "workers": recipe.training.workers}
    predictor = Predictor.load(run.path, **settings, backend="torch")
    return predictor.predict_manifest(part, on_error=on_error or recipe.data.on_error)[0]


def _stored(chosen: ChosenThresholds | None, default: float, n_classes: int) -> tuple[float, ...]:
    return (default,) * n_classes if chosen is None else tuple(chosen.filled().tolist())


def _predicted(scores: Scores, labels: Labels, thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    counts = threshold_counts(scores, labels, thresholds)
    return counts.tp + counts.fp


def _threshold(value: float) -> str:
    shown = f"{value:.4g}"
    return f"{value:.7f}" if shown == "1" else shown


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _cell(value: float, width: int = 0) -> str:
    return f"{'–' if np.isnan(value) else format(value, '.4f'):>{width}}"
