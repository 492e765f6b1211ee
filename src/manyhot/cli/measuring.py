"""Verbs that measure a run, and look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyhot.cli.apps import app
from manyhot.cli.options import (
    SOURCE_HELP,
    Boxes,
    Export,
    Kind,
    Method,
    RunFolder,
    Set,
    Skip,
    evaluate_run,
    read_other_data,
)
from manyhot.errors import UserError


@app.command()
def evaluate(
    run: RunFolder,
    split: Annotated[str | None, typer.Option(help="Split to score; by default the recipe's val split.")] = None,
    data: Annotated[str | None, typer.Option(help="Other data with the same classes. " + SOURCE_HELP)] = None,
    changes: Set = None,
    on_error: Skip = None,
    kind: Kind = None,
    export: Annotated[Export | None, typer.Option(help="Also write each class's scores and files, ranked.")] = None,
) -> None:
    """Measure a run's best model on a split and write its report."""
    manifest = read_other_data(run, data, kind)
    evaluate_run(run, split, manifest=manifest, overrides=changes, on_error=on_error, export=export)


@app.command()
def localize(
    run: RunFolder,
    split: Annotated[str | None, typer.Option(help="Split to look at; by default the recipe's val split.")] = None,
    data: Annotated[str | None, typer.Option(help="Other data with the same classes. " + SOURCE_HELP)] = None,
    heatmap: Annotated[
        str | None, typer.Option(help="cam, gradcam, saliency or another; else as chosen, or gradcam.")
    ] = None,
    boxes: Annotated[
        str | None, typer.Option(help="largest, components, extreme or mass; else as chosen, or extreme.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Of the box rule: what share is inside, or outside.")] = None,
    crops: Annotated[str | None, typer.Option(help="Other views than in training, as a recipe's input.crops.")] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average with the maps of mirrored views.")] = False,
    choose: Annotated[
        bool, typer.Option("--choose", help="Choose box rule and threshold by true boxes, on train, and store them.")
    ] = False,
    proposals: Annotated[Path | None, typer.Option(help="Table of boxes (.parquet) to snap to.")] = None,
    grabcut: Annotated[bool, typer.Option("--grabcut", help="Draw boxes anew by the picture's colours.")] = False,
    min_score: Annotated[float, typer.Option(help="Classes scored below give no boxes.")] = 0.01,
    tolerance: Annotated[float, typer.Option(help="Pixels by which a point may miss a box.")] = 18.0,
    on_error: Skip = None,
    kind: Kind = None,
) -> None:
    """Say where in the pictures the classes are, and measure it by the true boxes."""
    from manyhot import localizing
    from manyhot.localization.wording import describe_choice, summarize

    manifest = read_other_data(run, data, kind)
    if choose:
        if threshold is not None or proposals is not None:
            raise UserError("--choose finds the threshold, without proposals.", remedy="Leave out the other option.")
        table = localizing.choose_places(
            run,
            split,
            manifest=manifest,
            heatmap=heatmap,
            boxes=boxes,
            crops=crops,
            flip=flip,
            grabcut=grabcut,
            on_error=on_error,
        )
        typer.echo(f"{describe_choice(table)}\nstored with the model: localize takes it from there")
        return
    found = localizing.localize(
        run,
        split,
        manifest=manifest,
        heatmap=heatmap,
        boxes=boxes,
        threshold=threshold,
        crops=crops,
        flip=flip,
        proposals=proposals,
        grabcut=grabcut,
        min_score=min_score,
        tolerance=tolerance,
        on_error=on_error,
    )
    typer.echo(f"{summarize(found.metrics)}\ndetections: {found.folder / 'detections.parquet'}")
    typer.echo(f"report: {found.report}")


@app.command()
def detect(
    run: RunFolder,
    split: Annotated[str | None, typer.Option(help="Split to look at; by default the recipe's val split.")] = None,
    data: Annotated[str | None, typer.Option(help="Other data with the same classes. " + SOURCE_HELP)] = None,
    proposals: Boxes = None,
    changes: Set = None,
    on_error: Skip = None,
    kind: Kind = None,
) -> None:
    """Look for boxes with a detector that learned from image-level labels, and measure them by the true ones."""
    from manyhot.detecting import detect as run_detection
    from manyhot.detecting import summarize as summarize_boxes

    found = run_detection(
        run,
        split,
        manifest=read_other_data(run, data, kind),
        proposals=proposals,
        overrides=changes,
        on_error=on_error.value if on_error else None,
    )
    typer.echo(f"{summarize_boxes(found.metrics)}\nreport: {found.folder / 'report.html'}")


@app.command()
def calibrate(
    run: RunFolder,
    split: Annotated[str | None, typer.Option(help="Split to fit on; by default the recipe's val split.")] = None,
    data: Annotated[str | None, typer.Option(help="Other data with the same classes. " + SOURCE_HELP)] = None,
    thresholds: Annotated[str, typer.Option(help="Rule: f1, precision=P, recall=R, or none.")] = "f1",
    confidence: Annotated[
        float | None, typer.Option(help="Of a promised precision or recall; 0.9 unless given.")
    ] = None,
    calibration: Annotated[Method, typer.Option(help="How scores become frequencies.")] = Method.temperature,
    on_error: Skip = None,
    kind: Kind = None,
) -> None:
    """Choose thresholds and calibrate scores on a split, and store both with the model."""
    from manyhot.calibrating import calibrate as run_calibration
    from manyhot.calibrating import summarize

    manifest = read_other_data(run, data, kind)
    found = run_calibration(
        run,
        split,
        manifest=manifest,
        thresholds=thresholds,
        confidence=confidence,
        calibration=calibration,
        on_error=on_error,
    )
    typer.echo(
        f"{summarize(found)}\nNext: manyhot evaluate {run} --split SPLIT, on pictures that nothing was fitted on"
    )


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run folder, or a table of predictions (.parquet).")],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another one, of the same pictures.")],
    split: Annotated[str | None, typer.Option(help="Split to compare; by default the recipe's val split.")] = None,
    resamples: Annotated[int, typer.Option(help="How often the pictures are drawn anew.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the drawing.")] = 0,
) -> None:
    """Say whether the difference of two evaluated runs is real: paired bootstrap."""
    from manyhot.comparison import compare as run_comparison
    from manyhot.comparison import summarize

    typer.echo(summarize(run_comparison(a, b, split, resamples=resamples, seed=seed)))


@app.command()
def browse(
    path: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or a table of predictions (.parquet, .csv).")
    ],
    split: Annotated[str | None, typer.Option(help="Split of a run; by default the recipe's val split.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures that a table names.")] = None,
    data: Annotated[str | None, typer.Option(help="The data that was scored. " + SOURCE_HELP)] = None,
    kind: Kind = None,
    journal: Annotated[Path | None, typer.Option(help="File of the decisions taken in review.")] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Another run, or table, of the same pictures to set beside.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the gallery as a folder instead of serving it.")
    ] = None,
    number: Annotated[int, typer.Option(min=1, max=1000, help="Pictures in each list of an export.")] = 50,
    host: Annotated[str, typer.Option(help="Address to serve on; any but this machine's own needs --token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8321,
    token: Annotated[str | None, typer.Option(help="What visitors must show.")] = None,
    open: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,  # noqa: A002
) -> None:
    """Look through pictures class by class in a browser, find mistakes, and mend labels."""
    from manyhot.web.opening import open_gallery

    opened = open_gallery(path, split=split, images=images, data=data, kind=kind, journal=journal, compare=compare)
    if export is not None:
        from manyhot.web.static_export import write_export

        typer.echo(f"written: {write_export(opened, export, number)}")
        return
    from manyhot.web.serving import serve

    def ready(address: str) -> None:
        typer.echo(f"gallery: {address}  (Ctrl-C ends it)")
        if open:
            typer.launch(address)

    serve(opened, host=host, port=port, token=token, ready=ready)
