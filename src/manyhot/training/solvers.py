"""Solvers: the head brought to its optimum on stored features, in place of epochs: parts of `training.solver`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from manyhot.errors import UserError
from manyhot.inference.feature_store import Features
from manyhot.models.head import Head
from manyhot.registry import Part, Registry
from manyhot.training.losses import Loss
from manyhot.training.solving import choose_penalty, set_statistics, solve

Penalty = Annotated[float, Field(gt=0)]

_PENALTIES = (3.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.01)


class Solver(Part):
    """Finds the weights of a head."""

    @abstractmethod
    def fit(
        self,
        head: Head,
        views: Sequence[Features],
        labels_NC: NDArray[np.int8],
        loss: Loss,
        seed: int,
        after_step: Callable[[], None],
    ) -> float:
        """Train the head in place, and give the loss at the end.

        Arguments:
            head: on the device where it is to be trained.
            views: K times the features of N pictures, with as many crops of each.
            labels_NC: int8 [N, C]; every view of a picture has its labels.
            loss: fitted to the labels.
            seed: of all that is random.
            after_step: called after each step; may raise to stop.
        """


solvers: Registry[Solver] = Registry("solver", "training.solver")


@solvers.register("lbfgs")
class LBFGS(Solver):
    """The minimum of loss + penalty / 2 · |W|² by L-BFGS, the penalty chosen by cross-validation on the train split."""

    penalties: tuple[Penalty, ...] = Field(
        _PENALTIES,
        min_length=1,
        description="penalties to choose from, for a loss that is a sum over classes; divided by their number where it "
        "is a mean",
    )
    folds: int = Field(5, ge=2, description="parts of the train split for cross-validation")
    choose: Literal["loss", "map"] = Field("loss", description="what is best in cross-validation")

    def fit(
        self,
        head: Head,
        views: Sequence[Features],
        labels_NC: NDArray[np.int8],
        loss: Loss,
        seed: int,
        after_step: Callable[[], None],
    ) -> float:
        """One penalty is not cross-validated."""
        device = head.linear.weight.device
        if len(np.unique(np.concatenate([view.counts for view in views]))) > 1:
            raise UserError(
                "training.solver needs as many crops of every picture, and windows differ in number with its shape.",
                remedy="Set input.fit=squash, or training.solver=null.",
            )
        features = torch.from_numpy(np.concatenate([view.dense() for view in views])).to(device).float()
        if head.crop_pooling.joins:
            features = features.flatten(1)
        pictures = np.tile(np.arange(len(labels_NC)), len(views))
        labels = torch.from_numpy(labels_NC[pictures]).to(device)
        share = labels_NC.shape[1] if getattr(loss, "reduction", "sum") == "mean" else 1
        penalties = [penalty / share for penalty in self.penalties]
        penalty = penalties[0]
        if len(penalties) > 1:
            penalty, _ = choose_penalty(
                head,
                features,
                labels,
                loss,
                penalties,
                folds=self.folds,
                seed=seed,
                pictures=pictures,
                after_step=after_step,
                by=self.choose,
            )
        set_statistics(head, features)
        return solve(head, features, labels, loss, penalty, after_step=after_step).loss
