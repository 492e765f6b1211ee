"""A folder of class folders: the folder names the one class of the pictures in it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from manyhot.data.images import IMAGE_SUFFIXES
from manyhot.data.manifest import Manifest, Row
from manyhot.data.sources import Difficult, natural_order, source
from manyhot.errors import UserError

log = logging.getLogger("manyhot")

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NUMBERED = re.compile(r"\d{3}\.(?P<name>.+)")


@source("folders")
class Folders:
    """a folder of class folders with pictures: CLASS/*.jpg, or train/CLASS/*.jpg, val/…, test/…."""

    def recognises(self, text: str) -> bool:
        """Whether every subfolder is a class folder, or a split of class folders."""
        root = Path(text)
        try:
            return _holds_classes(root) or bool(_split_folders(root))
        except OSError:
            return False

    def read(self, text: str, *, difficult: Difficult) -> Manifest:  # noqa: ARG002 - folders know no objects
        """List the pictures; the ids are their paths under the folder.

        Raises:
            UserError: no class folder with a picture, or two folders of one class name.
        """
        root = Path(text)
        if not root.is_dir():
            raise UserError("there is no such folder.", file=root)
        splits = _split_folders(root) or {"train": [root]}
        strays: list[str] = []
        listings: dict[Path, list[str]] = {}
        for parent in (parent for parents in splits.values() for parent in parents):
            strays += [str(one) for one in parent.iterdir() if not one.is_dir() and not one.name.startswith(".")]
            for folder in _subfolders(parent):
                listings[folder] = _pictures(folder, strays)
        if not any(listings.values()):
            raise UserError(
                "no subfolder holds a picture.",
                file=root,
                remedy="Expected CLASS/*.jpg, or train/CLASS/*.jpg; pictures end in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}.",
            )
        names = _class_names(listings)
        classes = list(dict.fromkeys(names[folder] for folder in sorted(names, key=_by_name)))
        rows = []
        for split, parents in splits.items():
            for parent in parents:
                for folder in _subfolders(parent):
                    labels = [int(name == names[folder]) for name in classes]
                    prefix = folder.relative_to(root).as_posix()
                    rows += [Row(f"{prefix}/{file}", f"{prefix}/{file}", split, labels) for file in listings[folder]]
        present = {names[folder] for folder, files in listings.items() if files}
        if strays:
            log.warning(
                "%s: %d entries are not pictures in a class folder and are left out, such as %s.",
                root, len(strays), min(strays),
            )  # fmt: skip
        if empty := [name for name in classes if name not in present]:
            log.warning("%s: no pictures of %s; the class is kept.", root, ", ".join(empty))
        return Manifest.from_rows(root, classes, rows, task="multiclass", label_rule="class folders")


def _holds_classes(root: Path) -> bool:
    """Whether some subfolder holds pictures and every other one does too or is empty."""
    kinds = [_content(folder) for folder in _subfolders(root)]
    return "pictures" in kinds and "other" not in kinds


def _content(folder: Path) -> str:
    """Stops at the first picture: a class folder may hold a million."""
    kind = "empty"
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_picture(entry.name) and not entry.is_dir():
                return "pictures"
            if not entry.name.startswith("."):
                kind = "other"
    return kind


def _split_folders(root: Path) -> dict[str, list[Path]]:
    """The folders of each split, where all subfolders are splits and one of them holds class folders."""
    folders = _subfolders(root)
    if not all(folder.name.lower() in _SPLITS for folder in folders) or not any(map(_holds_classes, folders)):
        return {}
    splits: dict[str, list[Path]] = {}
    for name in dict.fromkeys(_SPLITS.values()):
        parents = [folder for folder in folders if _SPLITS[folder.name.lower()] == name]
        if parents:
            splits[name] = parents
    return splits


def _subfolders(folder: Path) -> list[Path]:
    return sorted((one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")), key=_by_name)


def _by_name(path: Path) -> tuple[tuple[int, str], ...]:
    return natural_order(path.name)


def _pictures(folder: Path, strays: list[str]) -> list[str]:
    """The picture files in natural order; anything else but hidden files joins `strays`."""
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_picture(entry.name) and not entry.is_dir():
                files.append(entry.name)
            elif not entry.name.startswith("."):
                strays.append(entry.path)
    return sorted(files, key=natural_order)


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _class_names(folders: Iterable[Path]) -> Mapping[Path, str]:
    """Class names by folder; a number before the name (`001.ak47`) goes where every folder has one."""
    folders = list(folders)
    matches = {folder: _NUMBERED.fullmatch(folder.name) for folder in folders}
    if not all(matches.values()):
        return {folder: folder.name for folder in folders}
    names = {folder: match["name"] for folder, match in matches.items() if match}
    owners: dict[str, str] = {}
    for folder, name in names.items():
        other = owners.setdefault(name, folder.name)
        if other != folder.name:
            raise UserError(
                f"{other} and {folder.name} would both be class '{name}'.", file=folder.parent, remedy="Rename one."
            )
    return names
