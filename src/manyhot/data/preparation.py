"""How a pixel store is to be made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from manyhot.data.pixels import Layout
from manyhot.data.resizing import Resizing


@dataclass(frozen=True)
class Preparation:
    """How a store is to be made.

    Arguments:
        resizing: of every picture.
        layout: "raw" keeps uint8 pixels, "jpeg" keeps them as JPEG of quality 90.
        val_fraction: share of the train split that becomes the validation split, the same of every label combination;
            None leaves the splits as they are.
        seed: of that choice.
        on_error: damaged pictures: "stop" lists them and leaves no store, "skip" leaves them out.
    """

    resizing: Resizing = field(default_factory=Resizing)
    layout: Layout = "raw"
    val_fraction: float | None = None
    seed: int = 0
    on_error: Literal["stop", "skip"] = "stop"

    def settings(self) -> dict[str, Any]:
        """All that changes the store, for JSON."""
        return {
            "layout": self.layout,
            **self.resizing.settings(),
            "val_fraction": self.val_fraction,
            "seed": self.seed if self.val_fraction is not None else None,
        }
