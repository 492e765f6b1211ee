"""The typed recipe: everything an experiment is, but for its data and its output folder."""

from manyhot.recipe.reading import apply_override, dump_recipe, load_recipe, parse_recipe, shipped
from manyhot.recipe.sections import Data, Evaluation, Input, Model, Recipe, Section, Tracking, Training

__all__ = [
    "Data",
    "Evaluation",
    "Input",
    "Model",
    "Recipe",
    "Section",
    "Tracking",
    "Training",
    "apply_override",
    "dump_recipe",
    "load_recipe",
    "parse_recipe",
    "shipped",
]
