"""Pictures through a trained classifier, one after the other: scores, and heat maps at the pixels of each picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhot.data.crops import Frame
from manyhot.data.decoding import EvaluationBatches, Loader
from manyhot.data.images import image_size
from manyhot.data.loading import PictureGroup, Pictures
from manyhot.data.preprocessing import Preprocessing
from manyhot.localization.heatmaps import HeatMap
from manyhot.localization.placing import Size, ViewMap, place
from manyhot.localization.views import Views
from manyhot.models.classifier import Classifier
from manyhot.models.geometry import Geometry
from manyhot.progress import Bar, progress

ToScores = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Wanted = Callable[[int, NDArray[np.float32]], Sequence[int]]


@dataclass(frozen=True, eq=False)
class Sight:
    """What was seen in one picture.

    Arguments:
        row: of the picture.
        size: its width and height as displayed, pixels.
        scores: float32 [C].
        classes: the K classes that were asked for.
        heat: float32 [K, height, width], their maps at the picture's pixels, on the scale of the heat map.
    """

    row: int
    size: Size
    scores: NDArray[np.float32]
    classes: tuple[int, ...]
    heat: NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """A classifier and a way to make heat maps of it.

    Arguments:
        model: the classifier, on its device.
        geometry: where the cells of its map lie in a view.
        preprocessing: from a picture to its views.
        heat_map: how the maps are made.
        to_scores: from logits [N, C] to scores.
        flip: average with the maps of the mirrored views.
        batch_size: pictures a forward pass.
        workers: threads that decode; None is one a core.
    """

    model: Classifier
    geometry: Geometry
    preprocessing: Preprocessing
    heat_map: HeatMap
    to_scores: ToScores
    flip: bool = False
    batch_size: int = 16
    workers: int | None = None
    damaged: list[tuple[int, str]] = field(default_factory=list)

    def at(self, paths: Sequence[Path], wanted: Wanted) -> Iterator[Sight]:
        """The pictures, each once, in no particular order; those that cannot be read go to `damaged`.

        Arguments:
            paths: N image files.
            wanted: given a row and its scores [C], the classes whose maps are wanted.
        """
        with progress(len(paths), "looking at pictures") as bar:
            for rows, views in self.views(paths, bar):
                for sight in self._sights(views, rows, paths, wanted):
                    yield sight
                    bar.advance()

    def views(self, paths: Sequence[Path], bar: Bar) -> Iterator[tuple[list[int], Views]]:
        """The pictures half-way through the network, some at a time: their rows and their views.

        Arguments:
            paths: N image files; those that cannot be read go to `damaged`.
            bar: advanced by the damaged ones; by the others their taker advances it.
        """
        self.model.eval()
        pictures = Pictures(paths, np.zeros((len(paths), 0), np.int8), self.preprocessing)
        for batch in Loader(pictures, EvaluationBatches(len(paths), self.batch_size), self.workers):
            self.damaged.extend(batch.damaged)
            bar.advance(len(batch.damaged))
            for group in batch.groups:
                assert isinstance(group, PictureGroup)
                stacks = group.normalized(next(self.model.parameters()).device)
                yield batch.indices[group.places].tolist(), Views(self.model, stacks, self.preprocessing.window)

    def once(self, views: list[NDArray[np.uint8]], size: Size) -> tuple[NDArray[np.float32], list[ViewMap]]:
        """One decoded picture: its scores [C], and of each view the maps of all C classes on their cells.

        Arguments:
            views: uint8 [H, W, 3] each, as `preprocessing.views` cuts them.
            size: width and height of the picture as displayed, pixels.
        """
        self.model.eval()
        pictures = Pictures((), np.zeros((1, 0), np.int8), self.preprocessing)
        (group,) = pictures.collate([(0, views)]).groups
        assert isinstance(group, PictureGroup)
        seen = Views(self.model, group.normalized(next(self.model.parameters()).device), self.preprocessing.window)
        scores_C = self.to_scores(seen.logits().float().cpu().numpy())[0]
        every = list(range(len(scores_C)))
        maps = self._laid(self.heat_map.cells(seen, every), 0, every, self.preprocessing.frames(size))
        return scores_C, maps

    def _sights(self, views: Views, rows: Sequence[int], paths: Sequence[Path], wanted: Wanted) -> Iterator[Sight]:
        scores = self.to_scores(views.logits().float().cpu().numpy())
        classes = [tuple(wanted(row, own)) for row, own in zip(rows, scores, strict=True)]
        union = sorted({one for some in classes for one in some})
        if union:
            plain = self.heat_map.cells(views, union)
            mirrored = self.heat_map.cells(self._mirrored(views.stacks), union) if self.flip else []
        for i, (row, own) in enumerate(zip(rows, scores, strict=True)):
            size = image_size(paths[row])
            if not classes[i]:
                yield Sight(row, size, own, (), np.zeros((0, size[1], size[0]), np.float32))
                continue
            frames = self.preprocessing.frames(size)
            kept = [union.index(one) for one in classes[i]]
            maps = self._laid(plain, i, kept, frames)
            if self.flip:
                maps += self._laid(mirrored, i, kept, [frame.flipped() for frame in frames])
            yield Sight(row, size, own, classes[i], place(maps, size))

    def _mirrored(self, stacks: Sequence[Tensor]) -> Views:
        return Views(self.model, [stack.flip(-1) for stack in stacks], self.preprocessing.window)

    def _laid(self, heats: Sequence[Tensor], picture: int, kept: list[int], frames: Sequence[Frame]) -> list[ViewMap]:
        """The maps of one picture's views with their frames: crops come stack by stack, in their order."""
        geometry = self.heat_map.geometry(self.geometry)
        with torch.no_grad():
            views = [view for heat in heats for view in heat[picture][:, kept].float().cpu().numpy()]
        return [ViewMap(cells, geometry, frame) for cells, frame in zip(views, frames, strict=True)]
