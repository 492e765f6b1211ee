"""From a recipe and a Manifest to all that the loop needs. Faults are found here, before a file is written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils import deterministic

from manyhot import processes
from manyhot.data.colours import measure_colours
from manyhot.data.crops import crops
from manyhot.data.decoding import EvaluationBatches, Loader
from manyhot.data.device import DeviceLoader, refuse_unbatched
from manyhot.data.loading import Batch, Pictures, TrainingBatches
from manyhot.data.manifest import Manifest
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms import Augmentation, augmentations
from manyhot.errors import UserError
from manyhot.inference.feature_store import weights_digest
from manyhot.inference.features import Extraction, FeatureLoader
from manyhot.models.classifier import Classifier, create_classifier
from manyhot.models.crop_pooling import crop_poolings
from manyhot.models.layers import render, summarize
from manyhot.models.localizer import localizers
from manyhot.models.pooling import poolings
from manyhot.models.weight_standardization import standardizations
from manyhot.models.wsddn import Wsddn
from manyhot.recipe import Recipe
from manyhot.training.losses import Loss, losses
from manyhot.training.mixing import Mix, mixes
from manyhot.training.optimizers import OptimizerPart, optimizers
from manyhot.training.refusals import refuse_for_several, refuse_several_classes, refuse_top1
from manyhot.training.schedules import Schedule, schedules
from manyhot.training.solvers import Solver, solvers

# Streams of randomness beside those of manyhot.data.loading.
INIT, STEP, MIX = 3, 4, 5


@dataclass(frozen=True)
class Parts:
    """The recipe's named parts, built."""

    loss: Loss
    optimizer: OptimizerPart
    schedule: Schedule
    augment: tuple[Augmentation, ...]
    mix: Mix | None
    solver: Solver | None


def build_parts(recipe: Recipe) -> Parts:
    """Look up every part that the recipe names.

    Raises:
        UserError: an unknown part, an unknown setting or a bad value; parts that do not go together.
    """
    augment = tuple(augmentations.build(setting) for setting in recipe.input.augment)
    cropping = sum(part.crops for part in augment)
    if cropping > 1:
        raise UserError("input.augment names more than one part that crops.")
    way = recipe.input.crops["name"]
    crops.build(recipe.input.crops)
    if recipe.evaluation.crops is not None:
        crops.build(recipe.evaluation.crops)
    if cropping and way != "one":
        raise UserError(f"input.augment names a part that crops, and input.crops is '{way}': the crops are cut twice.")
    poolings.build(recipe.model.pooling)
    crop_poolings.build(recipe.model.crop_pooling)
    if recipe.model.localizer is not None:
        localizers.build(recipe.model.localizer)
    if recipe.model.weight_standardization is not None:
        standardizations.build(recipe.model.weight_standardization)
    mix, solver = recipe.training.mix, recipe.training.solver
    if solver and recipe.model.crop_pooling["name"] == "max" and way != "one":
        raise UserError(
            f"training.solver needs a smooth objective, and the maximum over crops (input.crops '{way}') has corners.",
            remedy="Set model.crop_pooling to mean, lse or concat.",
        )
    if mix and way != "one":
        raise UserError(f"training.mix mixes pictures of one crop, and input.crops is '{way}'.")
    return Parts(
        losses.build(recipe.loss),
        optimizers.build(recipe.optimizer),
        schedules.build(recipe.schedule),
        augment,
        mixes.build(mix) if mix else None,
        solvers.build(solver) if solver else None,
    )


def assign_splits(manifest: Manifest, recipe: Recipe) -> Manifest:
    """The Manifest with a validation split: the source's own, or a share of the train split.

    Raises:
        UserError: the train split holds no images, or too few to take a share of.
    """
    data = recipe.data
    manifest.split(data.train_split)
    if data.val_split not in manifest.splits:
        manifest = manifest.with_validation(data.train_split, data.val_split, data.val_fraction, recipe.seed)
        if data.val_split not in manifest.splits:
            raise UserError(
                f"{data.val_fraction:g} of split '{data.train_split}' is not one picture to validate on.",
                file=manifest.root,
                remedy="Set a larger data.val_fraction, or name a split with data.val_split.",
            )
    return manifest


Batched = Loader[Batch] | DeviceLoader | FeatureLoader


@dataclass
class Session:
    """What the loop works with.

    Arguments:
        recipe: the experiment.
        parts: its named parts, built.
        accelerator: device, precision, processes.
        input: how pictures become crops in training and validation.
        preprocessing: how they do at test; it goes into the bundle.
        model: the whole classifier or detector.
        trained: what is trained and what batches run through: the classifier, or its head on stored features.
        average: moving average of `trained`.
        optimizer: of its parameters.
        train: pictures to train on.
        val: pictures that choose the best epoch.
        batches: of training.
        shown: parameters whose distribution is recorded, by name.
    """

    recipe: Recipe
    parts: Parts
    accelerator: Accelerator
    input: Preprocessing
    preprocessing: Preprocessing
    model: Classifier | Wsddn
    trained: torch.nn.Module
    average: AveragedModel | None
    optimizer: Any
    train: Manifest
    val: Manifest
    batches: TrainingBatches
    shown: dict[str, torch.nn.Parameter]

    @property
    def single_label(self) -> bool:
        """Every picture has one class."""
        return self.train.task == "multiclass"

    @property
    def on_features(self) -> bool:
        """The backbone is frozen, and its features are computed once."""
        return self.recipe.model.frozen and self.recipe.training.views > 0

    @property
    def evaluated(self) -> torch.nn.Module:
        """The network whose scores count: the moving average where there is one."""
        return self.average.module if self.average is not None else self.trained

    def whole(self, trained: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of the classifier of which `trained` are those that training changes."""
        if not self.on_features:
            return trained
        return self.model.state_dict() | {f"head.{name}": tensor for name, tensor in trained.items()}

    def auxiliary_loss(self, targets: Tensor) -> Tensor | None:  # noqa: ARG002 - a detector has one
        """What is added to the loss of the pictures that went through last; None: nothing."""
        return None

    def describe_network(self) -> str:
        """Its layers, in a table."""
        size = self.preprocessing.size
        assert isinstance(self.model, Classifier)
        crops = self.input.cropping.count if self.model.head.crop_pooling.joins else 1
        return render(summarize(self.model, (size, size), crops or 1))

    def loaders(self, stop_if_asked: Callable[[], None]) -> tuple[Iterable[Batch], Iterable[Batch]]:
        """Batches of the train and of the val split; on features, what the store lacks is computed first.

        Arguments:
            stop_if_asked: called after each batch of computing; may raise.
        """
        recipe, train, val = self.recipe, self.train, self.val
        place = processes.place()
        in_order = EvaluationBatches(len(val), recipe.evaluation.batch_size, place.rank, place.count)
        workers, augment = recipe.training.workers, self.parts.augment
        if not self.on_features:
            held_out = Loader(Pictures(val.paths, val.labels, self.input), in_order, workers)
            if recipe.training.on_device:
                device = self.accelerator.device
                return DeviceLoader(
                    train.paths, train.labels, self.input, augment, recipe.seed, self.batches, device
                ), held_out
            pictures = Pictures(train.paths, train.labels, self.input, augment, recipe.seed)
            return Loader(pictures, self.batches, workers), held_out
        assert isinstance(self.model, Classifier)
        extraction = Extraction(
            self.model,
            self.input,
            augment,
            seed=recipe.seed,
            device=self.accelerator.device,
            batch_size=recipe.evaluation.batch_size,
            workers=workers,
            precision=recipe.training.precision,
        )
        if place.count > 1:  # each of a machine fills its share of the cache, then all read it
            share = slice(place.local_rank, None, place.local_count)
            extraction.compute(
                train.paths[share], recipe.training.views, what="features to train on", after_batch=stop_if_asked
            )
            extraction.compute(val.paths[share], what="features to validate on", after_batch=stop_if_asked)
            processes.wait()
        views = extraction.compute(
            train.paths, recipe.training.views, what="features to train on", after_batch=stop_if_asked
        )
        first = extraction.compute(val.paths, what="features to validate on", after_batch=stop_if_asked)
        return (
            FeatureLoader(views, train.labels, self.batches, recipe.seed),
            FeatureLoader(first, val.labels, in_order),
        )

    def state_dict(self) -> dict[str, Any]:
        """All tensors that training changes."""
        state = {"model": self.trained.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if self.on_features:
            state["backbone"] = weights_digest(self.model.backbone)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` was taken.

        Raises:
            UserError: the frozen backbone is another one than it was then.
        """
        if self.on_features and state["backbone"] != weights_digest(self.model.backbone):
            raise UserError(
                f"the weights of {self.model.backbone.name} are not those that the run was started with.",
                remedy="Give it the same model.weights, or train into another --out.",
            )
        self.trained.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])


def make_session(recipe: Recipe, parts: Parts, manifest: Manifest) -> Session:
    """Build the network and the optimizer.

    Raises:
        UserError: unknown backbone or parameter, weights that do not fit or cannot be had, precision that the device
            lacks, a mix with a softmax loss where pictures have several classes, crops that do not fit the head.
    """
    accelerator = make_accelerator(recipe.training.precision)
    train, val = manifest.split(recipe.data.train_split), manifest.split(recipe.data.val_split)
    if parts.mix is not None and parts.loss.activation == "softmax":
        refuse_several_classes(train)
    for key, watched in (("schedule.metric", parts.schedule.watches), ("training.best_by", recipe.training.best_by)):
        if watched is not None and watched.endswith("top1"):
            refuse_top1(key, watched, train, parts.mix)
    torch.manual_seed(derive_seed(recipe.seed, INIT))
    count = crops.build(recipe.input.crops).count
    model = create_classifier(recipe.model, len(manifest.classes), count)
    model.start_at_prior(
        train.labels,
        softmax=parts.loss.activation == "softmax",
        positive_weights=parts.loss.positive_weights,
    )
    model.to(accelerator.device).to(memory_format=torch.channels_last)
    own = recipe.input.normalize == "train" and None in {recipe.input.mean, recipe.input.std}
    mean, std = measure_colours(train.paths) if own else (model.backbone.mean, model.backbone.std)
    rules = Preprocessing.from_recipe(recipe.input, mean, std)
    preprocessing = rules.with_crops(recipe.evaluation.crops)
    if recipe.training.on_device:
        refuse_unbatched(train.paths, rules, parts.augment)
    if model.head.crop_pooling.joins and preprocessing.cropping.count != count:
        raise UserError(
            f"model.crop_pooling '{recipe.model.crop_pooling['name']}' needs as many crops at test as in training "
            f"({count}).",
            remedy="Set evaluation.crops=null.",
        )
    on_features = recipe.model.frozen and recipe.training.views > 0
    if processes.place().count > 1:
        refuse_for_several(recipe, model.head if on_features else model, len(train))
    trained: torch.nn.Module = model.head if on_features else model
    average = moving_average(trained, recipe.training.ema) if recipe.training.ema else None
    shown = named_parameters(trained, recipe.tracking.histograms)
    backbone = [] if recipe.model.frozen else model.backbone_parameters()
    optimizer = parts.optimizer.build(parts.optimizer.groups(model.head_parameters(), backbone))
    # For its precision only: gradients of several processes are summed in training/gradients.py.
    trained = accelerator.prepare_model(trained, evaluation_mode=True)
    optimizer = accelerator.prepare_optimizer(optimizer)
    if recipe.training.compile:
        # A kernel for each shape: which ones a step runs does not depend on the steps before it.
        trained.compile(dynamic=False)
    place = processes.place()
    return Session(
        recipe=recipe,
        parts=parts,
        accelerator=accelerator,
        input=rules,
        preprocessing=preprocessing,
        model=model,
        trained=trained,
        average=average,
        optimizer=optimizer,
        train=train,
        val=val,
        batches=TrainingBatches(len(train), recipe.training.batch_size, recipe.seed, place.rank, place.count),
        shown=shown,
    )


def named_parameters(network: torch.nn.Module, patterns: tuple[str, ...]) -> dict[str, torch.nn.Parameter]:
    """The parameters that a recipe's `tracking.histograms` names.

    Raises:
        UserError: a pattern that no name matches.
    """
    parameters = dict(network.named_parameters())
    found = {name: one for name, one in parameters.items() if any(fnmatchcase(name, part) for part in patterns)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise UserError(
                f"tracking.histograms: no parameter is called '{pattern}'. There are, for example, "
                f"{', '.join(list(parameters)[-4:])}."
            )
    return found


def moving_average(model: torch.nn.Module, decay: float) -> AveragedModel:
    """A copy of a network that follows it, buffers too."""
    average: Any = get_ema_multi_avg_fn  # torch leaves it untyped
    return AveragedModel(model, multi_avg_fn=average(decay), use_buffers=True)


def derive_seed(*numbers: int) -> int:
    """A 63-bit seed that depends on all the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_accelerator(precision: str) -> Accelerator:
    """Device and arithmetic; from here on torch's algorithms are deterministic.

    Raises:
        UserError: a precision that the device lacks.
    """
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it costs time, and nothing here reads such memory
    with contextlib.suppress(AttributeError):
        torch.backends.cudnn.benchmark = False
    try:
        several = processes.place().count > 1
        return Accelerator(
            mixed_precision="no" if precision == "float32" else precision,
            cpu=several and not torch.cuda.is_available(),  # other devices cannot talk with each other
        )
    except ValueError as error:
        raise UserError(f"training.precision {precision}: {error}") from None
