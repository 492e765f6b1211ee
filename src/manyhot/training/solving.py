"""A head trained to the optimum of its loss on features that do not change, and the penalty that suits them."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from manyhot.errors import UserError
from manyhot.metrics.ranking import average_precision, mean_ap
from manyhot.progress import progress
from manyhot.training.losses import Loss

log = logging.getLogger("manyhot")

TOLERANCE = 1e-4
# Far from the optimum by the digits of the weights, but mAP no longer changes in its fourth digit (docs/training.md).
_FOLD_TOLERANCE = 3e-3
_LEAST_CURVATURE = 1e-3
_MAX_STEPS = 5000
_REMEMBERED_STEPS = 10


@dataclass(frozen=True)
class Solution:
    """Where the solver arrived.

    Arguments:
        parameters: float64 [P], the trained parameters one after the other; a `start` for the next.
        penalty: the penalty solved for.
        loss: mean loss, without the penalty's term.
        objective: loss and penalty's term.
        gradient: largest entry of the gradient of the objective, without its sign.
        steps: steps of L-BFGS.
        converged: the gradient is within the tolerance.
    """

    parameters: NDArray[np.float64]
    penalty: float
    loss: float
    objective: float
    gradient: float
    steps: int
    converged: bool


@dataclass(frozen=True)
class Tried:
    """A penalty and what cross-validation says of it.

    Arguments:
        penalty: the penalty.
        loss: loss over all train pictures, each scored by the head that was trained without its fold.
        map: mean AP of the same scores, 0…1, NaN where no class has a positive.
    """

    penalty: float
    loss: float
    map: float


def set_statistics(head: nn.Module, features: Tensor) -> None:
    """Set the running mean and variance of the head's `norm` to those of the features; without a `norm`, do nothing.

    The variance is the sum of squares divided by the number of rows, computed in float64.

    Arguments:
        head: a head as `solve` takes it.
        features: float [N, D], or [N, I, D] with I crops a picture, each a row.
    """
    norm = getattr(head, "norm", None)
    if norm is None:
        return
    variance, mean = torch.var_mean(features.detach().double().flatten(0, -2), dim=0, correction=0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def solve(
    head: nn.Module,
    features: Tensor,
    labels_NC: Tensor,
    loss: Loss,
    penalty: float,
    *,
    start: NDArray[np.float64] | None = None,
    tolerance: float = TOLERANCE,
    after_step: Callable[[], None] = lambda: None,
) -> Solution:
    """Set the head's parameters to the minimum of loss + penalty / 2 · |W|², by L-BFGS in float64.

    W are the weights, that is the parameters of more than one axis; biases are not penalised. With `bce`, reduction
    `sum` and a linear head it is the logistic regression of each class, with the C of scikit-learn = 1 / (penalty · N).
    The objective of `bce` and `cross_entropy` has one minimum; `focal` and `asymmetric` are not convex, and what is
    found depends on the start. Dropout takes no part. It takes 16 · N · I · D bytes.

    Source: Liu and Nocedal, On the Limited Memory BFGS Method for Large Scale Optimization, Mathematical Programming
    1989; the implementation is scipy's L-BFGS-B.

    Arguments:
        head: from features to logits [N, C]; trained in place, its parameters with requires_grad, and left in its mode.
            A child called `norm` comes first in it, and has its final statistics (`set_statistics`).
        features: float [N, D], or [N, I, D] where the head takes them.
        labels_NC: int8 [N, C] on the same device; 1 present, 0 absent, -1 ignored.
        loss: fitted to the labels.
        penalty: at least 0; above 0 wherever classes can be told apart perfectly.
        start: parameters to start from (`Solution.parameters`); None: those of the head.
        tolerance: it ends where no entry of the gradient is larger than this share of the largest where all trained
            parameters are zero. Below 1e-7 the rounding of the objective ends the search.
        after_step: called after each step; may raise to stop.
    """
    assert penalty >= 0, f"penalty {penalty}"
    return _solve(head, _Problem(head, features, labels_NC, loss), penalty, start, tolerance, after_step)


class _Problem:
    """The objective of a head on given features, as scipy wants it; float64, dropout off, standardised once.

    L-BFGS sees biases divided by `step_P`, which makes the curvature along them alike: along the bias of a class it is
    about the variance of the class, which for a rare one is a hundredth of that of a common one.
    """

    def __init__(self, head: nn.Module, features: Tensor, labels_NC: Tensor, loss: Loss) -> None:
        self._head = copy.deepcopy(head).double().eval()
        self._features = standardised(self._head, features)
        self._labels_NC, self._loss = labels_NC, loss
        self._parameters = [one for one in self._head.parameters() if one.requires_grad]
        self._weights = [one for one in self._parameters if one.ndim > 1]
        assert self._parameters, "a head with nothing to train"
        self.step_P = np.ones(sum(one.numel() for one in self._parameters))
        step_C = self._bias_steps()
        self.scale = float(np.abs(self.evaluate(np.zeros_like(self.step_P), 0.0)[1]).max())
        steps = [step_C if one.shape == step_C.shape else torch.ones_like(one) for one in self._parameters]
        self.step_P = parameters_to_vector(steps).detach().cpu().numpy()

    def _bias_steps(self) -> Tensor:
        """One over the root of the relative curvature along each logit, [C], at zero weights and the head's biases.

        The curvature is estimated as the sum of the squared gradients (Fisher information).
        """
        with torch.no_grad():
            for one in self._weights:
                one.zero_()
        logits_NC = self._head(self._features).detach().requires_grad_()
        (gradient_NC,) = torch.autograd.grad(self._loss.compute(logits_NC, self._labels_NC), logits_NC)
        curvature_C = gradient_NC.square().sum(dim=0)
        largest = curvature_C.max().clamp(min=torch.finfo(torch.float64).tiny)
        step_C: Tensor = (curvature_C / largest).clamp(min=_LEAST_CURVATURE).rsqrt()
        return step_C

    def evaluate(self, scaled_P: NDArray[np.float64], penalty: float) -> tuple[float, NDArray[np.float64]]:
        """Objective and its gradient, at parameters divided by `step_P`."""
        parameters = torch.from_numpy(scaled_P * self.step_P).to(self._features.device)
        vector_to_parameters(parameters, self._parameters)
        objective = self._loss.compute(self._head(self._features), self._labels_NC)
        if self._weights and penalty:
            objective = objective + penalty / 2 * sum(one.square().sum() for one in self._weights)
        # A parameter that the loss does not reach, for instance without any label, has a gradient of zero.
        gradients = torch.autograd.grad(objective, self._parameters, materialize_grads=True)
        return objective.item(), parameters_to_vector(gradients).cpu().numpy() * self.step_P

    def squares(self) -> float:
        """Sum of the squared weights as last evaluated."""
        return sum(one.detach().square().sum().item() for one in self._weights)


def standardised(head: nn.Module, features: Tensor) -> Tensor:
    """Features in the head's dtype after its `norm`, which is taken out of the head: it is the same at every step."""
    like = next(head.parameters())
    features = features.detach().to(like)
    norm = getattr(head, "norm", None)
    if norm is None:
        return features
    head.norm = nn.Identity()
    with torch.no_grad():
        shaped: Tensor = norm(features.flatten(0, -2)).reshape(features.shape)
    return shaped


def _solve(
    head: nn.Module,
    problem: _Problem,
    penalty: float,
    start: NDArray[np.float64] | None,
    tolerance: float,
    after_step: Callable[[], None],
) -> Solution:
    trained = [one for one in head.parameters() if one.requires_grad]
    if start is None:
        start = parameters_to_vector(trained).detach().double().cpu().numpy()
    limit = max(tolerance * problem.scale, np.finfo(np.float64).tiny)
    found = minimize(
        problem.evaluate,
        start / problem.step_P,
        args=(penalty,),
        jac=True,
        method="L-BFGS-B",
        callback=lambda _: after_step(),
        options={
            "maxiter": _MAX_STEPS,
            "maxfun": 2 * _MAX_STEPS,
            "maxcor": _REMEMBERED_STEPS,
            "ftol": 0,
            "gtol": limit,
        },
    )
    objective, gradient = problem.evaluate(found.x, penalty)
    if not math.isfinite(objective):
        raise UserError(f"the loss of the head is {objective}: the features or the labels hold no usable numbers.")
    largest = float(np.abs(gradient).max())
    reached = found.x * problem.step_P
    if largest > limit:
        log.warning(
            "the head is not quite at its optimum for penalty %.3g: after %d steps the gradient is %.1e, not %.1e",
            penalty, found.nit, largest, limit,
        )  # fmt: skip
    with torch.no_grad():
        vector_to_parameters(torch.tensor(reached).to(trained[0]), trained)
    return Solution(
        parameters=reached,
        penalty=penalty,
        loss=objective - penalty / 2 * problem.squares(),
        objective=objective,
        gradient=largest,
        steps=int(found.nit),
        converged=largest <= limit,
    )


def choose_penalty(
    head: nn.Module,
    features: Tensor,
    labels_NC: Tensor,
    loss: Loss,
    penalties: Sequence[float],
    *,
    folds: int = 5,
    seed: int = 0,
    pictures: NDArray[np.int64] | None = None,
    after_step: Callable[[], None] = lambda: None,
    by: Literal["map", "loss"] = "loss",
) -> tuple[float, list[Tried]]:
    """The penalty of the best cross-validated mAP or loss; the head itself is left as it is.

    Each fold's pictures are scored by a head that was solved for on the other folds, with their statistics, from the
    strongest penalty to the weakest, each starting from the one before. The scores of all folds are measured together.
    Of equally good penalties the strongest is taken. The table is logged.

    Arguments:
        head: as `solve` takes it; its parameters are the first start.
        features: float [N, D] or [N, I, D], of two pictures or more.
        labels_NC: int8 [N, C].
        loss: fitted to the labels.
        penalties: above 0, in any order.
        folds: K ≥ 2, at most one a picture is made.
        seed: decides which picture is in which fold.
        pictures: int64 [N], which picture each row is of, where several are of one (its flip): they share a fold.
            None: each is of its own.
        after_step: called after each step of the solver; may raise to stop.
        by: what is best.

    Returns:
        the penalty, and all that were tried, from strong to weak.
    """
    path = sorted(set(penalties), reverse=True)
    assert path, "no penalties"
    _, picture_N = np.unique(np.arange(len(labels_NC)) if pictures is None else pictures, return_inverse=True)
    fold_N = assign_folds(int(picture_N.max()) + 1, folds, seed)[picture_N]
    logits_PNC = torch.zeros(len(path), *labels_NC.shape, dtype=torch.float64, device=labels_NC.device)
    with progress((int(fold_N.max()) + 1) * len(path), "choosing the penalty", "fits") as bar:
        for fold in range(int(fold_N.max()) + 1):
            held = torch.from_numpy(fold_N == fold).to(labels_NC.device)
            own = copy.deepcopy(head).double().eval()
            set_statistics(own, features[~held])
            problem = _Problem(own, features[~held], labels_NC[~held], loss)
            shaped = standardised(own, features[held])
            for place, penalty in enumerate(path):
                _solve(
                    own, problem, penalty, None, _FOLD_TOLERANCE, after_step
                )  # starts where the penalty before ended
                with torch.no_grad():
                    logits_PNC[place, held] = own(shaped)
                bar.advance()
    tried = [_measured(penalty, one, labels_NC, loss) for penalty, one in zip(path, logits_PNC, strict=True)]
    best = max(tried, key=lambda one: -one.loss if by == "loss" or math.isnan(one.map) else one.map)
    log.info("%s", _table(tried, best))
    return best.penalty, tried


def assign_folds(n: int, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold 0…min(folds, n) - 1 of each of n pictures, int64 [n]; sizes differ by one at most."""
    assert min(folds, n) >= 2, f"{folds} folds of {n} pictures"
    fold_N = np.arange(n, dtype=np.int64) % folds
    return np.random.default_rng(seed).permutation(fold_N)


def _measured(penalty: float, logits_NC: Tensor, labels_NC: Tensor, loss: Loss) -> Tried:
    ap_C = average_precision(logits_NC.cpu().numpy(), labels_NC.cpu().numpy())
    return Tried(penalty, loss.compute(logits_NC, labels_NC).item(), mean_ap(ap_C)[0])


def _table(tried: Sequence[Tried], best: Tried) -> str:
    lines = ["penalties by cross-validation on the train split:", "   penalty      loss     mAP"]
    lines += [f"{one.penalty:10.4g}{one.loss:10.4f}{one.map:8.4f}{'  chosen' if one is best else ''}" for one in tried]
    return "\n".join(lines)
