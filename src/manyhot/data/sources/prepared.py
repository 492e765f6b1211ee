"""A manifest of ours, or a folder that holds one: what `Manifest.save` writes."""

from __future__ import annotations

import logging
from pathlib import Path

from manyhot.data.manifest import Manifest, is_manifest
from manyhot.data.sources import Difficult, source
from manyhot.errors import UserError

log = logging.getLogger("manyhot")


@source("prepared")
class Prepared:
    """a manifest.parquet that manyhot wrote, or a prepared folder that holds one."""

    def recognises(self, text: str) -> bool:
        """Whether the file, or manifest.parquet in the folder, is a manifest of ours."""
        return is_manifest(_file(text))

    def read(self, text: str, *, difficult: Difficult) -> Manifest:
        """Load the manifest; its labels stay as they were made.

        Raises:
            UserError: no manifest there.
        """
        file = _file(text)
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


def _file(text: str) -> Path:
    path = Path(text)
    return path / "manifest.parquet" if path.is_dir() else path
