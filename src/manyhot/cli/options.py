"""What several verbs share: their arguments and options, and how they open what these name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manyhot.errors import UserError
from manyhot.processes import is_main

if TYPE_CHECKING:
    from manyhot.data.manifest import Manifest


class OnError(StrEnum):
    """What to do about pictures that cannot be read."""

    stop = "stop"
    skip = "skip"


class Engine(StrEnum):
    """What scores pictures."""

    here = "here"
    ray = "ray"


class Export(StrEnum):
    """Layouts of ranked scores that `evaluate` writes."""

    npy = "npy"
    csv = "csv"


class Method(StrEnum):
    """Calibrations."""

    temperature = "temperature"
    isotonic = "isotonic"
    none = "none"


class SavedAs(StrEnum):
    """Layouts that `data prepare` writes."""

    pixels = "pixels"
    voc = "voc"


SOURCE_HELP = "A folder, a table, a COCO JSON, a manifest, or the name of embedded data (digits)."
Source = Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP)]
Kind = Annotated[str | None, typer.Option("--source", help="Kind of the source, where it is not recognised.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a recipe key: a.b=c. May be repeated.")]
Skip = Annotated[
    OnError | None, typer.Option(help="Pictures that cannot be read: list all and stop, or leave out and name.")
]
Out = Annotated[Path, typer.Option(help="The run folder to make.")]
Boxes = Annotated[Path | None, typer.Option("--proposals", help="Of a detector: a file of `manyhot data proposals`.")]
Published = Annotated[
    Path | None, typer.Option("--from", help="Boxes found by others: .parquet, .mat, or a folder of .mat files.")
]
Layout = Annotated[str | None, typer.Option(help="Of .mat boxes: xyxy0, xyxy1, yxyx0 or yxyx1.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, made by `manyhot train`.")]


def read_source(source: str, kind: str | None = None, difficult: Any = "ignore") -> Manifest:
    """The Manifest of a source, of the kind that --source names or recognised."""
    from manyhot.data.sources import open_source

    return open_source(source, kind=kind, difficult=difficult)


def read_other_data(run: Path, data: str | None, kind: str | None) -> Manifest | None:
    """What --data and --source name; None: the run's own data."""
    if kind and not data:
        raise UserError("--source says how to read --data, and there is none.")
    return read_source(data, kind, difficult_rule(run)) if data else None


def read_pictures(paths: list[str], kind: str | None, column: str | None, id_column: str | None) -> Any:
    """What is to be scored: with --source a Manifest, else the pictures that paths name."""
    from manyhot.inference.pictures import list_pictures

    if kind is None:
        return list_pictures(paths, column=column, id_column=id_column)
    if len(paths) > 1 or column or id_column:
        raise UserError("--source is of one path, without --column and --id-column.")
    return read_source(paths[0], kind)


def refuse_for_one_process(**options: object) -> None:
    """Refuse options of --engine ray where it is not the engine."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise UserError(f"{', '.join(given)}: only with --engine ray.")


def difficult_rule(run: Path) -> str:
    """The rule for difficult objects that a run was trained with; other data are read by the same."""
    from manyhot.recipe import load_recipe
    from manyhot.runs import open_run

    return load_recipe(str(open_run(run).recipe)).data.difficult


def evaluate_run(run: Path, split: str | None, **settings: Any) -> Path:
    """Evaluate, print the summary, and return the report's absolute path."""
    from manyhot.evaluation import evaluate as run_evaluation
    from manyhot.evaluation import summarize

    evaluation = run_evaluation(run, split, **settings)
    if is_main():
        typer.echo(summarize(evaluation.metrics))
        typer.echo(f"report: {evaluation.report}")
    return evaluation.report.resolve()
