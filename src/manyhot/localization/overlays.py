"""Heat maps drawn over pictures: for the report, and of chosen pictures while a network is trained."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from manyhot.data.crops import Frame
from manyhot.data.loading import Batch, PictureGroup
from manyhot.localization.heat import fixed, overlay, relative
from manyhot.localization.heatmaps import CAM, HeatMap
from manyhot.localization.placing import ViewMap, place
from manyhot.localization.views import Views
from manyhot.metrics.overlap import Boxes
from manyhot.models.classifier import Classifier

TRUE, FOUND = (255, 255, 255), (0, 200, 255)
"""Colours of true boxes and of found ones."""


def outline(picture: Image.Image, boxes: Boxes, colour: tuple[int, int, int]) -> None:
    """Draw boxes [K, 4] into a picture, in its pixels, three pixels wide on a dark rim."""
    draw = ImageDraw.Draw(picture)
    right, bottom = picture.width - 1, picture.height - 1
    for x0, y0, x1, y1 in np.asarray(boxes, np.float64).round().astype(int).tolist():
        corners = (max(0, x0), max(0, y0), min(right, max(x0, x1 - 1)), min(bottom, max(y0, y1 - 1)))
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            draw.rectangle(corners, outline=(20, 20, 20), width=5)
            draw.rectangle(corners, outline=colour, width=3)


def view_name(epoch: int, iteration: int, batch: int, image: int, class_name: str) -> str:
    """`ep{E}_iter{I}_batch{B}_image{K}_{class}`: how a picture is found in TensorBoard, in `views/`, on the live page.

    Arguments:
        epoch: from 1.
        iteration: optimizer steps before it, in all.
        batch: its batch in the epoch, from 0.
        image: its place in the batch, from 0.
        class_name: what it shows; characters that are awkward in a file's name become `-`.
    """
    plain = re.sub(r"[^\w+.-]+", "-", class_name).strip("-.")[:80] or "none"
    return f"ep{epoch}_iter{iteration}_batch{batch}_image{image}_{plain}"


def class_views(
    model: Classifier,
    batch: Batch,
    classes: Sequence[str],
    *,
    epoch: int,
    iteration: int,
    number: int = 0,
    heat_map: HeatMap | None = None,
) -> Iterator[tuple[str, Image.Image]]:
    """The pictures of a batch as the network sees them, once for each class they show, under the heat of that class.

    The first view of every picture is shown. Heat in logits is shown by its sigmoid, so that a class that the network
    does not see stays dark; other heat is stretched by its own range.

    Arguments:
        model: in any mode, and left in it.
        batch: of pictures; labels of 1 are the classes shown.
        classes: C names.
        epoch: for the names, as it is counted there.
        iteration: likewise.
        number: of the batch, likewise.
        heat_map: None: cam.

    Yields:
        (name, RGB picture), the pictures of each group of equal shapes in the order of the batch.
    """
    heat_map = heat_map or CAM()
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        geometry = heat_map.geometry(model.geometry)
        for group in batch.groups:
            assert isinstance(group, PictureGroup), "features have no pictures to show"
            shown = [np.flatnonzero(batch.labels[spot].numpy() == 1).tolist() for spot in group.places.tolist()]
            union = sorted({c for some in shown for c in some})
            if not union:
                continue
            views = Views(model, group.normalized(device), group.preprocessing.window)
            cells_NKhw = heat_map.cells(views, union)[0][:, 0].detach().float().cpu().numpy()
            for i, spot in enumerate(group.places.tolist()):
                pixels = np.ascontiguousarray(group.stacks[0][i, 0].permute(1, 2, 0).numpy())
                height, width = pixels.shape[:2]
                whole = Frame(0.0, 0.0, float(width), float(height), width, height)
                heat = place([ViewMap(cells_NKhw[i], geometry, whole)], (width, height))
                heat = fixed(heat) if heat_map.in_logits else relative(heat)
                for c in shown[i]:
                    name = view_name(epoch, iteration, number, spot, classes[c])
                    yield name, overlay(Image.fromarray(pixels), heat[union.index(c)])
    finally:
        model.train(was_training)
