"""Solvers: the head brought to its optimum on stored features, in place of epochs."""

from __future__ import annotations

from manyhot.registry import Part, Registry


class Solver(Part):
    """Finds the weights of a head."""


solvers: Registry[Solver] = Registry("solver", "training.solver")
