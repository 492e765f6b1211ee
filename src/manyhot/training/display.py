"""What a run shows of itself while it trains: pictures in `views/`, and what TensorBoard draws beside curves."""

from __future__ import annotations

import copy
import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from manyhot import processes
from manyhot.atomic import atomic_open
from manyhot.data.drawing import draw_boxes
from manyhot.data.images import open_image
from manyhot.data.loading import Batch, PictureGroup, Pictures
from manyhot.data.manifest import Box
from manyhot.inference.logits import activate
from manyhot.localization.overlays import class_views, view_name
from manyhot.metrics.window import RunningWindow
from manyhot.models.classifier import Classifier
from manyhot.runs import Run
from manyhot.training.detection import DetectorSession
from manyhot.training.gradients import Outcome
from manyhot.training.setup import Session
from manyhot.training.state import State
from manyhot.training.tracking import Tracker

QUALITY = 90
"""Of the JPEG files."""

BOXES = 3
"""Boxes of a class that are drawn into a picture."""


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
        evaluation = session.recipe.evaluation
        self.window = RunningWindow(max(1, self.settings.window), threshold=evaluation.threshold, beta=evaluation.beta)

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
                    name = "augmented_" + view_name(state.epoch + 1, state.total_steps, state.step, place, classes)
                    self.picture(
                        "augmented",
                        name,
                        side_by_side([stack[row].numpy() for stack in group.stacks]),
                        state.total_steps,
                    )

    def step(self, state: State, batch: Batch, found: Outcome) -> None:
        """What a step shows before its update: the running window, and at an epoch's last the named parameters."""
        if self.settings.window and self.session.parts.mix is None and processes.is_main():
            scores = activate(found.logits.float().cpu().numpy(), self.session.parts.loss.activation)
            self.window.add(scores, batch.labels[: len(scores)].numpy(), found.loss)
            self.tracker.running(state.total_steps, self.window.values())
        self._gradients(state)

    def heat(self, state: State) -> None:
        """Pictures from all over the val split, each under the heat of each of its true classes."""
        val = self.session.val
        rows = self._spread(self.settings.heat_maps, state)
        if not rows:
            return
        pictures = Pictures(val.paths, val.labels, self.session.input)
        batch = pictures.collate([pictures[-1, row] for row in rows])
        views = class_views(self._evaluated(), batch, val.classes, epoch=state.epoch + 1, iteration=state.total_steps)
        for name, image in views:
            self.picture("heat", name, np.asarray(image), state.total_steps - 1)

    def boxes(self, state: State) -> None:
        """Pictures from all over the val split, with the boxes that a detector finds best for each true class."""
        val, session = self.session.val, self.session
        rows = self._spread(self.settings.boxes, state)
        if not rows:
            return
        assert isinstance(session, DetectorSession)
        for place, found in zip(rows, session.score(rows), strict=True):
            image = open_image(val.paths[place])
            for c in np.flatnonzero(val.labels[place] == 1).tolist():
                best = [
                    Box(f"{score:.2g}", float(x0), float(y0), float(x1), float(y1))
                    for score, (x0, y0, x1, y1) in found.detections(c, 0.0, session.part.overlap)[:BOXES]
                ]
                name = view_name(state.epoch + 1, state.total_steps, 0, rows.index(place), val.classes[c])
                drawn = draw_boxes(image, best, val.classes[c])
                self.picture("boxes", name, np.asarray(drawn), state.total_steps - 1)

    def _spread(self, count: int, state: State) -> list[int]:
        """Rows of so many pictures from all over the val split; none where nothing is to be shown now."""
        number = len(self.session.val)
        count = min(count, number)
        if not count or not self._is_due(state) or not processes.is_main():
            return []
        return [number * place // count for place in range(count)]

    def _evaluated(self) -> Classifier:
        """The whole network whose scores count."""
        found = self.session.evaluated
        if isinstance(found, Classifier):
            return found
        whole = copy.deepcopy(self.session.model)  # `found` is a head on stored features
        assert isinstance(whole, Classifier), "a detector has no heat maps"
        whole.load_state_dict(self.session.whole(found.state_dict()))
        return whole

    def _gradients(self, state: State) -> None:
        if not self.session.shown or state.step + 1 != len(self.session.batches) or not self._is_due(state):
            return
        scaler = self.session.accelerator.scaler
        clipped = self.session.recipe.training.grad_clip is not None  # which divides by the scale first
        scale = 1.0 if scaler is None or clipped else scaler.get_scale()
        self.tracker.histograms(self.session.shown, state.total_steps, scale)

    def picture(self, tag: str, name: str, pixels_HW3: NDArray[np.uint8], step: int) -> None:
        """One picture, uint8, to `views/NAME.jpg` (whole or not at all) and to TensorBoard."""
        buffer = io.BytesIO()
        Image.fromarray(pixels_HW3).save(buffer, "JPEG", quality=QUALITY)
        with atomic_open(self.run.views / f"{name}.jpg") as file:
            file.write(buffer.getvalue())
        self.tracker.picture(tag, name, pixels_HW3, step)

    def _is_due(self, state: State) -> bool:
        return state.epoch == 0 or (state.epoch + 1) % self.settings.every == 0


def side_by_side(stacks: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Crops uint8 [V, 3, H, W], of one or more sizes, as one picture uint8 [H, W, 3]; what they leave is black."""
    crops = [crop.transpose(1, 2, 0) for stack in stacks for crop in stack]
    canvas = np.zeros((max(crop.shape[0] for crop in crops), sum(crop.shape[1] for crop in crops), 3), dtype=np.uint8)
    left = 0
    for crop in crops:
        canvas[: crop.shape[0], left : left + crop.shape[1]] = crop
        left += crop.shape[1]
    return canvas
