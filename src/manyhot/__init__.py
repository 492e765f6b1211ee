"""manyhot: image-level labels in; a measured multi-label classifier, ranked pictures and boxes out.

>>> import manyhot
>>> model = manyhot.load("RUN")  # doctest: +SKIP
>>> model.predict(["a.jpg", "photos/"]).scores  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyhot.calibrating import calibrate
    from manyhot.data.manifest import Manifest
    from manyhot.data.sources import open_source
    from manyhot.detecting import detect
    from manyhot.detections import Detections
    from manyhot.errors import UserError
    from manyhot.evaluation import evaluate
    from manyhot.inference.predict import Predictor, load
    from manyhot.localizing import localize
    from manyhot.metrics.summary import measure
    from manyhot.predictions import Predictions
    from manyhot.recipe import Recipe, load_recipe
    from manyhot.training.train import train

__version__ = "0.1.0"

# Where each public name lives: nothing is imported before it is asked for, so that `import manyhot` costs nothing.
_HOMES = {
    "Detections": "manyhot.detections",
    "Manifest": "manyhot.data.manifest",
    "Predictions": "manyhot.predictions",
    "Predictor": "manyhot.inference.predict",
    "Recipe": "manyhot.recipe",
    "UserError": "manyhot.errors",
    "calibrate": "manyhot.calibrating",
    "detect": "manyhot.detecting",
    "evaluate": "manyhot.evaluation",
    "load": "manyhot.inference.predict",
    "load_recipe": "manyhot.recipe",
    "localize": "manyhot.localizing",
    "measure": "manyhot.metrics.summary",
    "open_source": "manyhot.data.sources",
    "train": "manyhot.training.train",
}

__all__ = [
    "Detections",
    "Manifest",
    "Predictions",
    "Predictor",
    "Recipe",
    "UserError",
    "calibrate",
    "detect",
    "evaluate",
    "load",
    "load_recipe",
    "localize",
    "measure",
    "open_source",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'manyhot' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
