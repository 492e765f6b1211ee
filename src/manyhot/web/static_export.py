"""The gallery as a folder that opens without a server: the ends of every ranking, with their pictures."""

from __future__ import annotations

import json
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyhot import __version__
from manyhot.atomic import sync_folder
from manyhot.errors import UserError
from manyhot.metrics.thresholds import threshold_counts
from manyhot.progress import progress, track
from manyhot.report.tables import precision_by_recall, tail_by_threshold
from manyhot.web.collection import Collection, descending
from manyhot.web.opening import Opened
from manyhot.web.thumbnails import THUMBNAIL, Missing, picture, placeholder

_POINTS = 240  # of a curve: more than a plot can show
_MOST = 8  # classes told of a picture, beside those that it has

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w.-]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async function|function|class|const) (\w+))", re.MULTILINE)


def write_export(opened: Opened, folder: Path, number: int = 50) -> Path:
    """Write `index.html`, its script, style and data, and the pictures; nothing in them asks for another place.

    The folder appears whole, or not at all.

    Arguments:
        opened: what a gallery shows.
        folder: to be made; one that is there must be empty.
        number: pictures in each list of a class.

    Returns:
        The page.

    Raises:
        UserError: a run that is not evaluated, a folder with files in it, one that cannot be written.
    """
    collection = opened.collection
    if collection is None:
        raise UserError("no split of this run is evaluated.", remedy="First: manyhot evaluate RUN.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("there is something already.", file=folder, remedy="Name a new folder.")
    temporary = folder.absolute().with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / "pictures").mkdir(parents=True)
        data = _gathered(opened.title, collection, number)
        data["files"] = _write_pictures(collection, [int(row) for row in data["pictures"]], temporary / "pictures")
        text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        (temporary / "data.js").write_text(f"globalThis.manyhotExport = {text};\n", encoding="ascii")
        (temporary / "gallery.js").write_text(bundle(), encoding="utf-8")
        for name, source in (("index.html", "exported"), ("style.css", "static"), ("icon.svg", "static")):
            (temporary / name).write_bytes((resources.files("manyhot.web") / source / name).read_bytes())
        temporary.replace(folder)
        sync_folder(folder.absolute().parent)
    except OSError as error:
        raise UserError(f"the export cannot be written ({error.strerror}).", file=folder) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / "index.html"


def bundle() -> str:
    """The modules of the exported page as one plain script: a browser loads no modules from a file.

    Each keeps a scope of its own; those that ask a server are replaced by those that read `data.js`.
    """
    root = resources.files("manyhot.web")
    own = {one.name: one.read_text("utf-8") for one in (root / "exported").iterdir() if one.name.endswith(".js")}
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        if name in parts:
            assert parts[name], f"{name} is imported in a circle"
            return
        parts[name] = ""
        text = own[name] if name in own else (root / "static" / name).read_text("utf-8")
        for _, other in _IMPORT.findall(text):
            add(other)
        given = ", ".join(_EXPORT.findall(text))
        text = _EXPORT.sub("", _IMPORT.sub(r'const {\1} = modules["\2"];' + "\n", text))
        del parts[name]  # to stand behind what it needs
        parts[name] = f'modules["{name}"] = (() => {{\n{text}\nreturn {{ {given} }};\n}})();\n'

    add("exported.js")
    return '"use strict";\n(() => {\nconst modules = {};\n' + "\n".join(parts.values()) + "})();\n"


def _gathered(title: str, collection: Collection, number: int) -> dict[str, Any]:
    predictions, thresholds = collection.predictions, np.array(collection.thresholds)
    counts = threshold_counts(predictions.scores, predictions.labels, thresholds)
    precision, recall, f1 = counts.precision(), counts.recall(), counts.f_beta(1)
    classes = []
    measures = collection.measures()
    for c, measured in enumerate(track(measures, len(measures), "rankings", "classes")):
        scores, labels = predictions.scores[:, c], predictions.labels[:, c]
        rank = np.ascontiguousarray(predictions.ranking[:, c])
        lists = _lists(scores, labels, descending(rank).astype(np.int64), float(thresholds[c]), number)
        entries = {
            name: [[int(row), _short(scores[row]), int(labels[row])] for row in rows] for name, rows in lists.items()
        }
        counted = {kind: int(getattr(counts, kind)[c]) for kind in ("tp", "fp", "fn", "tn")}
        shares = {"precision": precision[c], "recall": recall[c], "f1": f1[c]}
        curves = _curves(rank, scores, labels)
        classes.append(measured | counted | {k: _known(v) for k, v in shares.items()} | curves | {"lists": entries})
    rows = sorted({entry[0] for one in classes for entries in one["lists"].values() for entry in entries})
    return {
        "title": title,
        "version": __version__,
        "n": len(collection),
        "names": list(predictions.classes),
        "thresholds": list(collection.thresholds),
        "classes": classes,
        "pictures": {str(row): _told(collection, row) for row in rows},
    }


def _lists(
    scores_N: NDArray[np.float32], labels_N: NDArray[np.int8], order_N: NDArray[np.int64], t: float, number: int
) -> dict[str, NDArray[np.int64]]:
    """The first rows of each order, as the page of a served gallery orders them."""
    ranked, labels = scores_N[order_N].astype(np.float64), labels_N[order_N]
    loss = np.where(labels == 1, 1 - ranked, ranked)
    known = np.flatnonzero(labels >= 0)
    found = {
        "top": order_N,
        "bottom": order_N[::-1],
        "near": order_N[np.argsort(np.abs(ranked - t), kind="stable")],
        "loss": order_N[known[np.argsort(-loss[known], kind="stable")]],
        "fp": order_N[(ranked > t) & (labels == 0)],
        "fn": order_N[(ranked <= t) & (labels == 1)][::-1],
    }
    return {name: rows[:number] for name, rows in found.items()}


def _curves(
    rank_N: NDArray[np.float32], scores_N: NDArray[np.float32], labels_N: NDArray[np.int8]
) -> dict[str, list[list[float]]]:
    pr = precision_by_recall(rank_N, labels_N) if (labels_N == 1).any() else None
    return {"pr": _thinned(pr), "tail": _thinned(tail_by_threshold(scores_N, labels_N))}


def _thinned(curve: tuple[NDArray[np.float64], NDArray[np.float64]] | None) -> list[list[float]]:
    if curve is None:
        return []
    kept = np.unique(np.linspace(0, len(curve[0]) - 1, _POINTS).round().astype(int))
    return [[_short(x), _short(y)] for x, y in zip(curve[0][kept], curve[1][kept], strict=True)]


def _told(collection: Collection, row: int) -> dict[str, Any]:
    """Name and split of a picture; class, score and label of its most probable classes and of those that it has."""
    scores, labels = collection.predictions.scores[row], collection.predictions.labels[row]
    order = np.argsort(-scores, kind="stable")
    kept = [int(c) for place, c in enumerate(order) if place < _MOST or labels[c] == 1]
    told = [[c, _short(scores[c]), int(labels[c])] for c in kept]
    return {"id": collection.predictions.ids[row], "split": collection.predictions.splits[row], "scores": told}


def _write_pictures(collection: Collection, rows: list[int], folder: Path) -> dict[str, str]:
    files = {}
    with progress(len(rows), "pictures") as bar:
        for row in rows:
            try:
                one, suffix = picture(collection.file(row), THUMBNAIL), "jpg"
            except Missing as missing:
                one, suffix = placeholder(collection.predictions.ids[row], str(missing)), "svg"
            files[str(row)] = f"{row}.{suffix}"
            (folder / files[str(row)]).write_bytes(one.content)
            bar.advance()
    return files


def _short(value: Any) -> float:
    return round(float(value), 5)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else _short(value)
