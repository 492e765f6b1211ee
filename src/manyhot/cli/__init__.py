"""The command line: one verb a function, a few lines each. Heavy imports wait inside the verbs."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

# Each of them adds its verbs; `manyhot --help` lists these in this order.
from manyhot.cli import training, measuring, applying, serving, data  # isort: skip  # noqa: F401
from manyhot.cli.apps import app
from manyhot.errors import Interrupted, UserError
from manyhot.processes import CONTINUE, joined, place
from manyhot.processor import prepare_processor

__all__ = ["app", "main"]


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


def main() -> None:
    """Run the command line; a UserError becomes one message and exit code 2."""
    prepare_processor()
    try:
        with joined():
            app(prog_name="manyhot")
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except Interrupted as error:
        typer.echo(f"stopped; everything is saved. {CONTINUE}", err=True)
        sys.exit(128 + error.signum)
