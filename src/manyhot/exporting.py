"""`export`: a trained run or bundle in; a file that runs without torch, and the proof that it says the same, out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manyhot.atomic import sync_folder
from manyhot.data.decoding import EvaluationBatches, Loader, PictureCrops
from manyhot.data.image_checks import sound_rows
from manyhot.data.images import is_present
from manyhot.data.manifest import Manifest
from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError, nearest
from manyhot.inference.backends.torch import Torch
from manyhot.inference.exported import SUFFIXES, ExportedModel, Precision, metadata
from manyhot.inference.graph import write_onnx, write_openvino
from manyhot.inference.packages import version
from manyhot.inference.predict import Predictor, load_model
from manyhot.inference.quantizing import quantize
from manyhot.metrics.ranking import average_precision, mean_ap
from manyhot.models.bundle import Bundle
from manyhot.predictions import Predictions
from manyhot.recipe import Recipe, load_recipe
from manyhot.runs import Run

FLOAT_TOLERANCE = 1e-4
"""Largest difference of a score between torch and a float32 export."""

MAP_TOLERANCE = 0.005
"""Mean average precision that an int8 export may lose."""

MEAN_TOLERANCE = 0.02
"""Mean difference of a score between torch and an int8 export, where no labels are known."""

CHECKED = {"float32": 200, "int8": 1000}
"""Pictures on which an export is compared, by its precision."""

WATCHED = 300
"""Pictures by which int8 ranges are chosen."""

_GENERATED = 16


@dataclass(frozen=True)
class Parity:
    """How far an export is from the network it was made of.

    Arguments:
        pictures: which they were, in words.
        n_images: their number.
        largest: difference of a score, 0…1.
        mean: likewise.
        map_before: mean AP of torch on them, over classes with a positive; None: nothing is known of labels.
        map_after: of the export.
    """

    pictures: str
    n_images: int
    largest: float
    mean: float
    map_before: float | None = None
    map_after: float | None = None

    def fault(self, precision: Precision) -> str | None:
        """Why the export is not to be used; None: it is."""
        if not np.isfinite(self.largest):
            return "its scores are not numbers"
        if precision == "float32":
            far = self.largest > FLOAT_TOLERANCE
            return f"a score differs by {self.largest:.2e}, more than {FLOAT_TOLERANCE:g}" if far else None
        if self.map_before is None or self.map_after is None:
            far = self.mean > MEAN_TOLERANCE
            return f"scores differ by {self.mean:.4f} on average, more than {MEAN_TOLERANCE:g}" if far else None
        lost = self.map_before - self.map_after
        return f"int8 loses {lost:.4f} mAP, more than {MAP_TOLERANCE:g}" if lost > MAP_TOLERANCE else None

    def describe(self) -> str:
        """The check in two lines."""
        lines = [
            f"checked on {self.n_images} {self.pictures}",
            f"difference of scores from torch: largest {self.largest:.2e}, mean {self.mean:.2e}",
        ]
        if self.map_before is not None:
            lines.append(f"mAP before {self.map_before:.4f}, after {self.map_after:.4f}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Export:
    """What was written, and the check.

    Arguments:
        path: the .onnx or .xml file.
        precision: of its network.
        backend: that ran it in the check.
        parity: what the check found.
    """

    path: Path
    precision: Precision
    backend: str
    parity: Parity


def export(
    source: str | Path,
    out: str | Path,
    format: str = "onnx",  # noqa: A002 - the name of the option
    *,
    int8: bool = False,
    calibration: Manifest | None = None,
    data: Manifest | None = None,
    pictures: int | None = None,
) -> Export:
    """Write a trained classifier as a file that runs without torch, and compare the two on pictures.

    The file appears only when the comparison holds: float32 scores within `FLOAT_TOLERANCE`; int8 within
    `MAP_TOLERANCE` of the mean AP where labels are known, else within `MEAN_TOLERANCE` on average.

    Arguments:
        source: a run folder, or a bundle folder.
        out: .onnx, or .xml, beside which a .bin is written.
        format: "onnx" or "openvino".
        int8: quantise weights and activations.
        calibration: pictures by which int8 ranges are chosen, of its train split where it has one; None: the run's.
        data: pictures to compare on, of its val split where it has one; None: the run's, where they are still there,
            else generated ones.
        pictures: how many to compare on, at most; None: see `CHECKED`.

    Raises:
        UserError: no trained classifier there, a package is missing, a wrong file ending, a network or crops that
            cannot be exported, no pictures to quantise by; or the comparison does not hold.
    """
    path = Path(out)
    precision: Precision = "int8" if int8 else "float32"
    if format not in SUFFIXES:
        raise UserError(f"there is no format '{format}'.", remedy=nearest(format, SUFFIXES))
    if path.suffix != SUFFIXES[format]:
        raise UserError(f"a model of format {format} is written as {SUFFIXES[format]}.", file=path)
    if calibration is not None and not int8:
        raise UserError("--calibration is for --int8.", remedy="Pictures to compare on are named by --data.")
    bundle = load_model(source)
    if not isinstance(bundle, Bundle):
        raise UserError("this is exported already.", file=source, remedy="Give the run folder.")
    run = Run(Path(source))
    rules = bundle.config.preprocessing
    watched = _watched(run, calibration) if int8 else []
    about = metadata(bundle.config, precision, version("manyhot"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as folder:
        plain, made = Path(folder) / "float32.onnx", Path(folder) / f"model{path.suffix}"
        write_onnx(plain, bundle.model, rules, about)
        if int8:
            quantize(made, plain, Stacks(watched, rules), len(watched), about)
        elif format == "onnx":
            made = plain
        else:
            write_openvino(made, plain, about)
        exported = Predictor(ExportedModel.read(made), backend="onnxruntime" if format == "onnx" else "openvino")
        parity = _compare(bundle, exported, run, data, pictures or CHECKED[precision], Path(folder))
        if fault := parity.fault(precision):
            raise UserError(f"the export does not say what torch says: {fault}; nothing was written.", file=path)
        _place(made, path)
    return Export(path, precision, exported.backend, parity)


def summarize(export: Export) -> str:
    """What was written, and the check, for a terminal."""
    size = sum(one.stat().st_size for one in _files(export.path)) / 1e6
    return f"{export.parity.describe()}\n{export.precision}, {size:.1f} MB, run by {export.backend}: {export.path}"


def _place(made: Path, path: Path) -> None:
    """Put finished files in their places: an .xml never lies beside another model's .bin, whenever a kill comes."""
    for one in _files(made):
        with one.open("rb+") as file:
            os.fsync(file.fileno())
    if path.suffix == ".xml":
        path.unlink(missing_ok=True)
        made.with_suffix(".bin").replace(path.with_suffix(".bin"))
    made.replace(path)
    sync_folder(path.parent)


def _files(path: Path) -> list[Path]:
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


class Stacks:
    """The crops of pictures, uint8 [V, H, W, 3] those of one shape; decoded anew in every pass."""

    def __init__(self, paths: list[Path], preprocessing: Preprocessing) -> None:
        self.pictures = PictureCrops(paths, preprocessing)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        loader = Loader(self.pictures, EvaluationBatches(len(self.pictures), 1))
        for batch in loader:
            for group in batch.groups:
                for stack_NVHWC in group.stacks:
                    yield stack_NVHWC[0]


def _compare(bundle: Bundle, exported: Predictor, run: Run, data: Manifest | None, count: int, folder: Path) -> Parity:
    """Score the same pictures by torch and by the export."""
    plain = Predictor(bundle, backend=Torch(device="cpu", fold=False))  # the network as it was trained
    part = _part(data, "val") if data is not None else _own(run, lambda recipe: recipe.data.val_split)
    if part is None:
        files = _generated(folder, bundle.config.preprocessing.size)
        before, after = plain.predict(files), exported.predict(files)
        return _parity("generated pictures, for the run's own are not there", before, after)
    chosen = _spread(part, count)
    if chosen.classes == bundle.config.classes:
        before, after = (one.predict_manifest(chosen, on_error="skip")[0] for one in (plain, exported))
    else:  # of other data the pictures alone are of use
        before, after = (one.predict(chosen.paths, on_error="skip") for one in (plain, exported))
    return _parity(f"pictures of {part.root}", before, after)


def _parity(pictures: str, before: Predictions, after: Predictions) -> Parity:
    assert before.ids == after.ids, "the same pictures were not scored"
    apart = np.abs(before.ranking - after.ranking)
    known = [mean_ap(average_precision(one.ranking, one.labels))[0] for one in (before, after)]
    labelled = bool((before.labels == 1).any())
    return Parity(
        pictures,
        len(before),
        float(apart.max()),
        float(apart.mean()),
        *(known if labelled else (None, None)),
    )


def _watched(run: Run, calibration: Manifest | None) -> list[Path]:
    """The pictures by which int8 ranges are chosen.

    Raises:
        UserError: there are none.
    """
    part = _part(calibration, "train") if calibration is not None else _own(run, lambda recipe: recipe.data.train_split)
    if part is None:
        raise UserError(
            "--int8 needs pictures such as the network will see, and the run's own are not there.",
            file=run.path,
            remedy="Name some with --calibration SOURCE.",
        )
    sound, _ = sound_rows(_spread(part, WATCHED), on_error="skip")
    return sound.paths


def _own(run: Run, split: Callable[[Recipe], str]) -> Manifest | None:
    """The run's pictures of a split; None where it is a bundle alone, or the files have gone."""
    if not (run.recipe.is_file() and run.manifest.is_file()):
        return None
    part = _part(Manifest.load(run.manifest), split(load_recipe(str(run.recipe))))
    return part if all(map(is_present, _spread(part, WATCHED).paths)) else None


def _part(manifest: Manifest, split: str) -> Manifest:
    """A split, or all where there is none of that name."""
    return manifest.split(split) if split in set(manifest.table["split"]) else manifest


def _spread(part: Manifest, count: int) -> Manifest:
    """At most so many pictures, evenly spread over the rows."""
    keep = np.zeros(len(part), bool)
    keep[np.linspace(0, len(part) - 1, min(count, len(part))).astype(int)] = True
    return part.rows(keep.tolist())


def _generated(folder: Path, side: int) -> list[Path]:
    """Pictures of random colours at several scales, from coarse to fine."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(_GENERATED):
        cells = 2 ** (1 + number % 6)
        small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        files.append(folder / f"generated-{number:02}.png")
        small.resize((side * 5 // 4, side * 9 // 8), Image.Resampling.BICUBIC).save(files[-1])
    return files
