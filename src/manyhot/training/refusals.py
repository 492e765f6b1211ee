"""What a recipe asks of pictures or processes that cannot be had: found before a file is written."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from manyhot import processes
from manyhot.data.manifest import Manifest
from manyhot.errors import UserError
from manyhot.recipe import Recipe
from manyhot.training.mixing import Mix


def refuse_for_several(recipe: Recipe, trained: torch.nn.Module, n: int) -> None:
    """Refuse what several processes cannot do together.

    Arguments:
        recipe: the experiment.
        trained: the network, or the head, that is trained.
        n: pictures to train on.

    Raises:
        UserError: batches too small for all processes; BatchNorm over them with crops of several shapes, or compiled.
    """
    count, training = processes.place().count, recipe.training
    if min(n, training.batch_size) < count:
        raise UserError(
            f"a batch of {min(n, training.batch_size)} pictures has none for some of {count} processes.",
            remedy="Raise training.batch_size, or start fewer processes.",
        )
    norms = any(isinstance(one, _BatchNorm) for one in trained.modules())
    if not norms or not training.sync_batch_norm or training.solver is not None:
        return
    if recipe.input.crops["name"] in {"scales", "dense"} and recipe.input.fit != "squash":
        raise UserError(
            f"input.crops '{recipe.input.crops['name']}' gives crops of several shapes, and BatchNorm over several "
            "processes needs one.",
            remedy="Set input.fit=squash, or training.sync_batch_norm=false.",
        )
    if training.compile:
        raise UserError(
            "training.compile does not go with BatchNorm over several processes.",
            remedy="Set training.sync_batch_norm=false, or training.compile=false.",
        )


def refuse_top1(key: str, watched: str, train: Manifest, mix: Mix | None) -> None:
    """Refuse to wait for a number that no epoch will have.

    Raises:
        UserError: top-1 where pictures have several classes, or of mixed training pictures.
    """
    if train.task != "multiclass":
        raise UserError(
            f"{key} '{watched}' is of tasks with one class a picture, and these pictures may have several.",
            file=train.root,
            remedy=f"Set {key}=val_map.",
        )
    if mix is not None and watched == "train_top1":
        raise UserError("there is no train_top1 with training.mix.", remedy="Set schedule.metric=val_top1.")


def refuse_several_classes(train: Manifest) -> None:
    """Shares of classes that sum to more than 1 are no target of a softmax: such pictures would not be trained on.

    Raises:
        UserError: pictures with more than one class.
    """
    several = np.flatnonzero((train.labels == 1).sum(axis=1) > 1)
    if len(several):
        raise UserError(
            f"{len(several)} of {len(train)} pictures to train on have several classes, for example "
            f"'{train.ids[several[0]]}': a softmax loss cannot be mixed over them.",
            file=train.root,
            remedy="Set loss=bce, or training.mix=null.",
        )
