"""Predictions by Ray Data: workers hold the model, this process hands out parts and keeps what comes back."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
import uuid
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import polars as pl

from manyhot.data.manifest import Manifest
from manyhot.errors import Interrupted, UserError
from manyhot.inference.cluster.merging import DAMAGED, MERGED, merge, write_damaged
from manyhot.inference.cluster.plan import Plan, Scored, locked, open_plan
from manyhot.inference.cluster.ray_session import import_ray, ray_session
from manyhot.inference.cluster.worker import Model, Scorer, Work
from manyhot.inference.pictures.listing import list_manifest
from manyhot.inference.predict import require_classes
from manyhot.processor import ONE_ARENA
from manyhot.progress import progress, track

log = logging.getLogger("manyhot")

AGAIN = "Finished parts are kept: give the same command again to go on."


@dataclass(frozen=True)
class Workers:
    """Who does the work.

    Arguments:
        count: of workers; None: as many as the cores, or the GPUs, allow.
        threads: of each.
        gpus: of each, may be a fraction; None: one where the cluster has any, else none.
        address: of a Ray cluster; None: one is started on this machine, and ended.
    """

    count: int | None = None
    threads: int = 1
    gpus: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if (self.count is not None and self.count < 1) or self.threads < 1 or (self.gpus or 0) < 0:
            raise UserError("--workers and --threads are at least 1, --gpus-per-worker at least 0.")


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Arguments:
        predictions: the table of all.
        scored: pictures in it.
        damaged: pictures that could not be read, listed in `damaged.csv` beside it.
        skipped: of all pictures, those whose parts were finished before.
    """

    predictions: Path
    scored: int
    damaged: int
    skipped: int


def predict_on_ray(
    model: Path,
    pictures: pl.DataFrame | Manifest,
    out: Path,
    *,
    workers: Workers = Workers(),
    on_error: str = "stop",
    column: str | None = None,
    part_size: int | None = None,
    **options: Any,
) -> Outcome:
    """Score pictures on a Ray cluster and write `part-*.parquet` and, from them, `predictions.parquet`.

    Which pictures make a part is written to `plan.parquet` first. Parts that are finished and whole are not scored
    again. With `on_error` "stop" damaged pictures stop nothing before the end: they are listed in `damaged.csv`, the
    parts are kept, and parts with damaged pictures are scored again at the next run.

    Arguments:
        model: a run folder or a bundle.
        pictures: of `list_pictures`; or a Manifest that has the model's classes, whose ids, splits and labels are
            kept.
        out: folder of the results, made if it is not there.
        workers: who does it.
        on_error: "stop" or "skip" at damaged pictures.
        column: of tables, as `list_pictures` was given it.
        part_size: pictures a part, a multiple of 32; None: by their number.
        options: of `manyhot.inference.predict.load`.

    Raises:
        UserError: Ray is not installed or the cluster not there; `out` holds something else; damaged pictures, unless
            `on_error` is "skip"; workers that die again and again.
        Interrupted: SIGINT or SIGTERM came.
    """
    import_ray()
    content = Model.read(model, **options)
    predictor = content.load(device="cpu")
    settings = {"model": content.sha256, "crops": predictor.seen, "classes": list(predictor.classes), "column": column}
    source = {}
    if isinstance(pictures, Manifest):
        require_classes(pictures, predictor.classes)
        source = {"label_rule": pictures.label_rule}
        pictures = list_manifest(pictures)
    with locked(out):
        plan = open_plan(out, pictures, settings, source, part_size)
        damaged: dict[int, list[tuple[int, str]]] = {}
        for number in track(range(plan.parts), plan.parts, "checking finished parts", "parts"):
            found = plan.damaged(number)
            if found is not None and (on_error == "skip" or not found):
                damaged[number] = found
        waiting = [number for number in range(plan.parts) if number not in damaged]
        skipped = sum(len(plan.part(number)) for number in damaged)
        if skipped:
            log.info("%d of %d parts are finished.", len(damaged), plan.parts)
        if waiting:
            (out / MERGED).unlink(missing_ok=True)
            with _ended_by_signals(), closing(_scored(plan, waiting, content, workers, column)) as parts:
                for number, scored in parts:
                    plan.write(number, scored)
                    damaged[number] = scored.damaged
        lost = write_damaged(plan, damaged)
        if lost and on_error == "stop":
            raise UserError(
                f"{lost} of {len(pictures)} pictures cannot be read; they are listed there.",
                file=out / DAMAGED,
                remedy="Mend them and give the same command again, or leave them out with --on-error skip: "
                "the others are not scored again.",
            )
        if lost:
            log.warning("left out %d of %d pictures that cannot be read: %s", lost, len(pictures), out / DAMAGED)
        return Outcome(merge(plan), len(pictures) - lost, lost, skipped)


def _scored(
    plan: Plan, parts: list[int], model: Model, workers: Workers, column: str | None
) -> Generator[tuple[int, Scored], None, None]:
    """The parts as they are finished, in any order, each once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = workers.count or max(1, cores // workers.threads)
    gpus = _gpus_here(workers)
    size = sum(len(content) for content in model.files.values()) + plan.pictures.estimated_size()
    cpus, store = count * workers.threads, 2 * int(size)
    with ray_session(workers.address, cpus=cpus, gpus=gpus * count, store_bytes=store) as ray:
        count, gpus = _shares(ray, workers, count)
        total = sum(len(plan.part(number)) for number in parts)
        work = _run(ray, plan, parts, model, Workers(count, workers.threads, gpus), column)
        what = f"scoring pictures, {count} worker{'s' * (count > 1)}"
        # Closed before Ray is: what Ray Data does at its end needs the cluster.
        with progress(total, what) as bar, closing(work) as results:
            for number, scored in results:
                yield number, scored
                bar.advance(len(plan.part(number)))


def _run(
    ray: Any, plan: Plan, parts: list[int], model: Model, workers: Workers, column: str | None
) -> Generator[tuple[int, Scored], None, None]:
    reference = ray.put(model)
    work = Work(reference, workers.threads, bool(workers.gpus), column, uuid.uuid4().hex)
    units = []
    for number in parts:
        pictures = plan.part(number)
        content = pickle.dumps((pictures["address"].to_list(), pictures["row"].to_list()))
        units.append({"part": number, "pictures": content})
    dataset = ray.data.from_items(units, override_num_blocks=len(units)).map_batches(
        Scorer,
        fn_constructor_args=(work,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers.count or 1, len(parts)), max_tasks_in_flight_per_actor=2),
        num_cpus=workers.threads,
        num_gpus=workers.gpus,
        runtime_env={"env_vars": ONE_ARENA},
    )
    done: set[int] = set()
    with closing(_explained(ray, dataset.iter_rows(), done, plan, parts)) as rows:
        for row in rows:
            number = int(row["part"])
            assert number not in done, "a part came back twice"
            done.add(number)
            scored: Scored | str = pickle.loads(row["scored"])  # noqa: S301 - from our own workers
            if isinstance(scored, str):
                raise UserError(scored, remedy=AGAIN)
            yield number, scored
    assert done == set(parts), "a part did not come back"


def _explained(
    ray: Any, rows: Iterable[Any], done: set[int], plan: Plan, parts: list[int]
) -> Generator[Any, None, None]:
    """The rows; what goes wrong among the workers becomes a UserError."""
    try:
        yield from rows
    except ray.exceptions.RayTaskError:  # a fault of the program; Ray's message holds the worker's traceback
        raise
    except ray.exceptions.RayError as error:
        left = [number for number in parts if number not in done]
        first = plan.part(left[0])["id"][0] if left else ""
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the cluster gave up ({reason}). Unfinished: {len(left)} parts, from picture {first}.", remedy=AGAIN
        ) from None


def _gpus_here(workers: Workers) -> float:
    """GPUs of each worker of a cluster on this machine."""
    if workers.gpus is not None or workers.address:
        return workers.gpus or 0
    import torch

    return float(torch.cuda.is_available())


def _shares(ray: Any, workers: Workers, count: int) -> tuple[int, float]:
    """Number of workers, and GPUs of each, for the cluster as it is."""
    there = ray.cluster_resources()
    gpus = workers.gpus if workers.gpus is not None else float(there.get("GPU", 0) > 0)
    if workers.count is None and workers.address:
        room = there.get("CPU", 0) // workers.threads
        count = max(1, int(min(room, there.get("GPU", 0) // gpus) if gpus else room))
    if count * workers.threads > there.get("CPU", 0) or count * gpus > there.get("GPU", 0):
        log.warning(
            "the cluster has %g cores and %g GPUs for %d workers of %d threads and %g GPUs: some will wait.",
            there.get("CPU", 0), there.get("GPU", 0), count, workers.threads, gpus,
        )  # fmt: skip
    return count, gpus


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """While open, SIGINT and SIGTERM end the work at once, as Interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def stop(signum: int, _: FrameType | None) -> NoReturn:
        seen.append(signum)
        raise KeyboardInterrupt

    former = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        if seen:
            raise Interrupted(seen[0]) from None
        raise
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
