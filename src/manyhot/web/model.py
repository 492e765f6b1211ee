"""The trained model behind a gallery: loaded when it is first asked, and asked about one picture at a time."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from manyhot.data.images import open_image
from manyhot.errors import UserError

if TYPE_CHECKING:  # torch costs seconds; a gallery starts without it
    from manyhot.localization.looking import Look
    from manyhot.localization.seeing import Seen
    from manyhot.models.bundle_config import BundleConfig

_KEPT = 8  # pictures whose maps stay in memory, for the other classes that will be asked for
_WAITING = 6  # requests that may wait for the model


class Busy(Exception):  # noqa: N818 - it is no fault of the program
    """Too many requests wait for the model."""


class TrainedModel:
    """The bundle of a run, which need not exist yet, and may be replaced while the gallery runs.

    One picture is in work at a time, in the thread that asks; a few more may wait.

    Arguments:
        folder: of config.json and weights.safetensors.
    """

    def __init__(self, folder: Path) -> None:
        self._config = folder / "config.json"
        self._working = threading.Lock()
        self._places = threading.BoundedSemaphore(_WAITING)
        self._loaded: tuple[tuple[int, int], Look, BundleConfig] | None = None
        self._seen: OrderedDict[tuple[str, int, int], Seen] = OrderedDict()

    def described(self) -> dict[str, Any] | None:
        """Classes and thresholds of the model, read without loading it; None where there is none."""
        try:
            config = json.loads(self._config.read_text(encoding="utf-8"))
            return {"classes": list(config["classes"]), "thresholds": list(config["thresholds"])}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def see(self, image: Image.Image) -> Seen:
        """A decoded picture, looked at and forgotten.

        Raises:
            Busy: too many requests wait.
            UserError: there is no model, or it is damaged.
        """
        with self._turn():
            return self._look(image)

    def see_file(self, path: Path, classes: tuple[str, ...]) -> Seen:
        """A picture of the gallery; the last few stay in memory.

        Arguments:
            path: the picture's file.
            classes: those of the page, which must be the model's.

        Raises:
            Busy: too many requests wait.
            UserError: no model, a damaged one, or one of other classes; DamagedImage: no such picture.
        """
        with self._turn():
            _, config = self._load()
            if config.classes != classes:
                raise UserError("the model's classes are not those of the page.", file=self._config)
            try:
                stat = path.stat()
                key = (str(path), stat.st_size, stat.st_mtime_ns)
            except (OSError, ValueError):
                key = (str(path), -1, -1)  # a picture of a pixel store, or none
            if key not in self._seen:
                self._seen[key] = self._look(open_image(path))
            self._seen.move_to_end(key)
            while len(self._seen) > _KEPT:
                self._seen.popitem(last=False)
            return self._seen[key]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise Busy
        try:
            with self._working:
                yield
        finally:
            self._places.release()

    def _load(self) -> tuple[Look, BundleConfig]:
        from manyhot.localizing import look_with
        from manyhot.models.bundle import load_bundle

        try:
            stat = self._config.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
        except OSError:
            stamp = (-1, -1)
        if self._loaded is None or self._loaded[0] != stamp:
            bundle = load_bundle(self._config.parent)
            self._seen.clear()
            self._loaded = stamp, look_with(bundle, "cam"), bundle.config
        return self._loaded[1:]

    def _look(self, image: Image.Image) -> Seen:
        from manyhot.localization.seeing import see

        look, config = self._load()
        views = [np.asarray(view) for view in look.preprocessing.views(image)]
        return see(look, views, image.size, config.activation)
