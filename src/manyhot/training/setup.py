"""From a recipe and a Manifest to all that the loop needs. Faults are found here, before a file is written."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils import deterministic

from manyhot.data.loading import EvaluationBatches, Loader, Pictures, TrainingBatches
from manyhot.data.manifest import Manifest
from manyhot.data.transforms import Augmentation, Preprocessing, augmentations
from manyhot.errors import UserError
from manyhot.models.classifier import Classifier, create_classifier
from manyhot.models.pooling import poolings
from manyhot.recipe import Recipe
from manyhot.training.losses import Loss, losses
from manyhot.training.mixing import Mix, mixes
from manyhot.training.optimizers import OptimizerPart, optimizers
from manyhot.training.schedules import Schedule, schedules

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


def build_parts(recipe: Recipe) -> Parts:
    """Look up every part that the recipe names.

    Raises:
        UserError: an unknown part, an unknown setting or a bad value; more than one cropping augmentation.
    """
    augment = tuple(augmentations.build(setting) for setting in recipe.input.augment)
    if sum(part.crops for part in augment) > 1:
        raise UserError("input.augment names more than one part that crops.")
    poolings.build(recipe.model.pooling)
    mix = recipe.training.mix
    return Parts(
        losses.build(recipe.loss),
        optimizers.build(recipe.optimizer),
        schedules.build(recipe.schedule),
        augment,
        mixes.build(mix) if mix else None,
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


@dataclass
class Session:
    """What the loop works with."""

    recipe: Recipe
    parts: Parts
    accelerator: Accelerator
    preprocessing: Preprocessing
    model: Classifier
    average: AveragedModel | None
    optimizer: Any
    train: Manifest
    val: Manifest
    batches: TrainingBatches
    train_loader: Loader
    val_loader: Loader

    @property
    def evaluated(self) -> torch.nn.Module:
        """The network whose scores count: the moving average where there is one."""
        return self.average.module if self.average is not None else self.model

    def state_dict(self) -> dict[str, Any]:
        """All tensors that training changes."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])


def make_session(recipe: Recipe, parts: Parts, manifest: Manifest) -> Session:
    """Build the network, the optimizer and the loaders.

    Raises:
        UserError: unknown backbone, weights that do not fit or cannot be had, precision that the device lacks, a mix
            with a softmax loss where pictures have several classes.
    """
    accelerator = _accelerator(recipe.training.precision)
    train, val = manifest.split(recipe.data.train_split), manifest.split(recipe.data.val_split)
    if parts.mix is not None and parts.loss.activation == "softmax":
        _refuse_several_classes(train)
    torch.manual_seed(derive_seed(recipe.seed, INIT))
    model = create_classifier(recipe.model, len(manifest.classes))
    model.start_at_prior(
        train.labels,
        softmax=parts.loss.activation == "softmax",
        positive_weights=parts.loss.positive_weights,
    )
    model.to(accelerator.device).to(memory_format=torch.channels_last)
    preprocessing = Preprocessing.from_recipe(recipe.input, model.backbone.mean, model.backbone.std)
    ema = recipe.training.ema
    average = _moving_average(model, ema) if ema else None
    backbone = [] if recipe.model.frozen else model.backbone_parameters()
    optimizer = parts.optimizer.build(parts.optimizer.groups(model.head_parameters(), backbone))
    model, optimizer = accelerator.prepare(model, optimizer)
    batches = TrainingBatches(len(train), recipe.training.batch_size, recipe.seed)
    workers = recipe.training.workers
    return Session(
        recipe=recipe,
        parts=parts,
        accelerator=accelerator,
        preprocessing=preprocessing,
        model=model,
        average=average,
        optimizer=optimizer,
        train=train,
        val=val,
        batches=batches,
        train_loader=Loader(
            Pictures(train.paths, train.labels, preprocessing, parts.augment, recipe.seed), batches, workers
        ),
        val_loader=Loader(
            Pictures(val.paths, val.labels, preprocessing),
            EvaluationBatches(len(val), recipe.evaluation.batch_size),
            workers,
        ),
    )


def _refuse_several_classes(train: Manifest) -> None:
    """Shares of classes that sum to more than 1 are no target of a softmax: such pictures would not be trained on."""
    several = np.flatnonzero((train.labels == 1).sum(axis=1) > 1)
    if len(several):
        raise UserError(
            f"{len(several)} of {len(train)} pictures to train on have several classes, for example "
            f"'{train.ids[several[0]]}': a softmax loss cannot be mixed over them.",
            file=train.root,
            remedy="Set loss=bce, or training.mix=null.",
        )


def _moving_average(model: Classifier, decay: float) -> AveragedModel:
    average: Any = get_ema_multi_avg_fn  # torch leaves it untyped
    return AveragedModel(model, multi_avg_fn=average(decay), use_buffers=True)


def derive_seed(*numbers: int) -> int:
    """A 63-bit seed that depends on all the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _accelerator(precision: str) -> Accelerator:
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it costs time, and nothing here reads such memory
    with contextlib.suppress(AttributeError):
        torch.backends.cudnn.benchmark = False
    try:
        return Accelerator(mixed_precision="no" if precision == "float32" else precision)
    except ValueError as error:
        raise UserError(f"training.precision {precision}: {error}") from None
