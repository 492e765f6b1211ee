"""Verbs that make models, or use them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyhot.cli.apps import app
from manyhot.cli.options import SOURCE_HELP, Boxes, Kind, Out, Set, Skip, evaluate_run, read_source
from manyhot.errors import UserError
from manyhot.processes import first_on_machine, is_main


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The run folder to make, or to continue.")] = Path("demo"),
    open: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,  # noqa: A002
) -> None:
    """Make, train, evaluate and report on the embedded digits: minutes on a laptop."""
    from manyhot.recipe import load_recipe
    from manyhot.training.train import train as run_training

    run = run_training(load_recipe("digits-small"), read_source("digits"), out)
    report = evaluate_run(run.path, "test")
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
        manifest = read_source(data, kind, loaded.data.difficult)
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

    manifest = read_source(data, kind, loaded.data.difficult)
    found = run_search(loaded, manifest, lowest=lowest, highest=highest, steps=steps)
    write_text(out, rate_search(found.rates, found.losses, found.smooth, found.suggestion).file)
    typer.echo(f"{summarize(found)}\nplot: {out}")
