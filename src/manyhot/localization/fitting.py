"""Axes of `ddt` fitted to labelled pictures, and kept beside the weights that they belong to."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch

from manyhot.atomic import atomic_open, sha256_bytes
from manyhot.data.manifest import Manifest
from manyhot.localization.looking import Look
from manyhot.localization.transforming import Axes, AxesFit, DescriptorTransform
from manyhot.progress import progress

AXES = "axes.safetensors"


def fit_axes(look: Look, heat_map: DescriptorTransform, part: Manifest) -> Axes:
    """Pass pictures through a network and fit the axes of their classes; those that cannot be read go to `damaged`.

    Arguments:
        look: the network, and how it looks at pictures; mirrored views are left out.
        heat_map: whose axes are wanted.
        part: the pictures; a picture counts for every class whose label is 1.
    """
    fit, labels = AxesFit(heat_map, len(part.classes)), part.labels
    with progress(len(part), "fitting the axes of ddt") as bar:
        for rows, views in look.views(part.paths, bar):
            fit.take(views, [[c for c, label in enumerate(labels[row]) if label == 1] for row in rows])
            bar.advance(len(rows))
    return fit.axes()


def axes_key(look: Look, heat_map: DescriptorTransform, part: Manifest, weights_sha256: str) -> str:
    """Hexadecimal SHA-256 of all that the axes depend on: `read_axes` gives those of no other key."""
    parts = {
        "weights": weights_sha256,
        "descriptors": heat_map.model_dump(mode="json", exclude={"attention"}),
        "preprocessing": look.preprocessing.model_dump(mode="json"),
        "ids": part.ids,
        "labels": sha256_bytes(part.labels.tobytes()),
    }
    return sha256_bytes(json.dumps(parts, sort_keys=True).encode())


def read_axes(folder: Path, key: str) -> Axes | None:
    """The axes kept in a folder; None where there are none, damaged ones, or those of another key."""
    try:
        with safetensors.safe_open(folder / AXES, "pt") as file:
            axes = Axes(file.get_tensor("means"), file.get_tensor("axes"))
            kept = (file.metadata() or {}).get("key")
    except (OSError, safetensors.SafetensorError):
        return None
    return axes if kept == f"{key} {_digest(axes)}" else None


def write_axes(folder: Path, key: str, axes: Axes) -> None:
    """Keep axes in a folder, whole or not at all."""
    tensors = {"means": axes.means, "axes": axes.axes}
    with atomic_open(folder / AXES) as file:
        file.write(safetensors.torch.save(tensors, metadata={"key": f"{key} {_digest(axes)}"}))


def _digest(axes: Axes) -> str:
    return sha256_bytes(b"".join(one.contiguous().numpy().tobytes() for one in axes))
