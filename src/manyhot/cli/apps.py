"""The command line's two levels of verbs: `manyhot VERB` and `manyhot data VERB`."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Image-level labels in; a measured multi-label classifier, ranked pictures and boxes out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look at data, and prepare it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
