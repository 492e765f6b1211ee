"""The pictures that a run logs while it trains: whatever lies in its folder `views`, served by listed name alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import Response

from manyhot.web.answers import sent
from manyhot.web.thumbnails import LARGE, THUMBNAIL, Missing, picture, placeholder

SUFFIXES = (".png", ".jpg", ".jpeg")


class View(NamedTuple):
    """A logged picture: when it was written, in nanoseconds, and what its file is called."""

    time: int
    name: str


def listed(folder: Path) -> list[View]:
    """The pictures directly in a folder, the newest last; plain files alone, no links."""
    try:
        with os.scandir(folder) as entries:
            found = [
                View(entry.stat(follow_symlinks=False).st_mtime_ns, entry.name)
                for entry in entries
                if _shown(entry.name) and entry.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []  # no picture yet, or the folder is being made anew
    return sorted(found)


def _shown(name: str) -> bool:
    """Whether a file is called like a picture, in a name that can be written as text."""
    return name.lower().endswith(SUFFIXES) and name == name.encode(errors="ignore").decode()


def add_views(app: FastAPI, folder: Path) -> None:
    """Add the places under which the pictures of a run are listed and shown."""

    @app.get("/api/views")
    def views(
        find: Annotated[str, Query(max_length=200)] = "", last: Annotated[int, Query(ge=1, le=1000)] = 60
    ) -> dict[str, Any]:
        """Names of the `last` newest pictures whose name holds `find`, the newest last; how many do, of how many."""
        every = listed(folder)
        fitting = [one for one in every if find.lower() in one.name.lower()]
        shown = [[one.name, one.time // 1_000_000] for one in fitting[-last:]]
        return {"n": len(every), "found": len(fitting), "views": shown}

    @app.get("/api/views/{name}", response_class=Response)
    def view(request: Request, name: str, large: bool = False) -> Response:
        """One picture as JPEG of at most 256 pixels a side, or 2048 with `large`."""
        if name not in {one.name for one in listed(folder)}:
            raise HTTPException(404, "there is no such picture.")
        try:
            return sent(request, picture(folder / name, LARGE if large else THUMBNAIL))
        except Missing as missing:
            return sent(request, placeholder(name, str(missing)))
