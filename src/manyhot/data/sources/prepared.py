"""A manifest of ours, or a folder that holds one: what `Manifest.save` writes."""

from __future__ import annotations

import logging
from pathlib import Path

from manyhot.data.manifest import Manifest, is_manifest
from manyhot.data.pixels import MANIFEST, UNFINISHED
from manyhot.data.sources import Difficult, source
from manyhot.errors import UserError

log = logging.getLogger("manyhot")


@source("prepared")
class Prepared:
    """a manifest.parquet that manyhot wrote, or a folder that holds one: a pixel store, a run."""

    def recognises(self, text: str) -> bool:
        """Whether the file, or manifest.parquet in the folder, is a manifest of ours, or is going to be."""
        return is_manifest(_file(text)) or _is_unfinished(text)

    def read(self, text: str, *, difficult: Difficult) -> Manifest:
        """Load the manifest; its labels stay as they were made.

        Raises:
            UserError: no manifest there, or not yet.
        """
        file = _file(text)
        if _is_unfinished(text):
            raise UserError(
                "this pixel store is not whole: its preparation was stopped.",
                file=text,
                remedy="Give the same `manyhot data prepare` again to go on.",
            )
        if not file.is_file():
            raise UserError(
                "there is no such manifest.", file=file, remedy="A run folder of `manyhot train` holds one."
            )
        manifest = Manifest.load(file)
        if "difficult: " in manifest.label_rule and f"difficult: {difficult}" not in manifest.label_rule:
            log.warning(
                "%s: labels were made by the rule '%s' and stay so; difficult: %s is not applied.",
                file, manifest.label_rule, difficult,
            )  # fmt: skip
        return manifest


def _is_unfinished(text: str) -> bool:
    return (Path(text) / UNFINISHED).is_dir() and not (Path(text) / MANIFEST).is_file()


def _file(text: str) -> Path:
    path = Path(text)
    return path / MANIFEST if path.is_dir() else path
