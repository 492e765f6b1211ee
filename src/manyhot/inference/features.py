"""Features of a frozen network: computed once for every picture and view, then read from the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhot.data.decoding import Batches, EvaluationBatches, Loader
from manyhot.data.images import cache_folder
from manyhot.data.loading import Batch, FeatureGroup, PictureGroup, Pictures
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms import Augmentation
from manyhot.errors import UserError
from manyhot.inference.feature_store import Features, FeatureStore, digests, store_key, weights_digest
from manyhot.models.classifier import Classifier
from manyhot.models.weight_standardization import standardization_settings
from manyhot.progress import progress

log = logging.getLogger("manyhot")

# Pictures in one file of the store: what a kill can lose.
_CHUNK = 512
VIEW = 6
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Extraction:
    """A frozen network and all that decides what it says of a picture.

    Arguments:
        classifier: its backbone and pooling are used, its head is not.
        preprocessing: how a picture becomes crops.
        augment: what changes the views after the first.
        seed: of the augmentation.
        device: where the network lies.
        batch_size: pictures a forward pass.
        workers: threads that decode; None is one a core.
        precision: arithmetic of the forward pass: float32, bf16 or fp16.
    """

    classifier: Classifier
    preprocessing: Preprocessing
    augment: tuple[Augmentation, ...] = ()
    seed: int = 0
    device: torch.device = _CPU
    batch_size: int = 32
    workers: int | None = None
    precision: str = "float32"

    def compute(
        self,
        paths: Sequence[Path],
        views: int = 1,
        *,
        what: str = "computing features",
        after_batch: Callable[[], None] = lambda: None,
    ) -> list[Features]:
        """Features of N pictures: what the store has is read, the rest computed and stored.

        Arguments:
            paths: N image files.
            views: K of each picture; the first is the picture as it is evaluated, the others are augmented, each by a
                generator that the seed, the view and the file's content decide.
            what: the text before the progress bar.
            after_batch: called after each batch; may raise to stop. What was computed is kept.

        Returns:
            K times the features of N pictures, [I, D] each: I crops and windows.

        Raises:
            UserError: a picture that cannot be read, or features that are no finite float16 numbers.
        """
        names = digests(paths, self.workers)
        found = []
        for view in range(views):
            store = self._store(view)
            missing = store.missing(names)
            text = what if views == 1 else f"{what} {view + 1}/{views}"
            log.info("features: %d of %d in the cache%s", len(names) - len(missing), len(names), _of(view, views))
            if missing:
                self._fill(store, view, [names[i] for i in missing], [paths[i] for i in missing], text, after_batch)
            found.append(store.read(names))
        return found

    def _store(self, view: int) -> FeatureStore:
        model = self.classifier
        parts = {
            "network": model.backbone.name,
            "weights": weights_digest(model.backbone),
            "pooling": model.pooling.model_dump(mode="json") | {"name": type(model.pooling).__name__},
            "preprocessing": self.preprocessing.model_dump(mode="json"),
            "precision": self.precision,
            "view": view,
        }
        if standardized := standardization_settings(model.backbone):  # they are no tensors, and decide what tensors do
            parts["weight_standardization"] = standardized
        if view:
            parts["seed"] = self.seed
            parts["augment"] = [part.model_dump(mode="json") | {"name": type(part).__name__} for part in self.augment]
        width = model.pooling.width(model.backbone.channels)
        return FeatureStore(cache_folder() / "features" / store_key(**parts), width, info=parts)

    @torch.no_grad()
    def _fill(
        self,
        store: FeatureStore,
        view: int,
        names: list[str],
        paths: list[Path],
        what: str,
        after_batch: Callable[[], None],
    ) -> None:
        nothing = np.zeros((len(paths), 0), dtype=np.int8)
        numbers = [int(name[:15], 16) for name in names]
        pictures = Pictures(paths, nothing, self.preprocessing, self.augment if view else (), self.seed, numbers)
        loader = Loader(pictures, EvaluationBatches(len(paths), self.batch_size, epoch=view), self.workers)
        self.classifier.eval()
        rows: list[int] = []
        waiting: list[NDArray[np.float32]] = []
        try:
            with progress(len(paths), what) as bar:
                for batch in loader:
                    if batch.damaged:
                        row, reason = batch.damaged[0]
                        raise UserError(f"the picture cannot be read any more: {reason}.", file=paths[row])
                    waiting.extend(self._forward(batch))
                    rows.extend(batch.indices.tolist())
                    if len(rows) >= _CHUNK:
                        store.add([names[row] for row in rows], waiting, [paths[row] for row in rows])
                        rows, waiting = [], []
                    bar.advance(len(batch.indices))
                    after_batch()
        finally:
            if rows:
                store.add([names[row] for row in rows], waiting, [paths[row] for row in rows])

    def _forward(self, batch: Batch) -> list[NDArray[np.float32]]:
        """Features [I, D] of each picture of a batch, in its order."""
        found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(batch.indices)
        for group in batch.groups:
            assert isinstance(group, PictureGroup)
            with torch.autocast(self.device.type, _DTYPES.get(self.precision), enabled=self.precision in _DTYPES):
                features = self.classifier.features(group.normalized(self.device), self.preprocessing.window)
            for place, one in zip(group.places.tolist(), features.float().cpu().numpy(), strict=True):
                found[place] = one
        return found


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def _of(view: int, views: int) -> str:
    return "" if views == 1 else f", view {view + 1} of {views}"


class FeatureLoader:
    """Gives batches of features as `Loader` gives batches of pictures.

    Arguments:
        views: K times the features of N pictures.
        labels: int8 [N, C].
        batches: which pictures, in which order; a negative epoch asks for the first view, another draws one for every
            picture, by (seed, epoch, index).
        seed: of the drawing.
    """

    def __init__(self, views: Sequence[Features], labels: NDArray[np.int8], batches: Batches, seed: int = 0) -> None:
        self.views = views
        self.labels = labels
        self.batches = batches
        self.seed = seed

    def __iter__(self) -> Iterator[Batch]:
        drawn_in, drawn = -1, np.zeros(len(self.labels), dtype=np.int64)
        for keys in self.batches:
            epoch = keys[0][0]
            if epoch != drawn_in and epoch >= 0:
                drawn_in = epoch
                drawn = np.random.default_rng([self.seed, VIEW, epoch]).integers(len(self.views), size=len(self.labels))
            rows = np.array([index for _, index in keys])
            yield Batch(
                indices=torch.from_numpy(rows),
                labels=torch.from_numpy(self.labels[rows]),
                groups=tuple(self._groups(rows, drawn[rows])),
            )

    def _groups(self, rows: NDArray[np.int64], drawn: NDArray[np.int64]) -> Iterator[FeatureGroup]:
        """One group for each number of crops: statistics of a batch are to be those of the whole batch."""
        by_count: dict[int, list[tuple[NDArray[np.int64], Tensor]]] = {}
        for view in np.unique(drawn):
            places = np.flatnonzero(drawn == view)
            values, counts = self.views[view].gather(rows[places])
            ends = counts.cumsum()
            for count in np.unique(counts):
                of_count = np.flatnonzero(counts == count)
                take = (ends[of_count] - count)[:, None] + np.arange(count)
                by_count.setdefault(int(count), []).append((places[of_count], torch.from_numpy(values[take])))
        for parts in by_count.values():
            places_M = np.concatenate([places for places, _ in parts])
            features = torch.cat([features for _, features in parts])
            order = places_M.argsort()
            yield FeatureGroup(torch.from_numpy(places_M[order]), features[torch.from_numpy(order)])
