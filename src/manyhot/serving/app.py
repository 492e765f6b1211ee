"""The server's places: pictures to scores, pictures to heat maps, and how the server is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from manyhot import __version__
from manyhot.data.images import DamagedImage
from manyhot.serving.answers import PICTURES_BODY, REFUSALS, DescribedModel, Predicted, State
from manyhot.serving.batching import Batcher, Full
from manyhot.serving.bodies import Bodies
from manyhot.serving.limits import Limits
from manyhot.serving.metrics import CONTENT_TYPE, Metrics
from manyhot.serving.parsing import SentPicture, parse_pictures
from manyhot.serving.scoring import Prepared, Scored, Scorer, Source

T = TypeVar("T")

_AT_ONCE = 65_536  # bytes of a body that are taken apart faster than a thread is asked to


class Gone(Exception):  # noqa: N818 - it is no fault of the program
    """Who asked has closed the connection."""


class _Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _HeatQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    class_name: str = Field(alias="class", description="name of a class")
    layout: Literal["overlay", "heat"] = Field(
        "overlay",
        description="overlay: the picture, at most 1024 pixels a side, under its heat; heat: 8-bit grey, at most 384 "
        "pixels a side, 255 for a score of 1",
    )


class Service:
    """A scorer with its queue, counts and bounds.

    Arguments:
        scorer: the model.
        limits: bounds.
        threads: that decode.
    """

    paths = frozenset({"/v1/predict", "/v1/heatmap", "/v1/model", "/healthz", "/readyz", "/metrics", "/openapi.json"})

    def __init__(self, scorer: Scorer, limits: Limits, threads: int) -> None:
        self.scorer, self.limits = scorer, limits
        self.bodies = Bodies(limits)
        self.metrics = Metrics(self.paths)
        self.stopping = False
        self.batcher: Batcher[Source, Prepared, Any] = Batcher(
            scorer.prepare,
            scorer.score,
            max_batch=limits.batch,
            max_wait=limits.wait,
            max_inside=limits.queue,
            threads=threads,
            on_batch=self.metrics.ran,
            on_drop=self.metrics.dropped,
        )
        described = scorer.described()
        self.used = {key: described[key] for key in ("name", "sha256", "calibrated")}
        self.metrics.model.info({"name": self.used["name"], "sha256": self.used["sha256"], "version": __version__})
        watch = self.metrics.watch
        watch("manyhot_queue_pictures", "Decoded pictures that wait for the model.", lambda: self.batcher.waiting)
        watch("manyhot_pictures_inside", "Pictures taken and not answered yet.", lambda: self.batcher.inside)
        watch("manyhot_body_bytes", "Bytes of requests in memory.", lambda: self.bodies.held)

    def stop(self) -> None:
        """Take no more, and do not wait long for what still arrives."""
        self.stopping = True
        self.bodies.stop()

    async def sent(self, request: Request, body: bytes, most: int) -> list[SentPicture]:
        """The pictures of a request."""
        kind = request.headers.get("content-type", "")
        if len(body) <= _AT_ONCE or kind.startswith(("image/", "application/octet-stream")):
            return parse_pictures(body, kind, most)
        return await run_in_threadpool(parse_pictures, body, kind, most)

    async def predict(self, request: Request) -> Response:
        """Scores of the pictures in the body."""
        async with self.bodies.taken(request) as body:
            pictures = await self.sent(request, body, self.limits.pictures)
            found = await unless_gone(request, self.batcher.submit([Source(one.content) for one in pictures]))
        faults = [_fault(one) for one in found]
        refused = sum(fault is not None for fault in faults)
        self.metrics.pictures.labels("refused").inc(refused)
        self.metrics.pictures.labels("scored").inc(len(found) - refused)
        if refused == len(found) and faults[0] is not None:
            named = len(pictures) > 1
            words = "; ".join(
                f"{one.name}: {fault[1]}" if named else fault[1]
                for one, fault in zip(pictures, faults, strict=True)
                if fault is not None
            )
            raise HTTPException(faults[0][0], words)
        entries = [self._entry(*one) for one in zip(pictures, found, faults, strict=True)]
        return Response(json.dumps({"model": self.used, "pictures": entries}), media_type="application/json")

    async def heatmap(self, request: Request, class_name: str, layout: str) -> Response:
        """Heat of a class in the picture in the body, as PNG."""
        classes = self.scorer.config.classes
        if not self.scorer.shows_heat:
            raise HTTPException(
                404, "this exported model has no heat maps, since it joins crops; serve the run folder."
            )
        if class_name not in classes:
            raise HTTPException(422, f"there is no class {class_name!r}; /v1/model lists them.")
        async with self.bodies.taken(request) as body:
            (picture,) = await self.sent(request, body, 1)
            index = classes.index(class_name)
            source = Source(picture.content, shown=True)
            draw = self.batcher.alone(source, lambda prepared: self.scorer.heat(prepared, index, layout))
            try:
                drawn = await unless_gone(request, draw)
            except DamagedImage as damage:
                self.metrics.pictures.labels("refused").inc()
                status, words = _refusal(damage)
                raise HTTPException(status, words) from None
        self.metrics.pictures.labels("scored").inc()
        return Response(drawn, media_type="image/png", headers={"cache-control": "no-store"})

    def _entry(self, picture: SentPicture, found: Scored | Exception, fault: tuple[int, str] | None) -> dict[str, Any]:
        if isinstance(found, Exception):
            assert fault is not None
            nothing = dict.fromkeys(("width", "height", "scores", "labels", "uncalibrated"))
            return {"name": picture.name, **nothing, "error": {"status": fault[0], "detail": fault[1]}}
        classes, thresholds = self.scorer.config.classes, self.scorer.config.thresholds
        scores = found.scores.tolist()
        plain = None if found.uncalibrated is None else found.uncalibrated.tolist()
        return {
            "name": picture.name,
            "width": found.size[0],
            "height": found.size[1],
            "scores": dict(zip(classes, scores, strict=True)),
            "labels": [name for name, score, bar in zip(classes, scores, thresholds, strict=True) if score > bar],
            "uncalibrated": None if plain is None else dict(zip(classes, plain, strict=True)),
            "error": None,
        }


def create_app(service: Service) -> FastAPI:
    """The application; `manyhot.serving.server` puts counting and access before it."""
    app = FastAPI(
        title="manyhot serve",
        version=__version__,
        description="Pictures in, scores and heat maps of a trained model out.",
        docs_url=None,  # these pages load scripts of others
        redoc_url=None,
    )
    app.add_exception_handler(HTTPException, _said)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Full, _full)
    app.add_exception_handler(Gone, lambda _request, _error: Response(status_code=499))

    @app.post(
        "/v1/predict",
        response_model=Predicted,
        responses=REFUSALS,
        openapi_extra={"requestBody": PICTURES_BODY},
    )
    async def predict(request: Request, _: Annotated[_Nothing, Query()]) -> Response:
        """Scores of pictures: one as it is, several as a form or as JSON.

        One damaged picture among several has an `error` of its own; where all are damaged the request is refused.
        """
        return await service.predict(request)

    @app.post(
        "/v1/heatmap",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}, "description": "The heat map."}, **REFUSALS},
        openapi_extra={"requestBody": PICTURES_BODY},
    )
    async def heatmap(request: Request, query: Annotated[_HeatQuery, Query()]) -> Response:
        """Where in a picture the model sees a class, as PNG."""
        return await service.heatmap(request, query.class_name, query.layout)

    @app.get("/v1/model", response_model=DescribedModel, responses={401: REFUSALS[401]})
    async def model() -> dict[str, Any]:
        """Classes, thresholds and digest of the model, and the bounds of the server."""
        limits = service.limits
        bounds = {"body": limits.body, "pixels": limits.pixels, "pictures": limits.pictures}
        return {**service.scorer.described(), "limits": bounds}

    @app.get("/healthz", response_model=State)
    async def healthz() -> dict[str, str]:
        """Whether the server lives."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=State, responses={503: {"model": State, "description": "It stops."}})
    async def readyz(response: Response) -> dict[str, str]:
        """Whether the server takes pictures."""
        response.status_code = 503 if service.stopping else 200
        return {"status": "stopping" if service.stopping else "ok"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counts, as Prometheus reads them."""
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return app


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The outcome of `work`, which is cancelled when who asked closes the connection.

    Raises:
        Gone: it was closed. What `work` raises.
    """
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        for one in (task, leaving):
            one.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _fault(found: Scored | Exception) -> tuple[int, str] | None:
    if isinstance(found, DamagedImage):
        return _refusal(found)
    if isinstance(found, Exception):
        raise found
    return None


def _refusal(damage: DamagedImage) -> tuple[int, str]:
    status = 413 if damage.reason.startswith("too large") else 415
    return status, f"this picture cannot be read: {damage.reason}."


def _said(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    words = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return JSONResponse({"detail": words}, 422, {"connection": "close"})  # its body is not read


def _full(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Full)
    return JSONResponse({"detail": str(error)}, 503, {"retry-after": str(error.seconds)})
