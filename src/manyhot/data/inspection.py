"""What a data set holds: counts per class and split, damaged files, leaks between splits, sizes."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhot.data.image_checks import check_images
from manyhot.data.images import DamagedImage, content_digest, content_length, image_size
from manyhot.data.manifest import Manifest
from manyhot.progress import track

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN = 10


@dataclass(frozen=True)
class ClassCount:
    """Images of one split by their label for one class."""

    name: str
    split: str
    present: int
    absent: int
    ignored: int


@dataclass(frozen=True)
class Copies:
    """Images whose files are byte for byte the same: their sha256, and (split, id) of each."""

    sha256: str
    images: tuple[tuple[str, str], ...]

    @property
    def leaks(self) -> bool:
        """Whether they stand in more than one split."""
        return len({split for split, _ in self.images}) > 1


@dataclass(frozen=True)
class Sizes:
    """Smallest, median and largest width and height as displayed, pixels, of `n` images."""

    n: int
    width: tuple[int, float, int]
    height: tuple[int, float, int]


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Arguments:
        root: folder of the images.
        task: "multilabel" or "multiclass".
        label_rule: how the labels came about.
        splits: images by split.
        classes: counts for every class and split, classes in the order of the label vector.
        unlabelled: ids of images in which no class is present.
        objects: true boxes.
        checked: whether the files were read; if not, the fields below are empty.
        damaged: file and reason.
        copies: identical files, within and between splits.
        sizes: None where no size is known.
    """

    root: Path
    task: str
    label_rule: str
    splits: dict[str, int]
    classes: tuple[ClassCount, ...]
    unlabelled: tuple[str, ...]
    objects: int
    checked: bool
    damaged: tuple[DamagedImage, ...]
    copies: tuple[Copies, ...]
    sizes: Sizes | None

    @property
    def n_images(self) -> int:
        """Images in all splits."""
        return sum(self.splits.values())

    @property
    def leaks(self) -> tuple[Copies, ...]:
        """Identical files that stand in more than one split."""
        return tuple(copies for copies in self.copies if copies.leaks)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, for JSON."""
        return {
            "root": str(self.root),
            "task": self.task,
            "label_rule": self.label_rule,
            "n_images": self.n_images,
            "splits": self.splits,
            "classes": [asdict(count) for count in self.classes],
            "unlabelled": list(self.unlabelled),
            "n_objects": self.objects,
            "checked": self.checked,
            "damaged": [{"file": str(fault.path), "reason": fault.reason} for fault in self.damaged],
            "copies": [
                {
                    "sha256": copies.sha256,
                    "leak": copies.leaks,
                    "images": [{"split": split, "id": id_} for split, id_ in copies.images],
                }
                for copies in self.copies
            ],
            "sizes": None
            if self.sizes is None
            else {"n": self.sizes.n, "width": list(self.sizes.width), "height": list(self.sizes.height)},
        }


def inspect(manifest: Manifest, check: bool = True) -> Inspection:
    """Count a data set; with `check`, decode every file, look for identical ones and fill in unknown sizes."""
    labels = manifest.labels
    members = {split: (manifest.table["split"] == split).to_numpy() for split in manifest.splits}
    counts = []
    for column, name in enumerate(manifest.classes):
        for split, inside in members.items():
            values = labels[inside, column]
            present, absent, ignored = (int((values == label).sum()) for label in (1, 0, -1))
            counts.append(ClassCount(name, split, present, absent, ignored))
    ids = manifest.ids
    damaged = check_images(manifest.paths) if check else []
    return Inspection(
        root=manifest.root,
        task=manifest.task,
        label_rule=manifest.label_rule,
        splits={split: int(inside.sum()) for split, inside in members.items()},
        classes=tuple(counts),
        unlabelled=tuple(id_ for id_, row in zip(ids, labels, strict=True) if not (row == 1).any()),
        objects=int(manifest.table["boxes"].list.len().sum()),
        checked=check,
        damaged=tuple(damaged),
        copies=_copies(manifest) if check else (),
        sizes=_sizes(manifest, look=check),
    )


def describe(inspection: Inspection) -> RenderableType:
    """The findings as a table and lines, to be printed by a rich console."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    splits = ", ".join(f"{split} {count:,}" for split, count in inspection.splits.items())
    lines = [f"{inspection.n_images:,} images ({splits}), {inspection.objects:,} boxes, {inspection.task}"]
    lines.append(f"Labels: {inspection.label_rule}")
    if inspection.sizes:
        width, height = (_range(numbers) for numbers in (inspection.sizes.width, inspection.sizes.height))
        lines.append(f"Width {width}, height {height} pixels (smallest, median, largest)")

    lines.append("Images by label: present / absent / ignored")
    table = Table()
    table.add_column("class")
    for split in inspection.splits:
        table.add_column(escape(split), justify="right")
    rows: dict[str, list[str]] = defaultdict(list)
    for count in inspection.classes:
        rows[count.name].append(f"{count.present:,} / {count.absent:,} / {count.ignored:,}")
    for name, cells in rows.items():
        table.add_row(escape(name), *cells)
    return Group(Text("\n".join(lines)), table, Text("\n".join(_remarks(inspection))))


def _range(numbers: tuple[int, float, int]) -> str:
    return " – ".join(f"{number:g}" for number in numbers)


def _remarks(inspection: Inspection) -> list[str]:
    """What asks for attention, most pressing first; what is fine is said too."""
    remarks = []
    for split in inspection.splits:
        empty = [count.name for count in inspection.classes if count.split == split and not count.present]
        if empty:
            remarks.append(f"No image of split '{split}' shows: {', '.join(empty)}.")
    if inspection.unlabelled:
        remarks.append(f"Images without any class: {len(inspection.unlabelled):,} ({_some(inspection.unlabelled)}).")
    if not inspection.checked:
        return [*remarks, "The files were not read."]
    remarks.append(f"Damaged files: {len(inspection.damaged) or 'none'}.")
    remarks += [f"  {fault}" for fault in inspection.damaged]
    leaks = inspection.leaks
    remarks.append(f"Identical files in different splits: {len(leaks) or 'none'}.")
    remarks += [f"  {' = '.join(f'{id_} ({split})' for split, id_ in copies.images)}" for copies in leaks]
    if within := [copies for copies in inspection.copies if not copies.leaks]:
        examples = _some([" = ".join(id_ for _, id_ in copies.images) for copies in within])
        remarks.append(f"Identical files within a split: {len(within):,} ({examples}).")
    return remarks


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _copies(manifest: Manifest) -> tuple[Copies, ...]:
    """Groups of identical files. Only files of one length can be the same, so few are read."""
    by_length: dict[int, list[int]] = defaultdict(list)
    paths = manifest.paths
    for row, path in enumerate(paths):
        try:
            by_length[content_length(path)].append(row)
        except DamagedImage:
            continue
    rows = [row for group in by_length.values() if len(group) > 1 for row in group]
    by_digest: dict[str, list[int]] = defaultdict(list)
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_digest, [paths[row] for row in rows])
        for row, digest in zip(rows, track(digests, len(rows), "comparing files"), strict=True):
            if digest is not None:
                by_digest[digest].append(row)
    ids, splits = manifest.ids, manifest.table["split"].to_list()
    groups = sorted((sorted(group), digest) for digest, group in by_digest.items() if len(group) > 1)
    return tuple(Copies(digest, tuple((splits[row], ids[row]) for row in group)) for group, digest in groups)


def _digest(path: Path) -> str | None:
    try:
        return content_digest(path)
    except DamagedImage:
        return None


def _sizes(manifest: Manifest, *, look: bool) -> Sizes | None:
    """From the manifest; with `look`, from the headers of files of unknown size."""
    widths, heights = [], []
    known = zip(manifest.paths, manifest.table["width"], manifest.table["height"], strict=True)
    for path, width, height in known:
        if width is None or height is None:
            if not look:
                continue
            try:
                width, height = image_size(path)
            except DamagedImage:
                continue
        widths.append(int(width))
        heights.append(int(height))
    if not widths:
        return None
    return Sizes(len(widths), _spread(widths), _spread(heights))


def _spread(numbers: Sequence[int]) -> tuple[int, float, int]:
    return min(numbers), statistics.median(numbers), max(numbers)
