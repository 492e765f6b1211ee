"""The model behind the server: the one place that knows how pictures are decoded, scored and looked at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manyhot.data.decoding import CropBatch
from manyhot.data.images import decode_image
from manyhot.inference.exported import ExportedModel
from manyhot.inference.logits import activate
from manyhot.inference.predict import Predictor
from manyhot.localization.heat import overlay
from manyhot.localization.placing import ViewMap
from manyhot.localization.seeing import as_logits, heat_of, see
from manyhot.models.geometry import Geometry

if TYPE_CHECKING:
    from manyhot.localization.looking import Look

SHOWN = 1024
"""Longest side, in pixels, of a picture that is sent back under its heat."""


@dataclass(frozen=True, eq=False)
class Source:
    """A picture file that was sent.

    Arguments:
        content: its bytes.
        shown: the picture itself will be wanted, not its scores alone.
    """

    content: bytes | memoryview
    shown: bool = False


@dataclass(frozen=True, eq=False)
class Prepared:
    """A decoded picture.

    Arguments:
        size: width and height as displayed, pixels.
        views: its crops as the model takes them, uint8 [H, W, 3].
        shown: the picture at SHOWN pixels a side or less, where it is wanted.
    """

    size: tuple[int, int]
    views: list[NDArray[np.uint8]]
    shown: Image.Image | None = None


@dataclass(frozen=True, eq=False)
class Scored:
    """What the model says of a picture.

    Arguments:
        size: width and height as displayed, pixels.
        scores: float32 [C] in 0…1, calibrated where the bundle has a calibration.
        uncalibrated: as the network gives them; None where there is no calibration.
    """

    size: tuple[int, int]
    scores: NDArray[np.float32]
    uncalibrated: NDArray[np.float32] | None


class Scorer:
    """A Predictor, asked about pictures that lie in memory.

    Arguments:
        predictor: the model.
        max_pixels: larger pictures are refused from their header.
    """

    def __init__(self, predictor: Predictor, max_pixels: int) -> None:
        self.predictor = predictor
        self.config = predictor.bundle.config
        self.max_pixels = max_pixels
        self._look: Look | None = None

    @property
    def shows_heat(self) -> bool:
        """Whether there are heat maps: an exported file has none where its head joins the crops of a picture."""
        return not isinstance(self.predictor.bundle, ExportedModel) or self.predictor.gives_score_maps

    def prepare(self, source: Source) -> Prepared:
        """Decode a picture file and cut its crops, in any thread.

        Raises:
            DamagedImage: no picture, a damaged one, or one of too many pixels.
        """
        image = decode_image(io.BytesIO(source.content), max_pixels=self.max_pixels)
        size, views = image.size, [np.asarray(view) for view in self.predictor.preprocessing.views(image)]
        if source.shown:
            image.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS, reducing_gap=3.0)
        return Prepared(size, views, image if source.shown else None)

    def score(self, pictures: Sequence[Prepared]) -> list[Scored]:
        """Scores of several pictures, as `manyhot predict` gives them; in one thread at a time."""
        logits = self.predictor.look(CropBatch.of([(row, picture.views) for row, picture in enumerate(pictures)]))
        plain = activate(logits, self.config.activation)
        calibrated = self.config.calibrate(plain)
        scores = plain if calibrated is None else calibrated
        return [
            Scored(picture.size, scores[row], None if calibrated is None else plain[row])
            for row, picture in enumerate(pictures)
        ]

    def heat(self, picture: Prepared, class_index: int, layout: str) -> bytes:
        """A PNG of where the model sees a class; in one thread at a time.

        Arguments:
            picture: with `shown`, where there are heat maps.
            class_index: 0…C - 1.
            layout: "overlay": the picture, at most SHOWN pixels a side, under its heat; "heat": 8-bit grey, at most
                384 pixels a side, 255 for a score of 1 (`manyhot.localization.seeing`).
        """
        assert picture.shown is not None
        heat_HW = heat_of(self._maps(picture), picture.size, class_index)
        drawn = Image.fromarray(heat_HW) if layout == "heat" else overlay(picture.shown, heat_HW / np.float32(255))
        buffer = io.BytesIO()
        drawn.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def warm(self) -> None:
        """Score a black picture: the first one takes longer."""
        image = Image.new("RGB", (self.predictor.preprocessing.size,) * 2)
        self.score([Prepared(image.size, [np.asarray(view) for view in self.predictor.preprocessing.views(image)])])

    def described(self) -> dict[str, Any]:
        """What the model is, for answers and for `/v1/model`."""
        config = self.config
        return {
            "name": config.recipe,
            "sha256": self.predictor.bundle.sha256,
            "task": config.task,
            "calibrated": config.calibration is not None,
            "input": self.predictor.seen,
            "classes": [
                {"name": name, "threshold": threshold}
                for name, threshold in zip(config.classes, config.thresholds, strict=True)
            ],
        }

    def _maps(self, picture: Prepared) -> list[ViewMap]:
        bundle, config = self.predictor.bundle, self.config
        if not isinstance(bundle, ExportedModel):
            return see(self._looking(), picture.views, picture.size, config.activation).views
        geometry = Geometry(config.stride, config.offset)
        cells, frames = self.predictor.score_maps(picture.views), self.predictor.preprocessing.frames(picture.size)
        laid = [ViewMap(one, geometry, frame) for one, frame in zip(cells, frames, strict=True)]
        return as_logits(laid, config.activation)

    def _looking(self) -> Look:
        if self._look is None:
            from manyhot.localizing import look_with
            from manyhot.models.bundle import Bundle

            bundle = self.predictor.bundle
            assert isinstance(bundle, Bundle), "asked for heat though it shows none"
            self._look = look_with(bundle, "cam")
        return self._look
