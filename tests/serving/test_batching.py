"""Who goes through the model together, who waits, who is refused, and who is dropped."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhot.serving.batching import Batcher, Full


def in_a_thread(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it in a thread of its own: the browser's tests leave an event loop at work in the first one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class Model:
    """Doubles numbers; waits at a gate where it is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.inside = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def run(self, numbers):
        self.batches.append(list(numbers))
        self.inside.set()
        self.gate.wait(20)
        if 13 in numbers:
            raise OSError("unlucky")
        return [2 * one for one in numbers]


def prepared(number):
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number


def batcher(model: Model, prepare=prepared, **settings) -> Batcher:
    known = {"max_batch": 4, "max_wait": 0.0, "max_inside": 100, "threads": 2, **settings}
    return Batcher(prepare, model.run, **known)


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@settings(max_examples=30, deadline=None, database=None)
@given(st.lists(st.lists(st.integers(-3, 12), min_size=1, max_size=6), min_size=1, max_size=8), st.integers(1, 5))
def test_everybody_gets_the_answers_to_what_they_asked(calls, most):
    model = Model()
    one = batcher(model, max_batch=most, max_wait=0.001)

    async def ask():
        return await asyncio.gather(*(one.submit(call) for call in calls))

    for call, answers in zip(calls, in_a_thread(ask()), strict=True):
        assert [str(answer) if number < 0 else answer for number, answer in zip(call, answers, strict=True)] == [
            f"{number} is negative" if number < 0 else 2 * number for number in call
        ]
    one.close()
    assert all(1 <= len(batch) <= most for batch in model.batches)
    assert sorted(number for batch in model.batches for number in batch) == sorted(
        number for call in calls for number in call if number >= 0
    )
    assert (one.inside, one.waiting) == (0, 0)


def test_what_comes_while_the_model_is_busy_goes_together_in_its_order():
    model = Model()
    one = batcher(model, threads=1)

    async def ask():
        model.gate.clear()
        first = asyncio.ensure_future(one.submit([0]))
        await until(model.inside.is_set)
        others = [asyncio.ensure_future(one.submit([number])) for number in range(1, 8)]
        await until(lambda: one.waiting == 7)
        model.gate.set()
        return await asyncio.gather(first, *others)

    assert in_a_thread(ask()) == [[2 * number] for number in range(8)]
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]
    one.close()


def test_one_that_comes_alone_does_not_wait_and_one_among_others_does():
    model = Model()
    slow = threading.Event()
    one = batcher(model, lambda number: slow.wait(20) and number if number == 9 else number, max_wait=10.0)

    async def ask():
        start = time.monotonic()
        await one.submit([1])
        assert time.monotonic() - start < 5
        both = asyncio.ensure_future(one.submit([9, 2]))
        await until(lambda: one.waiting == 1)
        await asyncio.sleep(0.05)
        assert model.batches == [[1]]  # 2 waits for 9, which is being prepared
        slow.set()
        return await both

    assert in_a_thread(ask()) == [18, 4]
    assert model.batches == [[1], [2, 9]]
    one.close()


def test_waiting_has_a_bound():
    model, never = Model(), threading.Event()
    one = batcher(model, lambda number: never.wait(20) and number if number == 9 else number, max_wait=0.05)

    async def ask():
        last = asyncio.ensure_future(one.submit([9]))
        await asyncio.sleep(0)  # it is known of before the other comes
        start = time.monotonic()
        assert await one.submit([1]) == [2]
        assert time.monotonic() - start > 0.04
        never.set()
        return await last

    assert in_a_thread(ask()) == [18]
    one.close()


def test_a_full_queue_refuses_and_says_when_to_come_again():
    model = Model()
    one = batcher(model, max_inside=3)

    async def ask():
        model.gate.clear()
        taken = asyncio.ensure_future(one.submit([1, 2]))
        await until(model.inside.is_set)
        with pytest.raises(Full) as refused:
            await one.submit([3, 4])
        assert refused.value.seconds >= 1
        also = asyncio.ensure_future(one.submit([3]))
        await asyncio.sleep(0)
        with pytest.raises(Full):
            await one.submit([4])
        model.gate.set()
        assert await taken == [2, 4]
        assert await also == [6]
        return await one.submit([4, 5, 6])

    assert in_a_thread(ask()) == [8, 10, 12]
    one.close()


def test_pictures_of_those_who_left_are_dropped():
    model, dropped = Model(), []
    one = batcher(model, on_drop=dropped.append)

    async def ask():
        model.gate.clear()
        first = asyncio.ensure_future(one.submit([1]))
        await until(model.inside.is_set)
        leaves, stays = asyncio.ensure_future(one.submit([2, 3])), asyncio.ensure_future(one.submit([4]))
        await until(lambda: one.waiting == 3)
        leaves.cancel()
        await until(lambda: one.waiting == 1)
        assert one.inside == 2
        model.gate.set()
        assert await asyncio.gather(first, stays) == [[2], [8]]
        with pytest.raises(asyncio.CancelledError):
            await leaves

    in_a_thread(ask())
    assert model.batches == [[1], [4]]
    assert sum(dropped) == 2
    one.close()


def test_a_fault_of_the_model_is_told_to_those_in_the_batch_alone(caplog):
    model = Model()
    one = batcher(model, max_batch=1)

    async def ask():
        return await asyncio.gather(one.submit([13]), one.submit([1]), one.alone(5, lambda number: -number))

    (bad,), good, alone = in_a_thread(ask())
    assert isinstance(bad, OSError)
    assert (good, alone) == ([2], -5)
    one.close()


def test_what_goes_alone_goes_alone():
    model = Model()
    one = batcher(model, threads=1)

    async def ask():
        model.gate.clear()
        first = asyncio.ensure_future(one.submit([0]))
        await until(model.inside.is_set)
        rest = [
            asyncio.ensure_future(call)
            for call in (one.submit([1]), one.submit([2]), one.alone(7, lambda n: n + 1), one.submit([3]))
        ]
        await until(lambda: one.waiting == 4)
        model.gate.set()
        with pytest.raises(ValueError, match="negative"):
            await one.alone(-1, lambda n: n)
        return await asyncio.gather(first, *rest)

    assert in_a_thread(ask()) == [[0], [2], [4], 8, [6]]
    assert model.batches == [[0], [1, 2], [3]]
    one.close()
