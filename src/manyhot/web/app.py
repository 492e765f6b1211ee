"""The gallery's server: what the page asks for, as JSON and as binary arrays. Its description is at `/api`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from manyhot import __version__
from manyhot.data.images import DamagedImage, image_size
from manyhot.errors import UserError
from manyhot.web import exporting
from manyhot.web.answers import binary, etag, inside, sent
from manyhot.web.collection import Collection
from manyhot.web.comparing import Compared
from manyhot.web.found import add_found
from manyhot.web.journal import Journal
from manyhot.web.live import Live
from manyhot.web.logged import add_views
from manyhot.web.model import TrainedModel
from manyhot.web.opening import Opened
from manyhot.web.seeing import add_model
from manyhot.web.suspects import add_queue
from manyhot.web.thumbnails import LARGE, NOWHERE, THUMBNAIL, Missing, Picture, picture, placeholder

MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_MOST_NAMES = 500


class Deciding(BaseModel):
    """A decision about one class in one picture."""

    model_config = ConfigDict(extra="forbid", strict=True)
    row: int
    class_index: int
    action: Literal["keep", "flip", "difficult", "skip"]


def create_app(opened: Opened) -> FastAPI:
    """The application; `manyhot.web.serving` puts the guard before it.

    Arguments:
        opened: what is to be seen.

    Raises:
        UserError: the file of decisions is at fault.
    """
    app = FastAPI(title="manyhot browse", version=__version__, openapi_url="/api", docs_url=None, redoc_url=None)
    app.add_exception_handler(UserError, lambda _, error: _said(409, str(error)))
    app.add_exception_handler(RequestValidationError, _refused)
    _add_page(app)
    app.get("/api/gallery")(lambda: _about(opened))
    if opened.run is not None:
        app.get("/api/live")(_live(Live(opened.run)))
        add_views(app, opened.run.path / "views")
    if opened.collection is not None:
        _add_classes(app, opened.collection)
        _add_pictures(app, opened.collection)
        _add_review(app, opened.collection, Journal(opened.journal))
        add_queue(app, opened.collection)
        if opened.detections is not None:
            add_found(app, opened.collection, opened.detections)
    if opened.compared is not None:
        _add_comparison(app, opened.compared)
    if opened.run is None:
        add_model(app, "There is no trained model here: these are scores from a table. Start the gallery with a run.")
    elif opened.detector:
        add_model(app, "A detector chooses among proposals, and a picture from outside has none. See manyhot detect.")
    else:
        add_model(app, TrainedModel(opened.run.model), opened.collection)
    return app


def _about(opened: Opened) -> dict[str, Any]:
    """What is to be seen, in few words."""
    collection = opened.collection
    known: dict[str, Any] = {
        "title": opened.title,
        "version": __version__,
        "run": opened.run is not None,
        "measured_by": "detect" if opened.detector else "evaluate",
        "n": 0,
        "classes": [],
        "thresholds": [],
    }
    if collection is not None:
        known |= {
            "n": len(collection),
            "classes": collection.predictions.classes,
            "thresholds": collection.thresholds,
            "task": collection.predictions.task,
            "calibrated": collection.predictions.calibrated,
            "reviewed": collection.review is not None,
            "compared": opened.compared.names if opened.compared is not None else None,
            "localized": opened.detections is not None,
            "exports": ["csv", "voc", "manifest"] if collection.manifest is not None else ["csv"],
        }
    return known


def _live(live: Live) -> Callable[[], dict[str, Any]]:
    def learning() -> dict[str, Any]:
        """How training goes: the lines of history.jsonl so far, and whether the run is at work."""
        return live.state()

    return learning


def _add_page(app: FastAPI) -> None:
    files = {one.name: one.read_bytes() for one in (resources.files("manyhot.web") / "static").iterdir()}
    known = {name: Picture(data, MEDIA_TYPES[name.rpartition(".")[2]], etag(data)) for name, data in files.items()}

    @app.get("/", include_in_schema=False)
    def page(request: Request) -> Response:
        return sent(request, known["index.html"])

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str, request: Request) -> Response:
        if name not in known:
            raise HTTPException(404, "there is no such file.")
        return sent(request, known[name])


def _add_classes(app: FastAPI, collection: Collection) -> None:
    measured: list[dict[str, Any]] = []
    measuring = threading.Thread(target=lambda: measured.extend(collection.measures()), daemon=True)
    begun = threading.Lock()
    ranking = lru_cache(4)(collection.ranking)
    suspects = lru_cache(4)(collection.suspects)
    counted = lru_cache(1)(collection.pairs)

    @app.get("/api/classes")
    def classes() -> dict[str, Any]:
        """Measures of all classes; `measured` is false while they are computed, which the first request begins."""
        if begun.acquire(blocking=False):  # never let go: it is begun once
            measuring.start()
        return {"measured": bool(measured), "classes": measured}

    @app.get("/api/classes/{class_index}/ranking", response_class=Response)
    def class_ranking(class_index: int) -> Response:
        """Little-endian: float32 scores [N], uint32 rows [N] most probable first, int8 labels [N]."""
        return binary(ranking(inside(class_index, len(collection.predictions.classes), "class")))

    @app.get("/api/classes/{class_index}/suspects", response_class=Response)
    def class_suspects(class_index: int) -> Response:
        """Little-endian: uint32 rows [M], the most suspect label first; uint8 flags [M]: held for an error."""
        return binary(suspects(inside(class_index, len(collection.predictions.classes), "class")))

    @app.get("/api/pairs")
    def pairs() -> list[tuple[int, int, int, int]]:
        """The most frequent false positives beside a true class: true class, predicted class, pictures, of how many."""
        return counted()


def _add_comparison(app: FastAPI, compared: Compared) -> None:
    measured = lru_cache(1)(compared.classes)
    overall = lru_cache(1)(compared.overall)

    @app.get("/api/compare")
    def compare() -> list[dict[str, Any]]:
        """For each class: AP of A and B, mean difference of their scores, pictures that one of them alone predicts."""
        return measured()

    @app.get("/api/compare/pictures", response_class=Response)
    def compared_pictures() -> Response:
        """Little-endian, the largest difference first: uint32 rows [N] and classes [N], float32 A [N] and B [N], int8
        labels [N]."""
        return binary(overall())

    @app.get("/api/classes/{class_index}/compare", response_class=Response)
    def compared_class(class_index: int) -> Response:
        """Little-endian: float32 scores of B [N], uint32 rows [N] with the largest difference first."""
        return binary(compared.disagreement(inside(class_index, len(compared.a.classes), "class")))


def _add_pictures(app: FastAPI, collection: Collection) -> None:
    @app.get("/api/pictures")
    def names(rows: Annotated[str, Query(pattern=r"^\d{1,9}(,\d{1,9})*$", max_length=5000)]) -> list[str]:
        """Ids of the given rows, `rows=3,1,4`; at most 500."""
        wanted = [int(row) for row in rows.split(",")]
        if len(wanted) > _MOST_NAMES:
            raise HTTPException(422, f"at most {_MOST_NAMES} rows at once.")
        return [collection.predictions.ids[inside(row, len(collection), "picture")] for row in wanted]

    @app.get("/api/pictures/{row}")
    def details(row: int) -> dict[str, Any]:
        """All that is known of a picture: scores and labels of every class, true objects in pixels."""
        row = inside(row, len(collection), "picture")
        path, size, trouble = collection.file(row), None, None
        try:
            size = image_size(path) if path is not None else None
            trouble = None if path is not None else NOWHERE
        except DamagedImage as fault:
            trouble = fault.reason
        return {
            "row": row,
            "id": collection.predictions.ids[row],
            "image": collection.name(row),
            "split": collection.predictions.splits[row],
            "size": size,
            "trouble": trouble,
            "scores": collection.predictions.scores[row].tolist(),
            "labels": collection.predictions.labels[row].tolist(),
            "boxes": [vars(box) for box in collection.boxes(row)],
        }

    def shown(request: Request, row: int, longest: int, named: bool) -> Response:
        row = inside(row, len(collection), "picture")
        try:
            return sent(request, picture(collection.file(row), longest))
        except Missing as missing:
            if not named:
                raise HTTPException(404, str(missing)) from None
            return sent(request, placeholder(collection.predictions.ids[row], str(missing)))

    @app.get("/api/pictures/{row}/thumbnail", response_class=Response)
    def thumbnail(request: Request, row: int, placeholder: bool = False) -> Response:
        """The picture as JPEG of at most 256 pixels a side; with `placeholder`, a drawing where it cannot be read."""
        return shown(request, row, THUMBNAIL, placeholder)

    @app.get("/api/pictures/{row}/image", response_class=Response)
    def image(request: Request, row: int, placeholder: bool = False) -> Response:
        """The picture as JPEG of at most 2048 pixels a side; with `placeholder`, a drawing where it cannot be read."""
        return shown(request, row, LARGE, placeholder)


def _add_review(app: FastAPI, collection: Collection, journal: Journal) -> None:
    predictions = collection.predictions
    columns = {name: c for c, name in enumerate(predictions.classes)}
    rows: dict[str, int] = {}

    def state() -> list[list[Any]]:
        if journal.decisions and not rows:
            rows.update({id_: row for row, id_ in enumerate(predictions.ids)})
        known = [one for (id_, name), one in journal.decisions.items() if id_ in rows and name in columns]
        return [[rows[one.id], columns[one.class_name], one.action] for one in known]

    @app.get("/api/review")
    def decisions() -> list[list[Any]]:
        """What was decided: row, class, action."""
        return state()

    @app.post("/api/review")
    def decide(made: Deciding) -> dict[str, str]:
        """Decide about one class in one picture; when this answers, the decision is on disk."""
        row = inside(made.row, len(collection), "picture")
        c = inside(made.class_index, len(columns), "class")
        done = journal.decide(
            predictions.ids[row], predictions.classes[c], int(predictions.labels[row, c]), made.action
        )
        return {"action": done.action, "time": done.time}

    @app.post("/api/review/undo")
    def undo() -> list[list[Any]]:
        """Take back the last decision; answers what holds now."""
        journal.undo()
        return state()

    @app.get("/api/review/export", response_class=Response)
    def export(layout: Annotated[Literal["csv", "voc", "manifest"], Query(alias="as")]) -> Response:
        """The decisions as CSV; VOC's Main lists (ZIP) or the manifest (Parquet) with the new labels."""
        made = list(journal.decisions.values())
        write, media_type, name = _EXPORTS[layout]
        headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
        return Response(write(collection, made), media_type=media_type, headers=headers)


_EXPORTS = {
    "csv": (exporting.as_csv, "text/csv; charset=utf-8", "decisions.csv"),
    "voc": (exporting.as_voc, "application/zip", "Main.zip"),
    "manifest": (exporting.as_manifest, "application/vnd.apache.parquet", "manifest.parquet"),
}


def _said(status: int, what: str) -> JSONResponse:
    return JSONResponse({"detail": what}, status)


def _refused(_: Request, error: Exception) -> JSONResponse:
    """A place that is no number is a place that is not there; other faults of a request are named."""
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    if any(fault["loc"][0] == "path" for fault in faults):
        return _said(404, "there is no such thing.")
    return _said(422, "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults))
