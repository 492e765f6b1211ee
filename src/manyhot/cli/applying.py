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
from manyhot.errors import UserError


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder, a bundle, or an exported file.")],
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATHS", help="Images, folders of them, .txt lists, .parquet tables, addresses."),
    ],
    out: Annotated[Path, typer.Option(help="Table to write: .parquet, .csv or .json; with ray a folder.")],
    on_error: Annotated[OnError, typer.Option(help="Pictures that cannot be read: stop, or leave out.")] = OnError.stop,
    predicted: Annotated[bool, typer.Option("--predicted", help="Add the classes above their thresholds.")] = False,
    backend: Annotated[
        str | None, typer.Option(help="torch, onnxruntime or openvino; else what --autotune found, or torch.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where the network runs: cpu, cuda, or another of it.")] = None,
    precision: Annotated[str, typer.Option(help="float32, or bf16: faster where there is such, less exact.")] = (
        "float32"
    ),
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the network, one a core by default; of a worker of ray, one.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures a forward pass; 32 by default.")] = None,
    autotune: Annotated[
        bool, typer.Option("--autotune", help="Measure first what is fastest here, and remember it for this model.")
    ] = False,
    engine: Annotated[Engine, typer.Option(help="This process, or workers of Ray.")] = Engine.here,
    workers: Annotated[int | None, typer.Option(help="Ray: number of workers.")] = None,
    gpus_per_worker: Annotated[float | None, typer.Option(help="Ray: GPUs of a worker, may be a fraction.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray: a cluster; else this machine.")] = None,
    part_size: Annotated[int | None, typer.Option(help="Ray: pictures a part, a multiple of 32.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of pictures or paths in .parquet.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of ids in .parquet.")] = None,
    kind: Annotated[str | None, typer.Option("--source", help="Read PATHS as this kind of data.")] = None,
) -> None:
    """Score pictures and write a table of predictions."""
    if engine is Engine.ray:
        from manyhot.inference.cluster import Workers, predict_on_ray

        if device or batch_size or autotune or predicted:
            raise UserError("--device, --batch-size, --autotune and --predicted are not for --engine ray.")
        pictures = read_pictures(paths, kind, column, id_column)
        who = Workers(workers, threads or 1, gpus_per_worker, address)
        how = {"backend": backend, "precision": precision}
        done = predict_on_ray(
            model, pictures, out, workers=who, on_error=on_error.value, column=column, part_size=part_size, **how
        )
        typer.echo(f"{done.scored} pictures scored: {done.predictions}")
        return
    refuse_for_one_process(workers=workers, gpus_per_worker=gpus_per_worker, address=address, part_size=part_size)
    from manyhot.data.manifest import Manifest
    from manyhot.inference.pictures import list_manifest
    from manyhot.inference.predict import Predictor, load_model
    from manyhot.predictions import require_suffix

    require_suffix(out)
    trained = load_model(model)
    pictures = read_pictures(paths, kind, column, id_column)
    if autotune:
        from manyhot.inference import autotuning

        if any((backend, device, threads, batch_size)) or precision != "float32":
            raise UserError("--autotune chooses backend, threads and batch size itself.", remedy="Leave those out.")
        some = list_manifest(pictures) if isinstance(pictures, Manifest) else pictures
        typer.echo(autotuning.summarize(autotuning.autotune(trained, some, column)))
    predictor = Predictor(
        trained, backend=backend, device=device, precision=precision, threads=threads, batch_size=batch_size
    )
    if isinstance(pictures, Manifest):
        predictions, _ = predictor.predict_manifest(pictures, on_error=on_error)
    else:
        predictions = predictor.predict_pictures(pictures, on_error=on_error, column=column)
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
