"""The processes of one run, as torchrun starts them: which is this, and what they tell each other."""

from __future__ import annotations

import datetime as dt
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from manyhot.errors import Interrupted, UserError
from manyhot.lifeline import connect

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

# That a process has died the lifeline knows at once; a process may well wait for hours for another that extracts.
_PATIENCE = dt.timedelta(days=2)


CONTINUE = "Continue with the same command."
_ECHO_SECONDS, _SAVING_SECONDS = 2.0, 600.0


@dataclass(frozen=True)
class Place:
    """Which of the processes this is.

    Arguments:
        rank: 0…count - 1; process 0 writes and speaks.
        count: of processes.
        local_rank: among those of this machine; it takes the GPU of this number.
        local_count: of processes on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1


_ALONE = Place()
_place = _ALONE


def place() -> Place:
    """Which process this is; of one, unless `joined`."""
    return _place


def is_main() -> bool:
    """Whether this is process 0, which alone writes and speaks."""
    return _place.rank == 0


def launched() -> bool:
    """Whether torchrun, or a launcher that sets its variables, has started more processes than this."""
    names = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
    return names <= os.environ.keys() and int(os.environ["WORLD_SIZE"]) > 1


@contextmanager
def joined() -> Iterator[None]:
    """While open, the processes that torchrun started work as one; does nothing where there is one, or within another.

    A process that fails, or dies, ends all of them; process 0 says why. A UserError of another process than 0 ends
    that one by SystemExit.

    Raises:
        UserError: more processes than GPUs on a machine that has GPUs.
    """
    global _place
    if _place.count > 1 or not launched():
        yield
        return
    import torch.distributed as dist

    found = _from_environment()
    _open_group(found)
    _place = found
    loggers = [logging.getLogger(name) for name in ("manyhot", "manyhot.progress")]
    former = [one.disabled for one in loggers]
    secret = share(secrets.token_hex(16))
    line = connect(found.rank, found.count, os.environ["MASTER_ADDR"], share, secret, CONTINUE)
    try:
        for one in loggers if found.rank else ():
            one.disabled = True
        yield
        dist.destroy_process_group()
        line.leave(0)
    except SystemExit as end:
        line.leave(end.code if isinstance(end.code, int) else 1 if end.code else 0)
        raise
    except UserError as error:
        line.leave(2, str(error))
        if found.rank:
            raise SystemExit(2) from None
        raise
    except Exception as error:
        signum = error.signum if isinstance(error, Interrupted) else None
        # What failed here is often but the echo of another process's end; and it is process 0 that saves.
        if signum is None or found.rank:
            line.await_others(_ECHO_SECONDS if signum is None else _SAVING_SECONDS)
        if signum is None:
            raise
        line.leave(128 + signum)
        if found.rank:
            raise SystemExit(128 + signum) from None
        raise
    finally:
        _place = _ALONE
        for one, disabled in zip(loggers, former, strict=True):
            one.disabled = disabled


def _from_environment() -> Place:
    def number(name: str) -> int:
        return int(os.environ[name])

    local_count = number("LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in os.environ else 1
    return Place(number("RANK"), number("WORLD_SIZE"), number("LOCAL_RANK"), local_count)


def _open_group(found: Place) -> None:
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and found.local_count > gpus:
        if found.local_rank:
            raise SystemExit(2)
        raise UserError(
            f"{found.local_count} processes for {gpus} GPUs: each process takes one.",
            remedy=f"Give torchrun --nproc-per-node {gpus}.",
        )
    if gpus:
        torch.cuda.set_device(found.local_rank)
    # Small things go between the CPUs, so that they never wait for the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_PATIENCE)


def summed(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes, on its device; of one process the tensor itself."""
    if _place.count == 1:
        return tensor
    import torch.distributed as dist

    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def largest(value: int) -> int:
    """The largest of the processes' numbers."""
    if _place.count == 1:
        return value
    import torch
    import torch.distributed as dist

    found = torch.tensor(value)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def gathered(one: T) -> list[T]:
    """What each process gives, in the order of the ranks; any object that can be pickled."""
    if _place.count == 1:
        return [one]
    import torch.distributed as dist

    found: list[Any] = [None] * _place.count
    dist.all_gather_object(found, one)
    return found


def gathered_tensors(tensor: Tensor) -> list[Tensor]:
    """What each process gives, tensors of one shape and dtype, contiguous, in the order of the ranks."""
    if _place.count == 1:
        return [tensor]
    import torch
    import torch.distributed as dist

    found = [torch.empty_like(tensor) for _ in range(_place.count)]
    dist.all_gather(found, tensor)
    return found


def share(one: Any) -> Any:
    """What process 0 gives, in every process."""
    if _place.count == 1:
        return one
    import torch.distributed as dist

    found = [one]
    dist.broadcast_object_list(found, device=_cpu())
    return found[0]


def by_main(work: Callable[[], T]) -> T:
    """What `work` gives in process 0, in every process; the others wait."""
    result: T = share(work() if is_main() else None)
    return result


def wait() -> None:
    """Until every process is here."""
    gathered(None)


@contextmanager
def first_on_machine() -> Iterator[None]:
    """The first process of each machine goes through alone, then the others: they find its caches and downloads."""
    if _place.local_rank:
        wait()
    yield
    if not _place.local_rank:
        wait()


def require_same(digest: str, what: str) -> None:
    """Refuse to go on where another process has other data.

    Raises:
        UserError: in every process.
    """
    found = gathered(digest)
    other = [rank for rank, one in enumerate(found) if one != found[0]]
    if other:
        raise UserError(f"process {other[0]} of {_place.count} has {what} than process 0.")


def _cpu() -> Any:
    import torch

    return torch.device("cpu")
