"""Scores for very many pictures, by workers on one machine or on many: Ray moves the work, files hold the results."""

from manyhot.inference.cluster.engine import Outcome, Workers, predict_on_ray

__all__ = ["Outcome", "Workers", "predict_on_ray"]
