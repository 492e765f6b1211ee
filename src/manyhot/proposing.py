"""`data proposals`: from a data source to a file of proposals, with their recall."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np

from manyhot.data.manifest import Manifest
from manyhot.data.proposal_files import read_mat
from manyhot.data.proposals import Proposals, require_parquet
from manyhot.data.selective_search import SelectiveSearch, search_manifest
from manyhot.errors import UserError
from manyhot.metrics.proposals import recall

log = logging.getLogger("manyhot")


def find_proposals(
    manifest: Manifest,
    *,
    published: str | Path | None = None,
    layout: str | None = None,
    settings: SelectiveSearch | None = None,
    workers: int | None = None,
    on_error: str = "stop",
) -> Proposals:
    """Boxes of a manifest's pictures: from a file (Parquet of ours, or MATLAB), else by selective search.

    Arguments:
        manifest: of the pictures.
        published: a .parquet file, a .mat file, or a folder of .mat files; None: they are searched for.
        layout: of MATLAB boxes, a key of `manyhot.data.proposal_files.LAYOUTS`.
        settings: of the search; None: the defaults. Its `min_side` also holds for MATLAB boxes.
        workers: processes; None is one a core.
        on_error: "stop" or "skip" at damaged pictures.

    Raises:
        UserError: damaged pictures, a file that cannot be read or does not fit the pictures, a layout that is missing
            or has no effect.
    """
    settings = settings or SelectiveSearch()
    if published is None:
        if layout is not None:
            raise UserError("--layout is of published boxes: give --from too.")
        return search_manifest(manifest, settings, workers=workers, on_error=on_error)
    if Path(published).suffix == ".parquet":
        if layout is not None:
            raise UserError("--layout is of MATLAB files; our own have one layout.", file=published)
        return Proposals.load(published).of(manifest, published)
    if layout is None:
        raise UserError(
            "MATLAB boxes need their --layout.",
            file=published,
            remedy="It is yxyx1 for the files published with Fast R-CNN and WSDDN, and xyxy0 for Fast R-CNN's demo.",
        )
    return read_mat(published, layout, manifest, min_side=settings.min_side)


def save_proposals(proposals: Proposals, manifest: Manifest, out: Path) -> str:
    """Write the file, and say what is in it.

    Raises:
        UserError: another suffix than .parquet.
    """
    require_parquet(out)
    proposals.save(out)
    return summarize(proposals, manifest)


def summarize(proposals: Proposals, manifest: Manifest) -> str:
    """Counts of boxes, and recall where the true boxes are known, a line a split."""
    boxes = dict(zip(proposals.ids, proposals.boxes, strict=True))
    lines = []
    for split in manifest.splits:
        part = manifest.split(split)
        counts = np.array([len(boxes[id_]) for id_ in part.ids if id_ in boxes])
        if not counts.size:
            continue
        found = recall(boxes, part.objects())
        known = "; ".join(f"{value:.3f} at IoU {least:g}" for least, value in found.items())
        lines.append(
            f"{split}: {counts.size} pictures, {counts.mean():.0f} boxes each ({counts.min()} to {counts.max()})"
            + ("" if math.isnan(found[0.5]) else f"; recall {known}")
        )
    return "\n".join(lines)
