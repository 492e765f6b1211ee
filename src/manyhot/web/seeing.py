"""What the trained model sees: heat maps of the gallery's pictures, scores and heat of a picture that is dropped."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from manyhot.data.images import DamagedImage
from manyhot.web.answers import binary, inside
from manyhot.web.collection import Collection
from manyhot.web.model import Busy, TrainedModel
from manyhot.web.thumbnails import LARGE, as_jpeg
from manyhot.web.uploading import LIMIT, Uploads, picture_in

T = TypeVar("T")


def add_model(app: FastAPI, model: TrainedModel | str, collection: Collection | None = None) -> None:
    """Add the places under which a model is asked, or in its stead the words that say why there is none."""

    @app.get("/api/model")
    def about() -> dict[str, Any]:
        """Classes and thresholds of the trained model, and the bytes that a picture to try may have."""
        if isinstance(model, str):
            return {"model": False, "why": model}
        known = model.described()
        if known is None:
            return {"model": False, "why": "The run has no trained model yet; it is there when training ends."}
        return {"model": True, "limit": LIMIT, **known}

    if isinstance(model, str):
        return
    if collection is not None:
        _add_heat(app, model, collection)
    _add_try(app, model)


def _add_heat(app: FastAPI, model: TrainedModel, collection: Collection) -> None:
    @app.get("/api/pictures/{row}/heat", response_class=Response)
    def heat(row: int, class_index: int) -> Response:
        """Heat of one class, little-endian: uint32 width, uint32 height, uint8 [height, width]; 255 is a score of 1."""
        path = collection.file(inside(row, len(collection), "picture"))
        classes = collection.predictions.classes
        inside(class_index, len(classes), "class")
        if path is None:
            raise HTTPException(404, "no folder of pictures was given.")
        try:
            seen = _answered(lambda: model.see_file(path, classes))
        except DamagedImage as fault:
            raise HTTPException(404, f"this picture cannot be read: {fault.reason}.") from None
        return _array(seen.heat(class_index))


def _add_try(app: FastAPI, model: TrainedModel) -> None:
    uploads = Uploads()

    async def tried(request: Request, use: Callable[[io.BytesIO], T]) -> T:
        async with uploads.taken(request) as file:
            return await run_in_threadpool(_answered, lambda: use(file))

    @app.post("/api/try/scores")
    async def scores(request: Request) -> dict[str, Any]:
        """Scores of a picture that is sent as the body; as `manyhot predict` gives them. Nothing is stored."""

        def look(file: io.BytesIO) -> dict[str, Any]:
            seen = model.see(picture_in(file))
            return {"size": seen.size, "scores": seen.scores.tolist()}

        return await tried(request, look)

    @app.post("/api/try/heat", response_class=Response)
    async def heat(request: Request, class_index: int) -> Response:
        """Heat of one class in a picture that is sent as the body, as `/api/pictures/ROW/heat`. Nothing is stored."""

        def look(file: io.BytesIO) -> Response:
            seen = model.see(picture_in(file))
            return _array(seen.heat(inside(class_index, len(seen.scores), "class")))

        return await tried(request, look)

    @app.post("/api/try/image", response_class=Response)
    async def image(request: Request) -> Response:
        """The picture that is sent as the body, upright, as JPEG of at most 2048 pixels a side. Nothing is stored."""

        def draw(file: io.BytesIO) -> Response:
            headers = {"cache-control": "no-store"}
            return Response(as_jpeg(picture_in(file), LARGE), media_type="image/jpeg", headers=headers)

        return await tried(request, draw)


def _answered(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except Busy:
        raise HTTPException(429, "the model is busy with other pictures; try again.") from None


def _array(heat_HW: NDArray[np.uint8]) -> Response:
    height, width = heat_HW.shape
    return binary(struct.pack("<II", width, height) + heat_HW.tobytes())
