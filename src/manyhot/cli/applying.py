"""Verbs that take a trained network elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyhot.cli.apps import app
from manyhot.cli.options import SOURCE_HELP, Kind, OnError, Set, read_source
from manyhot.errors import UserError


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder, a bundle, or an exported file.")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATHS", help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option(help="Table to write: .parquet, .csv or .json.")],
    on_error: Annotated[OnError, typer.Option(help="Pictures that cannot be read: stop, or leave out.")] = OnError.stop,
    predicted: Annotated[bool, typer.Option("--predicted", help="Add the classes above their thresholds.")] = False,
    backend: Annotated[
        str | None, typer.Option(help="torch, onnxruntime or openvino; else what --autotune found, or torch.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where the network runs: cpu, cuda, or another of it.")] = None,
    precision: Annotated[str, typer.Option(help="float32, or bf16: faster where there is such, less exact.")] = (
        "float32"
    ),
    threads: Annotated[int | None, typer.Option(min=1, help="Of the network; one a core by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures a forward pass; 32 by default.")] = None,
    autotune: Annotated[
        bool, typer.Option("--autotune", help="Measure first what is fastest here, and remember it for this model.")
    ] = False,
) -> None:
    """Score pictures and write a table of predictions."""
    from manyhot.inference.predict import Predictor, load_model
    from manyhot.predictions import require_suffix

    require_suffix(out)
    trained = load_model(model)
    if autotune:
        from manyhot.inference import autotuning

        if any((backend, device, threads, batch_size)) or precision != "float32":
            raise UserError("--autotune chooses backend, threads and batch size itself.", remedy="Leave those out.")
        typer.echo(autotuning.summarize(autotuning.autotune(trained, paths)))
    predictor = Predictor(
        trained, backend=backend, device=device, precision=precision, threads=threads, batch_size=batch_size
    )
    predictions = predictor.predict(paths, on_error=on_error)
    predictions.save(out, predicted=predicted)
    typer.echo(f"{len(predictions)} pictures scored: {out}")


@app.command()
def export(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a bundle.")],
    out: Annotated[Path, typer.Option(help="File to write: .onnx, or .xml with a .bin beside it.")],
    format: Annotated[str, typer.Option(help="onnx or openvino.")] = "onnx",  # noqa: A002
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to int8: faster, less exact.")] = False,
    calibration: Annotated[
        str | None, typer.Option(help="Pictures to quantise by; the run's training pictures by default.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Pictures to compare on; the run's val split by default. " + SOURCE_HELP)
    ] = None,
    pictures: Annotated[
        int | None, typer.Option(min=1, help="How many to compare on; 200 by default, 1000 with --int8.")
    ] = None,
    kind: Kind = None,
) -> None:
    """Write a trained classifier as a file that runs without torch, and prove that it says the same."""
    from manyhot.exporting import export as run_export
    from manyhot.exporting import summarize

    read = {
        name: read_source(one, kind) if one else None for name, one in (("calibration", calibration), ("data", data))
    }
    typer.echo(summarize(run_export(model, out, format, int8=int8, pictures=pictures, **read)))


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
