"""The plots of a report, each a function from numbers to a Plot; all small enough to be read on a phone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from manyhot.metrics.calibration import ReliabilityCurve
from manyhot.report.svg import FIRST, INK, LINE, SECOND, SOFT, SURFACE, Plot, blank, plot_style, render, shortened
from manyhot.report.tables import Curve, PairCounts

WIDTH, HEIGHT = 400, 264
SMALL_WIDTH, SMALL_HEIGHT = 184, 140

_FIFTHS = (0, 0.2, 0.4, 0.6, 0.8, 1)


@plot_style()
def losses(history: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Training and validation loss by epoch; None where no epoch has either."""
    return _by_epoch(
        history,
        {"train_loss": ("training", SECOND), "val_loss": ("validation", FIRST)},
        name="loss",
        title="Loss",
    )


@plot_style()
def validation_map(history: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Validation mAP by epoch; None where no epoch has it."""
    return _by_epoch(history, {"val_map": ("validation mAP", FIRST)}, name="val_map", title="Validation mAP")


@plot_style()
def top1(history: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Top-1 accuracy in training and validation by epoch; None where no epoch has either."""
    return _by_epoch(
        history,
        {"train_top1": ("training", SECOND), "val_top1": ("validation", FIRST)},
        name="top1",
        title="Top-1 accuracy",
    )


@plot_style()
def learning_rate(history: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Learning rate by epoch, on a logarithmic scale where it changes tenfold; None where no epoch has it."""
    return _by_epoch(history, {"lr": ("learning rate", INK)}, name="learning_rate", title="Learning rate")


@plot_style()
def rate_search(rates: ArrayLike, losses: ArrayLike, smooth: ArrayLike, suggestion: float | None) -> Plot:
    """Loss by learning rate on a logarithmic axis: each step's as a point, their smoothed course as a line.

    Arguments:
        rates: [S], rising.
        losses: [S].
        smooth: [S]; what the height is chosen by, so that a loss that has left the range does not flatten the rest.
        suggestion: a rate to mark; None: none.
    """
    x, y, line = (np.array(values, dtype=np.float64) for values in (rates, losses, smooth))
    figure = blank(WIDTH, HEIGHT)
    axes = figure.add_axes((0.13, 0.155, 0.84, 0.735))
    axes.plot(x, y, color=SOFT, linestyle="", marker="o", markersize=2.5, alpha=0.6)
    axes.plot(x, line, color=FIRST)
    axes.set_xscale("log")
    low, high = float(line.min()), float(min(line.max(), line[0] + 2 * (line[0] - line.min()) + 0.1 * line[0]))
    room = 0.15 * (high - low) or 1.0
    axes.set_ylim(max(0.0, low - room), high + room)
    axes.set_title("Loss by learning rate", y=1.04)
    axes.set_xlabel("learning rate of the head")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e"))
    told = f"Loss by learning rate: {line[0]:.3g} at {x[0]:.1e}, lowest {low:.3g} at {x[line.argmin()]:.1e}"
    if suggestion is not None:
        axes.axvline(suggestion, color=SECOND, linewidth=1.5, dashes=(4, 2))
        beside = axes.get_xaxis_transform()
        axes.text(suggestion * 1.25, 0.97, f"{suggestion:.1e}", transform=beside, color=SECOND, va="top", fontsize=10.5)
        told += f"; {suggestion:.1e} is suggested"
    return render(figure, name="learning_rates", alt=told + ".")


@plot_style()
def average_precisions(
    names: Sequence[str],
    aps: Sequence[float | None],
    mean: float | None,
    intervals: Sequence[Sequence[float] | None] | None = None,
) -> Plot:
    """AP of each class as bars, highest first, with the mean; classes without an AP stand last and say so.

    A line over a bar is the interval of that AP, where there is one.
    """
    order = sorted(range(len(names)), key=lambda c: -1.0 if aps[c] is None else -(aps[c] or 0) - 1)
    order = [c for c in order if aps[c] is not None] + [c for c in order if aps[c] is None]
    row, left, right, top, bottom = 18, 112, 46, 46, 22
    height = top + row * len(order) + bottom
    figure = blank(WIDTH, height)
    axes = figure.add_axes((left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, row * len(order) / height))
    for y, c in enumerate(order):
        ap = aps[c]
        if ap is None:
            axes.text(0.01, y, "no positive image", color=SOFT, va="center_baseline", fontsize=10)
            continue
        axes.barh(y, ap, height=0.62, color=FIRST)
        if intervals and (interval := intervals[c]):
            low, high = interval
            axes.plot((low, high), (y, y), color=SURFACE, linewidth=4.5, solid_capstyle="butt", alpha=0.55)
            axes.plot((low, high), (y, y), color=INK, linewidth=1.3, marker="|", markersize=6)
        axes.text(1.17, y, f"{ap:.3f}", va="center_baseline", ha="right", fontsize=10.5)
    if mean is not None:
        axes.axvline(mean, color=SURFACE, linewidth=3.5)
        axes.axvline(mean, color=SECOND, linewidth=1.5, dashes=(4, 2))
        axes.text(mean, -0.75, f"mAP {mean:.3f}", color=SECOND, ha="center", fontsize=10.5)
    axes.set_xlim(0, 1)
    axes.set_xticks(_FIFTHS, [f"{tick:g}" for tick in _FIFTHS])
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_yticks(range(len(order)), [shortened(names[c], 17) for c in order])
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    figure.text(0.005, 1 - 14 / height, "AP by class", fontsize=12, fontweight="bold")
    known = [c for c in order if aps[c] is not None]
    told = f" From {names[known[0]]} to {names[known[-1]]}." if known else ""
    return render(figure, name="average_precision", alt=f"Bars of average precision for {len(names)} classes.{told}")


@plot_style()
def precision_recall_mean(curve: Curve, n_classes: int) -> Plot:
    """The mean over classes of precision at each recall."""
    figure = blank(WIDTH, HEIGHT)
    axes = figure.add_axes((0.09, 0.155, 0.88, 0.735))
    recall, precision = curve
    axes.plot(recall, precision, color=FIRST)
    axes.fill_between(recall, precision, color=FIRST, alpha=0.1, linewidth=0)
    _unit_square(axes)
    axes.set_title("Precision by recall, mean", y=1.04)
    axes.set_xlabel("recall")
    alt = f"Mean precision of {n_classes} classes by recall: {precision[0]:.2f} at 0, {_at(curve, 0.5):.2f} at recall "
    return render(figure, name="precision_recall", alt=alt + f"0.5, {precision[-1]:.2f} at 1.")


@plot_style()
def precision_recall_class(name: str, number: int, curve: Curve | None, mean: Curve | None, ap: float | None) -> Plot:
    """Precision by recall of one class over the mean; `curve` is None for a class without positives, or none found."""
    absent = "no positive image" if ap is None else "none found"
    figure, axes = _small(name, None if ap is None else f"AP {ap:.3f}")
    if mean is not None:
        axes.plot(*mean, color=SOFT, linewidth=1, alpha=0.7)
    if curve is None:
        _say(axes, absent)
    else:
        recall, precision = curve
        axes.step(np.r_[0, recall], np.r_[precision[0], precision], where="pre", color=FIRST, linewidth=1.6)
    _unit_square(axes, ticks=(0, 0.5, 1))
    told = absent if curve is None else "AP undefined" if ap is None else f"AP {ap:.3f}"
    return render(figure, name=f"precision_recall_{number:03d}", alt=f"Precision by recall of {name}: {told}.")


@plot_style()
def reliability_pooled(curve: ReliabilityCurve, before: ReliabilityCurve | None) -> Plot:
    """Share of positives by score over all pairs of image and class, and below it how many pairs each bin holds.

    Arguments:
        curve: of the scores as they are used.
        before: of the scores before calibration; None where there is none.
    """
    figure = blank(WIDTH, HEIGHT)
    upper = figure.add_axes((0.09, 0.40, 0.88, 0.49))
    lower = figure.add_axes((0.09, 0.155, 0.88, 0.16), sharex=upper)
    upper.plot((0, 1), (0, 1), color=SOFT, linewidth=1, dashes=(2, 2))
    if before is not None:
        upper.plot(before.score, before.share, color=SECOND, marker="o", markersize=4, dashes=(5, 2), label="before")
    label = "scores" if before is None else "calibrated"
    upper.plot(curve.score, curve.share, color=FIRST, marker="o", markersize=4, label=label)
    if before is not None:
        upper.legend(loc="upper right", fontsize=10.5, ncols=2, borderaxespad=0, bbox_to_anchor=(1, 1.19))
    upper.set_title("Share of positives by score", y=1.06)
    _unit_square(upper, ticks=(0, 0.5, 1))
    upper.tick_params(labelbottom=False)
    lower.bar(curve.score, curve.n, width=0.05, color=FIRST, alpha=0.55, bottom=0.5)
    lower.set_yscale("log")
    lower.set_ylim(0.5, max(10.0, 3.0 * float(curve.n.max(initial=1))))
    lower.set_yticks([])
    lower.minorticks_off()
    lower.grid(visible=False)
    for x, n in zip(curve.score, curve.n, strict=True):
        lower.text(x, n * 1.25, f"{n:,}", ha="center", va="bottom", fontsize=9, color=SOFT)
    lower.set_ylim(0.5, 30.0 * float(curve.n.max(initial=1)))
    lower.set_xticks(_FIFTHS, [f"{tick:g}" for tick in _FIFTHS])
    lower.set_xlabel("mean score of a bin; below, how many it holds")
    told = "; ".join(f"{y:.2f} at {x:.2f}" for x, y in zip(curve.score, curve.share, strict=True))
    return render(figure, name="reliability", alt=f"Share of positives by score, all classes: {told}.")


@plot_style()
def reliability_class(
    name: str, number: int, curve: ReliabilityCurve, before: ReliabilityCurve | None, error: float | None
) -> Plot:
    """Share of positives by score of one class with a positive, over the line before calibration where there is one."""
    figure, axes = _small(name, None if error is None else f"ECE {error:.3f}")
    axes.plot((0, 1), (0, 1), color=SOFT, linewidth=1, dashes=(2, 2))
    if before is not None:
        axes.plot(before.score, before.share, color=SECOND, linewidth=1, dashes=(5, 2))
    axes.plot(curve.score, curve.share, color=FIRST, linewidth=1.4, marker="o", markersize=3)
    _unit_square(axes, ticks=(0, 0.5, 1))
    told = "undefined" if error is None else f"ECE {error:.3f}"
    return render(figure, name=f"reliability_{number:03d}", alt=f"Share of positives by score of {name}: {told}.")


@plot_style()
def tail_mean(threshold: ArrayLike, mean: ArrayLike, counted: ArrayLike) -> Plot:
    """Mean tail accuracy by threshold, and below it the number of classes that count."""
    t, accuracy, n = (np.array(values, dtype=np.float64) for values in (threshold, mean, counted))
    figure = blank(WIDTH, HEIGHT)
    upper = figure.add_axes((0.09, 0.36, 0.88, 0.53))
    lower = figure.add_axes((0.09, 0.155, 0.88, 0.14), sharex=upper)
    upper.step(t, accuracy, where="post", color=FIRST)
    upper.set_title("Tail accuracy by threshold, mean", y=1.06)
    lowest = float(np.nanmin(accuracy)) if np.isfinite(accuracy).any() else 0.0
    bottom = math.floor(lowest * 10 - 0.2) / 10 if lowest > 0.2 else 0.0
    upper.set_ylim(bottom, 1 + 0.05 * (1 - bottom))
    upper.set_yticks([tick for tick in MaxNLocator(5).tick_values(bottom, 1) if bottom <= tick <= 1])
    upper.tick_params(labelbottom=False)
    lower.fill_between(t, n, step="post", color=SECOND, alpha=0.3, linewidth=0)
    lower.step(t, n, where="post", color=SECOND, linewidth=1.2)
    lower.set_xlim(float(t[0]), max(1.0, float(t[-1])))
    lower.set_ylim(0, max(float(n.max()) * 1.15, 1.0))
    lower.set_yticks([int(n.max())])
    lower.set_xticks(np.linspace(0.5, 1, 6), ["0.5", "0.6", "0.7", "0.8", "0.9", "1"])
    lower.set_xlabel("threshold t; below, classes counted")
    finite = np.flatnonzero(np.isfinite(accuracy))
    alt = "Mean tail accuracy by threshold"
    if finite.size:
        first, last = finite[0], finite[-1]
        alt += f": {accuracy[first]:.2f} at {t[first]:.2f} over {n[first]:.0f} classes, "
        alt += f"{accuracy[last]:.2f} at {t[last]:.2f} over {n[last]:.0f}"
    return render(figure, name="tail_accuracy", alt=alt + ".")


@plot_style()
def tail_class(name: str, number: int, curve: Curve | None, value: float | None) -> Plot:
    """Tail accuracy by threshold of one class; `curve` is None where no score exceeds 0.5."""
    figure, axes = _small(name, None if value is None else f"mean {value:.2f}")
    if curve is None:
        _say(axes, "no score above 0.5")
    else:
        axes.step(*curve, where="post", color=FIRST, linewidth=1.6)
    _unit_square(axes, ticks=(0, 0.5, 1))
    axes.set_xlim(0.5, 1)
    axes.set_xticks([0.5, 0.75, 1], ["0.5", "0.75", "1"])
    told = "no score above 0.5" if curve is None else "undefined" if value is None else f"mean {value:.3f}"
    return render(figure, name=f"tail_accuracy_{number:03d}", alt=f"Tail accuracy by threshold of {name}: {told}.")


@plot_style()
def pair_map(pairs: PairCounts, classes: Sequence[int], names: Sequence[str], *, name: str, title: str) -> Plot:
    """Counts as numbers, shares of the row as tint; rows and columns are the given `classes`."""
    longest = max(len(shortened(names[i], 15)) for i in classes)
    cell, left = 25, 16 + 7 * longest
    top = left - 6
    side = cell * len(classes)
    width, height = left + side + 8, top + side + 6
    figure = blank(width, height)
    axes = figure.add_axes((left / width, 6 / height, side / width, side / height))
    axes.set_axis_off()
    axes.set_xlim(0, len(classes))
    axes.set_ylim(len(classes), 0)
    shares = pairs.shares
    for y, i in enumerate(classes):
        axes.axhline(y, color=LINE, linewidth=0.6)
        axes.axvline(y, color=LINE, linewidth=0.6)
        axes.text(-0.25, y + 0.5, shortened(names[i], 15), ha="right", va="center_baseline", fontsize=10.5, color=SOFT)
        axes.text(
            y + 0.62,
            -0.3,
            shortened(names[i], 15),
            rotation=90,
            rotation_mode="anchor",
            ha="left",
            va="baseline",
            fontsize=10.5,
            color=SOFT,
        )
        for x, j in enumerate(classes):
            count = int(pairs.counts[i, j])
            if not count:
                continue
            strength = 0.08 + 0.52 * min(1.0, math.sqrt(float(shares[i, j])))
            axes.fill_between([x, x + 1], y, y + 1, color=FIRST if i != j else SOFT, alpha=strength, linewidth=0)
            label = str(count) if count < 1000 else f"{count / 1000:.0f}k"
            axes.text(x + 0.5, y + 0.5, label, ha="center", va="center_baseline", fontsize=9.5)
    axes.axhline(len(classes), color=LINE, linewidth=0.6, clip_on=False)
    axes.axvline(len(classes), color=LINE, linewidth=0.6, clip_on=False)
    top_pairs = [f"{names[i]} with {names[j]} {pairs.counts[i, j]}" for i, j in pairs.largest(3)]
    told = "; ".join(top_pairs) if top_pairs else "none"
    return render(figure, name=name, alt=f"{title} Most frequent: {told}.")


def _by_epoch(
    history: Sequence[Mapping[str, Any]], series: Mapping[str, tuple[str, str]], *, name: str, title: str
) -> Plot | None:
    lines = {}
    for key in series:
        points = [(line.get("epoch") or i + 1, line.get(key)) for i, line in enumerate(history)]
        points = [(epoch, value) for epoch, value in points if _is_number(value)]
        if points:
            lines[key] = np.array(points, dtype=np.float64).T
    if not lines:
        return None
    figure = blank(WIDTH, HEIGHT)
    axes = figure.add_axes((0.13, 0.155, 0.84, 0.735))
    told = []
    for key, (epochs, values) in lines.items():
        label, colour = series[key]
        dashed: dict[str, Any] = {"dashes": (5, 2)} if key.startswith("train") else {}
        marker = "o" if len(epochs) <= 12 else ""
        steps = "steps-mid" if name == "learning_rate" else "default"
        axes.plot(epochs, values, color=colour, drawstyle=steps, marker=marker, markersize=4, label=label, **dashed)
        told.append(f"{label} {values[0]:.4g} at epoch {epochs[0]:.0f}, {values[-1]:.4g} at epoch {epochs[-1]:.0f}")
    everything = np.concatenate([values for _, values in lines.values()])
    if name == "learning_rate" and 0 < 10 * everything.min() < everything.max():
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
    elif name == "learning_rate":
        axes.set_ylim(0, (float(everything.max()) or 1.0) * 1.1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    if len(lines) > 1:
        axes.legend(loc="upper right", fontsize=10.5, ncols=2, borderaxespad=0, bbox_to_anchor=(1, 1.13))
    if len({float(epoch) for epochs, _ in lines.values() for epoch in epochs}) == 1:
        axes.set_xlim(float(epochs[0]) - 1, float(epochs[0]) + 1)
        axes.set_xticks([float(epochs[0])], [f"{epochs[0]:.0f}"])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("epoch")
    axes.set_title(title, y=1.04)
    return render(figure, name=name, alt=f"{title} by epoch: {'; '.join(told)}.")


def _small(name: str, value: str | None) -> tuple[Any, Axes]:
    figure = blank(SMALL_WIDTH, SMALL_HEIGHT)
    axes = figure.add_axes((0.125, 0.12, 0.835, 0.70))
    figure.text(0.01, 0.905, shortened(name, 13 if value else 22), fontsize=11.5, fontweight="bold")
    if value:
        figure.text(0.965, 0.905, value, fontsize=10.5, color=SOFT, ha="right")
    axes.tick_params(labelsize=9.5, pad=2)
    return figure, axes


def _unit_square(axes: Axes, ticks: Sequence[float] = _FIFTHS) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.03)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick:g}" if tick else "" for tick in ticks])


def _say(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=SOFT, fontsize=11)


def _at(curve: Curve, x: float) -> float:
    return float(curve[1][int(np.searchsorted(curve[0], x))])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
