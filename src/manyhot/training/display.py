"""What a run shows of itself while it trains: pictures in `views/`, and what TensorBoard draws beside curves."""

from __future__ import annotations

import copy
import io
import re

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from manyhot import processes
from manyhot.atomic import atomic_open
from manyhot.data.loading import Batch, PictureGroup
from manyhot.runs import Run
from manyhot.training.setup import Session
from manyhot.training.state import State
from manyhot.training.tracking import Tracker

QUALITY = 90
"""Of the JPEG files."""


class Display:
    """Draws what `recipe.tracking` names, in the first epoch and in each whose number `tracking.every` divides.

    Of several processes the first does, of its own pictures. Nothing drawn takes part in training or draws random
    numbers: with it or without, the weights are the same.

    Arguments:
        run: `views/` lies in its folder.
        tracker: of its TensorBoard events.
        session: what is trained.
    """

    def __init__(self, run: Run, tracker: Tracker, session: Session) -> None:
        self.run = run
        self.tracker = tracker
        self.session = session
        self.settings = session.recipe.tracking

    def graph(self, state: State) -> None:
        """The backbone's operations, once a run; before its batches, as tracing it is nothing for several threads."""
        if self.settings.graph and not state.total_steps and processes.is_main():
            still = copy.deepcopy(self.session.model.backbone).eval()  # BatchNorm would count the picture
            size = self.session.input.size
            self.tracker.graph(still, torch.zeros(1, 3, size, size, device=self.session.accelerator.device))

    def inputs(self, state: State, batch: Batch) -> None:
        """The first pictures of an epoch as they enter the network: augmented, before mixing and normalisation.

        Several crops of a picture lie side by side. Stored features have no pictures to show.
        """
        if state.step or not self._is_due(state) or not processes.is_main():
            return
        for group in batch.groups:
            if not isinstance(group, PictureGroup):
                continue
            for row, place in enumerate(group.places.tolist()):
                if place < self.settings.pictures:
                    present = np.flatnonzero(batch.labels[place].numpy() == 1)
                    classes = "+".join(self.session.train.classes[index] for index in present)
                    name = "augmented_" + picture_name(state.epoch + 1, state.total_steps, state.step, place, classes)
                    self.picture("augmented", name, side_by_side([stack[row].numpy() for stack in group.stacks]), state)

    def gradients(self, state: State) -> None:
        """Weights and gradients of the named parameters, at the last step of an epoch, before its update."""
        if not self.session.shown or state.step + 1 != len(self.session.batches) or not self._is_due(state):
            return
        scaler = self.session.accelerator.scaler
        clipped = self.session.recipe.training.grad_clip is not None  # which divides by the scale first
        scale = 1.0 if scaler is None or clipped else scaler.get_scale()
        self.tracker.histograms(self.session.shown, state.total_steps, scale)

    def picture(self, tag: str, name: str, pixels_HW3: NDArray[np.uint8], state: State) -> None:
        """One picture, uint8, to `views/NAME.jpg` (whole or not at all) and to TensorBoard."""
        buffer = io.BytesIO()
        Image.fromarray(pixels_HW3).save(buffer, "JPEG", quality=QUALITY)
        with atomic_open(self.run.views / f"{name}.jpg") as file:
            file.write(buffer.getvalue())
        self.tracker.picture(tag, name, pixels_HW3, state.total_steps)

    def _is_due(self, state: State) -> bool:
        return state.epoch == 0 or (state.epoch + 1) % self.settings.every == 0


def picture_name(epoch: int, step: int, batch: int, image: int, classes: str) -> str:
    """The name under which a picture is found in TensorBoard, in `views/` and on the live page.

    Arguments:
        epoch: from 1.
        step: optimizer steps before it, in all.
        batch: its batch in the epoch, from 0.
        image: its place in the batch, from 0.
        classes: what it shows; characters that are awkward in a file's name become `-`.
    """
    plain = re.sub(r"[^\w+.-]+", "-", classes).strip("-.")[:80] or "none"
    return f"ep{epoch}_iter{step}_batch{batch}_image{image}_{plain}"


def side_by_side(stacks: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Crops uint8 [V, 3, H, W], of one or more sizes, as one picture uint8 [H, W, 3]; what they leave is black."""
    crops = [crop.transpose(1, 2, 0) for stack in stacks for crop in stack]
    canvas = np.zeros((max(crop.shape[0] for crop in crops), sum(crop.shape[1] for crop in crops), 3), dtype=np.uint8)
    left = 0
    for crop in crops:
        canvas[: crop.shape[0], left : left + crop.shape[1]] = crop
        left += crop.shape[1]
    return canvas
