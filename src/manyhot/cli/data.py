"""Verbs of data: look at them, and prepare them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyhot.cli.apps import data_app
from manyhot.cli.options import Kind, Layout, OnError, Published, RunFolder, SavedAs, Set, Source, read_source
from manyhot.errors import UserError


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
    manifest = read_source(source, kind)
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
    manifest = read_source(source, kind)
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
        write_voc(read_source(source, kind), out)
        typer.echo(f"written: {out}")
        return
    from manyhot.data.preparation import Preparation
    from manyhot.data.preparing import prepare as prepare_pixels
    from manyhot.data.preparing import summarize
    from manyhot.data.resizing import Resizing

    if keep_size and exact is not None:
        raise UserError("--keep-size and --exact contradict one another.")
    resizing = Resizing(None if keep_size else size, center_crop, exact)
    how = Preparation(resizing, "jpeg" if jpeg else "raw", val_fraction, seed, on_error.value)
    typer.echo(summarize(prepare_pixels(read_source(source, kind), out, how)))


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
    manifest = read_source(source, kind)
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
