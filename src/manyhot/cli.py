"""The command line: one verb a function, a few lines each. Heavy imports wait inside the verbs."""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manyhot.errors import UserError
from manyhot.processes import CONTINUE, first_on_machine, is_main, joined, place
from manyhot.processor import prepare_processor

if TYPE_CHECKING:
    from manyhot.data.manifest import Manifest

app = typer.Typer(
    help="Image-level labels in; a measured multi-label classifier, ranked pictures and boxes out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look at data, and prepare it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")


class OnError(StrEnum):
    """What to do about pictures that cannot be read."""

    stop = "stop"
    skip = "skip"


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


def _print_version(wanted: bool) -> None:
    if wanted:
        from manyhot import __version__

        typer.echo(f"manyhot {__version__}")
        raise typer.Exit


# The verbs that several processes can do together.
_TOGETHER = {"train", "evaluate"}


@app.callback()
def options(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and results.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback answers
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Set up the process, and what is said on standard error."""
    if place().count > 1 and context.invoked_subcommand not in _TOGETHER:
        raise UserError(
            f"`manyhot {context.invoked_subcommand}` is the work of one process: start it without torchrun."
        )
    log = logging.getLogger("manyhot")
    log.setLevel(logging.INFO)
    logging.getLogger("manyhot.progress").disabled = quiet
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING if quiet else logging.INFO)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.propagate = False


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The run folder to make, or to continue.")] = Path("demo"),
    open: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,  # noqa: A002
) -> None:
    """Make, train, evaluate and report on the embedded digits: minutes on a laptop."""
    from manyhot.recipe import load_recipe
    from manyhot.training.train import train as run_training

    run = run_training(load_recipe("digits-small"), _read("digits"), out)
    report = _evaluate(run.path, "test")
    if open:
        typer.launch(report.as_uri())


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Print this one; by default all are listed.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes.")] = False,
    reference: Annotated[bool, typer.Option("--reference", help="Print every key, part and setting.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="Print the layers of NAME's network.")] = False,
    classes: Annotated[int, typer.Option(help="Classes of that network.", min=1)] = 20,
) -> None:
    """List the recipes, print one or its network, or print what a recipe may say."""
    from manyhot.recipe import load_recipe, shipped

    if summary and not name:
        raise UserError("--summary needs the name of a recipe.")
    if sum([bool(name), schema, reference]) > 1:
        raise UserError("give a recipe's name, --schema or --reference, one of them.")
    if reference:
        from manyhot.schema import recipe_reference

        typer.echo(recipe_reference(), nl=False)
    elif schema:
        import json

        from manyhot.schema import recipe_schema

        typer.echo(json.dumps(recipe_schema(), indent=1))
    elif name and summary:
        from manyhot.models.classifier import describe_layers

        typer.echo(describe_layers(load_recipe(name), classes))
    elif name:
        load_recipe(name)
        typer.echo(shipped()[name] if name in shipped() else Path(name).read_text(encoding="utf-8"), nl=False)
    else:
        width = max(len(one) for one in shipped())
        for one in shipped():
            typer.echo(f"{one:{width}}  {load_recipe(one).description}")


@data_app.command()
def inspect(
    source: Source,
    split: Annotated[str | None, typer.Option(help="This split alone.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare a pixel store with its sums first.")] = False,
    kind: Kind = None,
) -> None:
    """Count classes and splits; find damaged pictures, and pictures that two splits share."""
    from rich.console import Console

    from manyhot.data.inspection import describe
    from manyhot.data.inspection import inspect as inspect_manifest
    from manyhot.data.pixels import verify as verify_store

    if verify:
        typer.echo(f"{verify_store(source):,} pictures match their SHA-256")
    manifest = _read(source, kind)
    Console().print(describe(inspect_manifest(manifest.split(split) if split else manifest)))


@data_app.command()
def show(
    source: Source,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Id of the picture, or its number from 0.")],
    kind: Kind = None,
    out: Annotated[Path | None, typer.Option(help="Write the picture here.")] = None,
    augment: Annotated[int | None, typer.Option(help="Draw it so many times as --recipe augments it.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A name of `manyhot recipes`, or a YAML file.")] = None,
    changes: Set = None,
    proposals: Annotated[int | None, typer.Option(help="Draw so many of its proposals, chosen at random.")] = None,
    published: Published = None,
    layout: Layout = None,
) -> None:
    """Show a picture's labels and boxes; with --out, draw them, or what augmentation makes of the picture."""
    from manyhot.data.showing import describe_image, draw_image, draw_proposals, find_row, write_picture

    if (proposals is not None and (out is None or augment is not None)) or (proposals is None and published):
        raise UserError("--proposals needs --out and goes without --augment; --from needs --proposals.")
    if (augment is None) != (recipe is None) or (augment is not None and out is None) or (changes and not recipe):
        raise UserError("--augment needs --recipe and --out, --recipe needs --augment, and --set needs both.")
    manifest = _read(source, kind)
    row = find_row(manifest, image)
    typer.echo(describe_image(manifest, row))
    if out and augment is not None and recipe:
        from manyhot.data.sheets import draw_augmented
        from manyhot.models.backbones import create_backbone
        from manyhot.recipe import load_recipe

        loaded = load_recipe(recipe, changes)
        model = loaded.model
        mean = create_backbone(model.backbone, "none", model.output_stride, model.stages).mean
        write_picture(draw_augmented(manifest, row, loaded, mean, augment), out)
    elif out and proposals is not None:
        from manyhot.proposing import find_proposals

        own = find_proposals(
            manifest.rows([one == row for one in range(len(manifest))]), published=published, layout=layout
        )
        draw_proposals(manifest, row, own.boxes[0], proposals, out)
        typer.echo(f"proposals {len(own.boxes[0])}")
    elif out:
        draw_image(manifest, row, out)
    if out:
        typer.echo(f"drawn: {out}")


@data_app.command()
def prepare(
    source: Source,
    out: Annotated[Path, typer.Option(help="The folder to make, or to continue.")],
    size: Annotated[int, typer.Option(help="Shorter side of the stored pictures, pixels.")] = 256,
    center_crop: Annotated[bool, typer.Option("--center-crop", help="Keep the centre square only.")] = False,
    exact: Annotated[
        tuple[int, int] | None, typer.Option(metavar="H W", help="Height and width, in place of --size.")
    ] = None,
    keep_size: Annotated[bool, typer.Option("--keep-size", help="Store pictures as large as they are.")] = False,
    jpeg: Annotated[bool, typer.Option("--jpeg", help="Store JPEG files, where disk matters.")] = False,
    val_fraction: Annotated[
        float | None, typer.Option(help="Share of the train split that becomes the split val; by default none.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of that choice.")] = 0,
    on_error: Annotated[OnError, typer.Option(help="Pictures that cannot be read: stop, or leave out.")] = OnError.stop,
    saved_as: Annotated[SavedAs, typer.Option("--as", help="What to write: a pixel store or a VOC folder.")] = (
        SavedAs.pixels
    ),
    kind: Kind = None,
) -> None:
    """Decode and resize all pictures once, into a pixel store; or write a VOC folder."""
    sized = {"--center-crop": center_crop, "--exact": exact is not None, "--keep-size": keep_size, "--jpeg": jpeg}
    given = [name for name, one in (sized | {"--val-fraction": val_fraction is not None}).items() if one]
    if saved_as is SavedAs.voc:
        from manyhot.data.voc_writer import write_voc

        if given:
            raise UserError(f"a VOC folder keeps its pictures and splits; leave out {', '.join(given)}.")
        write_voc(_read(source, kind), out)
        typer.echo(f"written: {out}")
        return
    from manyhot.data.preparing import Preparation, summarize
    from manyhot.data.preparing import prepare as prepare_pixels
    from manyhot.data.resizing import Resizing

    if keep_size and exact is not None:
        raise UserError("--keep-size and --exact contradict one another.")
    resizing = Resizing(None if keep_size else size, center_crop, exact)
    how = Preparation(resizing, "jpeg" if jpeg else "raw", val_fraction, seed, on_error.value)
    typer.echo(summarize(prepare_pixels(_read(source, kind), out, how)))


@data_app.command()
def proposals(
    source: Source,
    out: Annotated[Path, typer.Option(help="Table to write, .parquet.")],
    split: Annotated[str | None, typer.Option(help="This split alone.")] = None,
    size: Annotated[int, typer.Option(help="Longer side of the picture in the search, pixels.")] = 400,
    quality: Annotated[bool, typer.Option("--quality", help="OpenCV's slow mode: more boxes.")] = False,
    scale: Annotated[int, typer.Option(help="Of the first segmentation; smaller is finer.")] = 150,
    min_side: Annotated[float, typer.Option(help="Least width and height of a box, pixels of the picture.")] = 20.0,
    published: Published = None,
    layout: Layout = None,
    workers: Annotated[int | None, typer.Option(help="Processes; by default one a core.")] = None,
    on_error: Annotated[OnError, typer.Option(help="Pictures that cannot be read: stop, or leave out.")] = OnError.stop,
    kind: Kind = None,
) -> None:
    """Find the boxes among which a detector looks for objects, and say how many objects they can find."""
    from manyhot.data.proposals import require_parquet
    from manyhot.data.selective_search import SelectiveSearch
    from manyhot.proposing import find_proposals, save_proposals

    require_parquet(out)
    manifest = _read(source, kind)
    manifest = manifest.split(split) if split else manifest
    settings = SelectiveSearch(size, "quality" if quality else "fast", scale, min_side=min_side)
    found = find_proposals(
        manifest, published=published, layout=layout, settings=settings, workers=workers, on_error=on_error.value
    )
    typer.echo(f"{save_proposals(found, manifest, out)}\nproposals: {out}")


@data_app.command()
def review(
    run: RunFolder,
    split: Annotated[str | None, typer.Option(help="Split to review; by default the recipe's train split.")] = None,
    folds: Annotated[int, typer.Option(help="Parts that are scored by what the others teach.")] = 5,
    top: Annotated[int, typer.Option(help="Entries printed for each class.")] = 20,
    out: Annotated[
        Path | None, typer.Option(help="Table to write, .parquet; by default review.parquet in the run.")
    ] = None,
) -> None:
    """List labels that are probably wrong or missing, the most suspect first."""
    from manyhot.review import require_parquet, review_run, summarize

    table = out or run / "review.parquet"
    require_parquet(table)
    found = review_run(run, split, folds=folds)
    beside = found.save(table)
    typer.echo(summarize(found, top))
    typer.echo(f"review: {table}, {beside}")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A name of `manyhot recipes`, or a YAML file.")],
    data: Annotated[str, typer.Option(help=SOURCE_HELP)],
    out: Out,
    changes: Set = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Continue the run that --out holds, or refuse to.")
    ] = True,
    proposals: Boxes = None,
    on_error: Skip = None,
    kind: Kind = None,
) -> None:
    """Train a classifier or a detector by a recipe."""
    from manyhot.recipe import load_recipe

    overrides = [*(changes or []), *([f"data.on_error={on_error}"] if on_error else [])]
    loaded = load_recipe(recipe, overrides)
    from manyhot.training.train import train as run_training

    with first_on_machine():
        manifest = _read(data, kind, loaded.data.difficult)
    run = run_training(loaded, manifest, out, resume=resume, proposals=proposals)
    if is_main():
        following = "evaluate" if loaded.model.detector is None else "detect"
        typer.echo(f"trained: {run.model}\nNext: manyhot {following} {run.path}")


@app.command("find-lr")
def find_lr(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A name of `manyhot recipes`, or a YAML file.")],
    data: Annotated[str, typer.Option(help=SOURCE_HELP)],
    out: Annotated[Path, typer.Option(help="Plot to write, .svg.")],
    lowest: Annotated[float, typer.Option(help="Rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="Rate of the last step.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Steps of the optimizer.")] = 100,
    changes: Set = None,
    on_error: Skip = None,
    kind: Kind = None,
) -> None:
    """Look for a learning rate: the loss of a recipe at rates that rise from step to step."""
    from manyhot.recipe import load_recipe

    if out.suffix.lower() != ".svg":
        raise UserError("the plot is written as .svg.", file=out)
    loaded = load_recipe(recipe, [*(changes or []), *([f"data.on_error={on_error}"] if on_error else [])])
    from manyhot.atomic import write_text
    from manyhot.report.plots import rate_search
    from manyhot.training.finder import find_lr as run_search
    from manyhot.training.finder import summarize

    manifest = _read(data, kind, loaded.data.difficult)
    found = run_search(loaded, manifest, lowest=lowest, highest=highest, steps=steps)
    write_text(out, rate_search(found.rates, found.losses, found.smooth, found.suggestion).file)
    typer.echo(f"{summarize(found)}\nplot: {out}")


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
    manifest = _other_data(run, data, kind)
    _evaluate(run, split, manifest=manifest, overrides=changes, on_error=on_error, export=export)


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

    manifest = _other_data(run, data, kind)
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
        typer.echo(f"{localizing.describe_choice(table)}\nstored with the model: localize takes it from there")
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
    typer.echo(f"{localizing.summarize(found.metrics)}\ndetections: {found.folder / 'detections.parquet'}")
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
        manifest=_other_data(run, data, kind),
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

    manifest = _other_data(run, data, kind)
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
    found = extract_features(model, _read(data, kind), split=split, overrides=changes, on_error=on_error.value)
    found.save(out)
    typer.echo(f"{len(found.features)} pictures, {found.features.width} numbers each, of {found.crops}: {out}")


def main() -> None:
    """Run the command line; a UserError becomes one message and exit code 2."""
    prepare_processor()
    try:
        with joined():
            app(prog_name="manyhot")
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        signum = getattr(error, "signum", None)  # training's Interrupted, known by its mark: importing it costs torch
        if signum is None:
            raise
        typer.echo(f"stopped; everything is saved. {CONTINUE}", err=True)
        sys.exit(128 + signum)


def _read(source: str, kind: str | None = None, difficult: Any = "ignore") -> Manifest:
    from manyhot.data.sources import open_source

    return open_source(source, kind=kind, difficult=difficult)


def _other_data(run: Path, data: str | None, kind: str | None) -> Manifest | None:
    """What --data and --source name; None: the run's own data."""
    if kind and not data:
        raise UserError("--source says how to read --data, and there is none.")
    return _read(data, kind, _difficult(run)) if data else None


def _difficult(run: Path) -> str:
    """The rule for difficult objects that a run was trained with; other data are read by the same."""
    from manyhot.recipe import load_recipe
    from manyhot.runs import open_run

    return load_recipe(str(open_run(run).recipe)).data.difficult


def _evaluate(run: Path, split: str | None, **settings: Any) -> Path:
    """Evaluate, print the summary, and return the report's absolute path."""
    from manyhot.evaluation import evaluate as run_evaluation
    from manyhot.evaluation import summarize

    evaluation = run_evaluation(run, split, **settings)
    if is_main():
        typer.echo(summarize(evaluation.metrics))
        typer.echo(f"report: {evaluation.report}")
    return evaluation.report.resolve()
