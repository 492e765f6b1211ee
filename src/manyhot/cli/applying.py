"""Verbs that take a trained network elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyhot.cli.apps import app
from manyhot.cli.options import SOURCE_HELP, Kind, OnError, Set, read_source


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a bundle.")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATHS", help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option(help="Table to write: .parquet, .csv or .json.")],
    on_error: Annotated[OnError, typer.Option(help="Pictures that cannot be read: stop, or leave out.")] = OnError.stop,
    predicted: Annotated[bool, typer.Option("--predicted", help="Add the classes above their thresholds.")] = False,
) -> None:
    """Score pictures and write a table of predictions."""
    from manyhot.inference.predict import load
    from manyhot.predictions import require_suffix

    require_suffix(out)
    predictions = load(model).predict(paths, on_error=on_error)
    predictions.save(out, predicted=predicted)
    typer.echo(f"{len(predictions)} pictures scored: {out}")


@app.command()
def convert(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a bundle.")],
    mode: Annotated[
        str, typer.Option("--weight-standardize", help="Mode: alpha, channel-eps, gain, exact-mean or another.")
    ],
    out: Annotated[Path, typer.Option(help="The run folder, or bundle, to make.")],
) -> None:
    """Turn a trained network into a weight-standardised one of the same function."""
    from manyhot.converting import convert as run_conversion
    from manyhot.converting import summarize

    conversion = run_conversion(model, mode, out)
    typer.echo(f"{summarize(conversion)}\nwritten: {conversion.model}")


@app.command()
def features(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run folder or a bundle, or a recipe's name or YAML file.")
    ],
    data: Annotated[str, typer.Option(help=SOURCE_HELP)],
    out: Annotated[Path, typer.Option(help="File to write: .parquet, or .npy with the ids beside it in a .csv.")],
    split: Annotated[str | None, typer.Option(help="This split alone.")] = None,
    changes: Set = None,
    on_error: Annotated[OnError, typer.Option(help="Pictures that cannot be read: stop, or leave out.")] = OnError.stop,
    kind: Kind = None,
) -> None:
    """Write the features that a network sees in pictures."""
    from manyhot.extraction import extract_features, require_feature_suffix

    require_feature_suffix(out)
    found = extract_features(model, read_source(data, kind), split=split, overrides=changes, on_error=on_error.value)
    found.save(out)
    typer.echo(f"{len(found.features)} pictures, {found.features.width} numbers each, of {found.crops}: {out}")
