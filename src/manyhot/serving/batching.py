"""Pictures on their way through the model: decoded by a few threads, scored by one, together with who else waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger("manyhot")

_SMOOTHING = 0.1  # weight of the newest batch in the mean time of a picture


class Full(Exception):  # noqa: N818 - it is no fault of the program
    """There is no place for more pictures.

    Arguments:
        seconds: after which there probably will be.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many pictures wait; try again in {seconds} s.")
        self.seconds = seconds


@dataclass(eq=False)
class _Request:
    """The pictures of one call, answered together."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Any]]
    answers: list[Any]
    missing: int
    gone: bool = False


@dataclass(eq=False)
class _Ticket:
    """One picture: a source, then what was prepared of it."""

    request: _Request
    place: int
    content: Any
    alone: Callable[[Any], Any] | None = None
    ready: float = field(default=0.0)


class Batcher(Generic[S, T, R]):
    """Threads that prepare sources, and one thread that runs the model on as many as are prepared.

    A batch begins as soon as the model is free, with what is prepared. It waits for more only while others are being
    prepared, and no longer than `max_wait` after its first one was ready: one that comes alone does not wait.

    Arguments:
        prepare: from a source to what `run` takes, in any thread; what it raises is the answer of this source.
        run: answers of several, in their order; called in one thread, never twice at a time.
        max_batch: as many at a time.
        max_wait: seconds that a prepared one waits for others while the model is free.
        max_inside: as many are taken in; further ones are refused.
        threads: that prepare.
        on_batch: told the size of each batch and the seconds that it took.
        on_drop: told of how many the asker had gone before they were run.
    """

    def __init__(
        self,
        prepare: Callable[[S], T],
        run: Callable[[Sequence[T]], Sequence[R]],
        *,
        max_batch: int,
        max_wait: float,
        max_inside: int,
        threads: int,
        on_batch: Callable[[int, float], None] = lambda _size, _seconds: None,
        on_drop: Callable[[int], None] = lambda _number: None,
    ) -> None:
        self._prepare, self._run = prepare, run
        self._max_batch, self._max_wait, self._max_inside = max_batch, max_wait, max_inside
        self._on_batch, self._on_drop = on_batch, on_drop
        self._changed = threading.Condition()  # guards all below
        self._prepared: deque[_Ticket] = deque()
        self._preparing = 0
        self._inside = 0
        self._seconds = 0.0
        self._closed = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._runner = threading.Thread(target=self._work, name="model", daemon=True)
        self._runner.start()

    @property
    def inside(self) -> int:
        """Pictures taken in and not answered yet."""
        return self._inside

    @property
    def waiting(self) -> int:
        """Prepared pictures that wait for the model."""
        return len(self._prepared)

    async def submit(self, sources: Sequence[S]) -> list[R | Exception]:
        """Answers in the order of the sources; an exception where one could not be prepared or run.

        Cancelled, it takes back what the model has not begun.

        Raises:
            Full: there is no place for all of them; none is taken.
        """
        return await self._enter(sources, None)

    async def alone(self, source: S, work: Callable[[T], R]) -> R:
        """`work` of one prepared source, in the model's thread, in its turn.

        Raises:
            Full: there is no place for it. What preparing and working raise.
        """
        (answer,) = await self._enter([source], work)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the threads; what is inside is still answered."""
        self._pool.shutdown(wait=True)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._runner.join()

    async def _enter(self, sources: Sequence[S], alone: Callable[[T], R] | None) -> list[Any]:
        loop = asyncio.get_running_loop()
        request = _Request(loop, loop.create_future(), [None] * len(sources), len(sources))
        tickets = [_Ticket(request, place, source, alone) for place, source in enumerate(sources)]
        with self._changed:
            if self._closed or self._inside + len(tickets) > self._max_inside:
                raise Full(self._seconds_left())
            self._inside += len(tickets)
            self._preparing += len(tickets)
        for ticket in tickets:
            self._pool.submit(self._make_ready, ticket)
        try:
            return await request.future
        except asyncio.CancelledError:
            self._take_back(request)
            raise

    def _seconds_left(self) -> int:
        return min(60, max(1, math.ceil(self._inside * self._seconds)))

    def _take_back(self, request: _Request) -> None:
        with self._changed:
            request.gone = True
            kept = [ticket for ticket in self._prepared if ticket.request is not request]
            dropped = len(self._prepared) - len(kept)
            if dropped:
                self._prepared = deque(kept)
                self._inside -= dropped
        if dropped:
            self._on_drop(dropped)

    def _make_ready(self, ticket: _Ticket) -> None:
        """In a thread of the pool."""
        fault, source, ticket.content = None, ticket.content, None
        gone = ticket.request.gone
        if not gone:
            try:
                ticket.content = self._prepare(source)
            except Exception as error:  # noqa: BLE001 - it is handed to the asker
                fault = error
        with self._changed:
            self._preparing -= 1
            gone = ticket.request.gone
            if gone:
                self._inside -= 1
            elif fault is None:
                ticket.ready = time.monotonic()
                self._prepared.append(ticket)
            self._changed.notify_all()
        if gone:
            self._on_drop(1)
        elif fault is not None:
            self._answer([ticket], [fault])

    def _work(self) -> None:
        """The model's thread."""
        while tickets := self._next():
            start = time.monotonic()
            alone = tickets[0].alone
            try:
                if alone is not None:
                    answers: Sequence[Any] = [alone(tickets[0].content)]
                else:
                    answers = self._run([ticket.content for ticket in tickets])
                    assert len(answers) == len(tickets)
            except Exception as error:
                log.exception("the model failed on %d pictures", len(tickets))
                answers = [error] * len(tickets)
            seconds = time.monotonic() - start
            each = seconds / len(tickets)
            self._seconds += (each - self._seconds) * (_SMOOTHING if self._seconds else 1.0)
            self._on_batch(len(tickets), seconds)
            self._answer(tickets, answers)

    def _next(self) -> list[_Ticket]:
        """The next batch, waited for; empty at the end."""
        with self._changed:
            while True:
                while not self._prepared:
                    if self._closed:
                        return []
                    self._changed.wait()
                left = self._prepared[0].ready + self._max_wait - time.monotonic()
                if self._preparing and left > 0 and self._to_take() < self._max_batch and not self._prepared[0].alone:
                    self._changed.wait(left)
                    continue
                return [self._prepared.popleft() for _ in range(self._to_take())]

    def _to_take(self) -> int:
        """How many of those prepared go together: those before one that goes alone, or that one."""
        for place, ticket in enumerate(self._prepared):
            if place == self._max_batch or ticket.alone is not None:
                return max(1, place)
        return len(self._prepared)

    def _answer(self, tickets: Sequence[_Ticket], answers: Sequence[Any]) -> None:
        complete: dict[asyncio.AbstractEventLoop, list[_Request]] = {}
        with self._changed:
            self._inside -= len(tickets)
            for ticket, answer in zip(tickets, answers, strict=True):
                request = ticket.request
                request.answers[ticket.place] = answer
                request.missing -= 1
                if not request.missing:
                    complete.setdefault(request.loop, []).append(request)
        for loop, requests in complete.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(_deliver, requests)


def _deliver(requests: Sequence[_Request]) -> None:
    for request in requests:
        if not request.future.done():
            request.future.set_result(request.answers)
