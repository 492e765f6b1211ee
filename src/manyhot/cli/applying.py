"""Verbs that take a trained network elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyhot.cli.apps import app
from manyhot.cli.options import (
    SOURCE_HELP,
    Engine,
    Kind,
    OnError,
    Set,
    read_pictures,
    read_source,
    refuse_for_one_process,
)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a bundle.")],
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATHS", help="Images, or folders of images; with ray also lists and tables."),
    ],
    out: Annotated[Path, typer.Option(help="Table to write: .parquet, .csv or .json; with ray a folder.")],
    on_error: Annotated[OnError, typer.Option(help="Pictures that cannot be read: stop, or leave out.")] = OnError.stop,
    predicted: Annotated[bool, typer.Option("--predicted", help="Add the classes above their thresholds.")] = False,
    engine: Annotated[Engine, typer.Option(help="This process, or workers of Ray.")] = Engine.here,
    workers: Annotated[int | None, typer.Option(help="Ray: number of workers.")] = None,
    threads: Annotated[int | None, typer.Option(help="Ray: threads of a worker.")] = None,
    gpus_per_worker: Annotated[float | None, typer.Option(help="Ray: GPUs of a worker, may be a fraction.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray: a cluster; else this machine.")] = None,
    part_size: Annotated[int | None, typer.Option(help="Ray: pictures a part, a multiple of 32.")] = None,
    column: Annotated[str | None, typer.Option(help="Ray: column of pictures or paths in .parquet.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Ray: column of ids in .parquet.")] = None,
    kind: Annotated[str | None, typer.Option("--source", help="Ray: read PATHS as this kind of data.")] = None,
) -> None:
    """Score pictures and write a table of predictions."""
    if engine is Engine.ray:
        from manyhot.inference.cluster import Workers, predict_on_ray

        pictures = read_pictures(paths, kind, column, id_column)
        who = Workers(workers, threads or 1, gpus_per_worker, address)
        done = predict_on_ray(
            model, pictures, out, workers=who, on_error=on_error.value, column=column, part_size=part_size
        )
        typer.echo(f"{done.scored} pictures scored: {done.predictions}")
        return
    refuse_for_one_process(
        workers=workers, threads=threads, gpus_per_worker=gpus_per_worker, address=address, part_size=part_size,
        column=column, id_column=id_column, source=kind,
    )  # fmt: skip
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
