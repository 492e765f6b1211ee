"""What the loop needs to train a detector: pictures with boxes, or the maps of a frozen backbone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manyhot import processes
from manyhot.data.decoding import EvaluationBatches, Loader
from manyhot.data.images import DamagedImage
from manyhot.data.loading import Batch, TrainingBatches
from manyhot.data.manifest import Manifest
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.proposals import Proposals
from manyhot.data.selective_search import search_manifest
from manyhot.errors import UserError
from manyhot.inference.detect import BoxScores, score_boxes
from manyhot.inference.kept_maps import MapExtraction, MapLoader
from manyhot.inference.kept_regions import RegionExtraction, RegionLoader
from manyhot.inference.regions import Regions, RoiPictures
from manyhot.models.detectors import WSDDN, create_detector, describe_detector, detectors
from manyhot.models.region_pooling import Components, Moments
from manyhot.models.wsddn import Wsddn, WsddnHead
from manyhot.recipe import Recipe
from manyhot.training.setup import INIT, Parts, Session, derive_seed, make_accelerator, moving_average, named_parameters

FITTED_ON = 300
"""Pictures of the train split, at most, whose maps the components are taken of."""


@dataclass
class DetectorSession(Session):
    """A session whose pictures have boxes.

    Arguments:
        part: the detector's settings.
        regions: boxes of the pictures to train on, and of those to validate on.
    """

    part: WSDDN
    regions: tuple[Regions, Regions]

    def auxiliary_loss(self, targets: Tensor) -> Tensor | None:
        """Regulariser and refinement."""
        network = self.trained
        assert isinstance(network, Wsddn | WsddnHead)
        return self.part.auxiliary_loss(network, targets)

    def score(self, rows: list[int]) -> list[BoxScores]:
        """What the network that counts says of the boxes of some pictures of the val split, in the first view.

        Raises:
            UserError: a picture that cannot be read any more.
        """
        whole = copy.deepcopy(self.model)
        whole.load_state_dict(self.whole(self.evaluated.state_dict()))
        assert isinstance(whole, Wsddn)
        regions = self.regions[1].of(rows)
        damaged: list[DamagedImage] = []
        paths = [self.val.paths[row] for row in rows]
        found = list(score_boxes(whole, self.part, self.input, paths, regions, damaged, [self.regions[1].first]))
        if damaged:
            raise UserError(f"the picture cannot be read any more: {damaged[0].reason}.", file=damaged[0].path)
        return found

    def describe_network(self) -> str:
        """The detector in a line."""
        assert isinstance(self.model, Wsddn)
        return describe_detector(self.model)

    def loaders(self, stop_if_asked: Callable[[], None]) -> tuple[Iterable[Batch], Iterable[Batch]]:
        """Batches of the train and of the val split; with a frozen backbone the maps that lack are computed first."""
        recipe, train, val = self.recipe, self.train, self.val
        in_order = EvaluationBatches(len(val), recipe.evaluation.batch_size)
        workers = recipe.training.workers
        ours, theirs = self.regions
        if not self.on_features:
            pictures = RoiPictures(train.paths, train.labels, self.input, ours)
            held_out = RoiPictures(val.paths, val.labels, self.input, theirs)
            return Loader(pictures, self.batches, workers), Loader(held_out, in_order, workers)
        assert isinstance(self.model, Wsddn)
        if self.part.kept == "regions":
            return self._kept_regions(stop_if_asked)
        extraction = MapExtraction(self.model, self.input, self.accelerator.device, workers)
        maps = extraction.compute(train.paths, ours, ours.views, what="maps to train on", after_batch=stop_if_asked)
        first = extraction.compute(
            val.paths, theirs, [theirs.first], what="maps to validate on", after_batch=stop_if_asked
        )
        return MapLoader(maps, train.labels, ours, self.batches), MapLoader(first, val.labels, theirs, in_order)

    def _kept_regions(self, stop_if_asked: Callable[[], None]) -> tuple[Iterable[Batch], Iterable[Batch]]:
        assert isinstance(self.model, Wsddn)
        extraction = RegionExtraction(self.model, self.input, self.accelerator.device, self.recipe.training.workers)
        loaders = []
        in_order = EvaluationBatches(len(self.val), self.recipe.evaluation.batch_size)
        ours, theirs = self.regions
        for some, own, views, batches, what in (
            (self.train, ours, ours.views, self.batches, "regions to train on"),
            (self.val, theirs, [theirs.first], in_order, "regions to validate on"),
        ):
            extraction.announce(own, len(some), views)
            found = extraction.features(some.paths, own, views, what=what, after_batch=stop_if_asked)
            loaders.append(RegionLoader(found, some.labels, own, batches))
        return loaders[0], loaders[1]


def read_proposals(recipe: Recipe, manifest: Manifest, given: Proposals | str | Path | None) -> Proposals:
    """Boxes of the pictures that a run uses: as given, else by the recipe's selective search.

    Raises:
        UserError: a file that cannot be read or does not fit the pictures; OpenCV's contributed modules are missing.
    """
    if isinstance(given, Proposals):
        return given.of(manifest)
    if given is not None:
        return Proposals.load(given).of(manifest, given)
    return search_manifest(manifest, _part(recipe).search, workers=recipe.training.workers or None)


def make_detector_session(recipe: Recipe, parts: Parts, manifest: Manifest, proposals: Proposals) -> Session:
    """Build the detector and the optimizer.

    Raises:
        UserError: as `make_session`; a recipe that asks of a detector what only a classifier has.
    """
    part = _part(recipe)
    _refuse_what_has_no_effect(recipe, parts)
    accelerator = make_accelerator(recipe.training.precision)
    train, val = manifest.split(recipe.data.train_split), manifest.split(recipe.data.val_split)
    torch.manual_seed(derive_seed(recipe.seed, INIT))
    model = create_detector(recipe.model, len(manifest.classes))
    model.to(accelerator.device).to(memory_format=torch.channels_last)
    preprocessing = Preprocessing.from_recipe(recipe.input, model.backbone.mean, model.backbone.std)
    if isinstance(model.head.squeeze, Components):
        _fit(model, model.head.squeeze, preprocessing, train, proposals, recipe)
    on_maps = recipe.model.frozen and recipe.training.views > 0
    trained: torch.nn.Module = model.head if on_maps else model
    average = moving_average(trained, recipe.training.ema) if recipe.training.ema else None
    backbone = [] if recipe.model.frozen else model.backbone_parameters()
    optimizer = parts.optimizer.build(parts.optimizer.groups(model.head_parameters(), backbone))
    shown = named_parameters(trained, recipe.tracking.histograms)
    trained, optimizer = accelerator.prepare(trained, optimizer)
    regions = tuple(Regions(proposals.of(some), some.paths, part, recipe.seed) for some in (train, val))
    return DetectorSession(
        recipe=recipe,
        parts=parts,
        accelerator=accelerator,
        input=preprocessing,
        preprocessing=preprocessing,
        model=model,
        trained=trained,
        average=average,
        optimizer=optimizer,
        train=train,
        val=val,
        batches=TrainingBatches(len(train), recipe.training.batch_size, recipe.seed),
        shown=shown,
        part=part,
        regions=(regions[0], regions[1]),
    )


def _fit(
    model: Wsddn, components: Components, rule: Preprocessing, train: Manifest, proposals: Proposals, recipe: Recipe
) -> None:
    """Take the components of the maps of train pictures, evenly spread over the split, in the first view."""
    spread = set(np.linspace(0, len(train) - 1, FITTED_ON).round().astype(int).tolist())
    some = train.rows([row in spread for row in range(len(train))])
    regions = Regions(proposals.of(some), some.paths, _part(recipe), recipe.seed)
    device = next(model.parameters()).device
    extraction = MapExtraction(model, rule, device, recipe.training.workers)
    maps = extraction.compute(some.paths, regions, [regions.views[0]], what="maps to take components of")
    moments = Moments(model.backbone.channels)
    for row in range(len(some)):
        moments.add(maps.at(regions.views[0], row))
    components.fit(moments)


def _part(recipe: Recipe) -> WSDDN:
    assert recipe.model.detector is not None
    part = detectors.build(recipe.model.detector)
    assert isinstance(part, WSDDN)
    return part


def _refuse_what_has_no_effect(recipe: Recipe, parts: Parts) -> None:
    refused = {
        "input.augment": bool(parts.augment),
        "input.crops": recipe.input.crops["name"] != "one",
        "training.mix": parts.mix is not None,
        "training.solver": parts.solver is not None,
        "training.views above 1": recipe.training.views > 1,
        "training.precision": recipe.training.precision != "float32",
        "model.weight_standardization": recipe.model.weight_standardization is not None,
        "training.accumulate": recipe.training.accumulate > 1,
        "training.compile": recipe.training.compile,
        "training.on_device": recipe.training.on_device,
        "input.normalize 'train'": recipe.input.normalize == "train",
        "tracking.heat_maps": recipe.tracking.heat_maps > 0,
        "several processes": processes.place().count > 1,
        "a softmax loss": parts.loss.activation != "sigmoid",
    }
    found = [name for name, given in refused.items() if given]
    if found:
        raise UserError(f"a detector goes without {', '.join(found)}.", remedy="Scales and flips are model.detector's.")
