"""From the name of a picture to its crops, in this process or in others; without torch, but for what resizes by it."""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manyhot.data.images import DamagedImage, EncodedPicture, open_image
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms import Augmentation, augment

log = logging.getLogger("manyhot")

AUGMENT = 2
"""The stream of randomness of augmentation: the first number after the seed."""

Views = list[NDArray[np.uint8]]
"""uint8 [H, W, 3] of each crop of a picture."""

Item = tuple[int, Views | str]
"""(index, crops), or (index, reason) for a damaged picture."""

Request = tuple[str, int, int]
"""File, epoch and number of a picture: see `Decoder`."""


@dataclass(frozen=True)
class Decoder:
    """How a picture becomes crops: a function of its file, the epoch and its number.

    Arguments:
        preprocessing: of every picture.
        augment: parts that change it in training.
        seed: of the augmentation.
    """

    preprocessing: Preprocessing
    augment: tuple[Augmentation, ...] = ()
    seed: int = 0

    def decode(self, path: str | Path | EncodedPicture, epoch: int, number: int) -> Views | str:
        """Its crops, or the reason why it cannot be read.

        Arguments:
            path: an image file, one that lies in memory, or a picture of a store.
            epoch: counted from 0; -1 asks for the picture without augmentation.
            number: that its augmentation depends on.
        """
        try:
            image = open_image(path)
        except DamagedImage as damage:
            return damage.reason
        if self.augment and epoch >= 0:
            rng = np.random.default_rng([self.seed, AUGMENT, epoch, number])
            views = augment(image, self.augment, rng, self.preprocessing)
        else:
            views = self.preprocessing.views(image)
        return [np.asarray(view) for view in views]


class DecodingProcesses:
    """Processes that decode the pictures of batches into memory shared with this one.

    A picture of a store takes a fifth of a millisecond, much of it in Python, whose lock lets two threads do little
    more than one. The processes are programs of their own, so a script needs no guard of its main part, and end when
    this one does, however it ends. They need a second or two to start; what they cannot do is left to the caller.

    Arguments:
        decoder: of the pictures.
        count: of processes.
        shape: [V, H, W, 3] of the crops of a picture; pictures with others are left to the caller.
        pictures: that a batch has at most; of larger ones the rest is left to the caller.
        slots: batches that there is room for: those that are asked for, and those collected that are still in use.
    """

    def __init__(self, decoder: Decoder, count: int, shape: tuple[int, ...], pictures: int, slots: int) -> None:
        self._pictures = pictures
        self._free = deque(range(slots))
        self._asked: deque[tuple[int, int]] = deque()
        self._awaited = set(range(count))
        self._fallen = False
        file = _shared_file(slots * pictures * int(np.prod(shape)))
        self._memory = np.frombuffer(mmap.mmap(file, 0), np.uint8).reshape(slots, pictures, *shape)
        self._workers = [_start(file, pickle.dumps((decoder, shape))) for _ in range(count)]
        os.close(file)

    @property
    def ready(self) -> bool:
        """Whether all have started; they never are once one has failed."""
        try:
            for worker in list(self._awaited):
                if self._workers[worker][1].poll():
                    self._workers[worker][1].recv()
                    self._awaited.remove(worker)
        except (OSError, EOFError):
            self._fall()
        return not self._awaited and not self._fallen

    def ask(self, requests: Sequence[Request]) -> bool:
        """Have the next batch decoded; False where there is no room left."""
        if not self._free:
            return False
        slot, here = self._free.popleft(), requests[: self._pictures]
        self._asked.append((slot, len(requests)))
        try:
            for (_, connection), (start, end) in zip(self._workers, self._shares(len(here)), strict=True):
                connection.send((slot * self._pictures + start, here[start:end]))
        except OSError:
            self._fall()
        return True

    def collect(self) -> NDArray[np.uint8] | list[Views | str | None]:
        """The batch that was asked for first.

        Returns:
            uint8 [B, V, H, W, 3] in shared memory, which is used again when the array is dropped; or, for each picture
            its crops, the reason of its damage, or None where it is left to the caller: all of them where a process has
            ended.
        """
        slot, count = self._asked.popleft()
        block = self._memory[slot, :count]
        weakref.finalize(block, self._free.append, slot).atexit = False
        answers: list[bool | str | None] = []
        try:
            for _, connection in self._workers:
                answers.extend(connection.recv())
        except (OSError, EOFError):
            self._fall()
        answers.extend([None] * (count - len(answers)))
        if all(answer is True for answer in answers):
            return block
        return [list(block[row].copy()) if isinstance(answer, bool) else answer for row, answer in enumerate(answers)]

    def drain(self) -> None:
        """Wait for what was asked for, and drop it."""
        while self._asked:
            self.collect()

    def _fall(self) -> None:
        """Once one has ended, the others are of no use."""
        if not self._fallen:
            log.warning("a process that decodes pictures has ended; threads go on in its place")
        self.close()

    def close(self) -> None:
        """End the processes."""
        self._fallen = True
        for process, connection in self._workers:
            connection.close()
            process.kill()
            process.wait()

    def _shares(self, count: int) -> list[tuple[int, int]]:
        workers = len(self._workers)
        return [(count * one // workers, count * (one + 1) // workers) for one in range(workers)]


def can_start_processes() -> bool:
    """Whether this system can start processes with open files of this one; Windows cannot."""
    return os.name == "posix" and bool(sys.executable)


def _shared_file(size: int) -> int:
    """An open file without a name, in memory where the system has such: it ends with the processes that hold it."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("manyhot", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.truncate(file, size)
    return file


def _start(memory: int, settings: bytes) -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = Pipe()
    lines = [
        "import sys",
        f"sys.path[:] = {sys.path!r}",
        "from manyhot.processor import prepare_processor",
        "prepare_processor()",  # before torch is loaded
        "from manyhot.data.decoding_processes import work",
        "work(*map(int, sys.argv[1:]))",
    ]
    process = subprocess.Popen(  # noqa: S603 - this program, with our own words
        [sys.executable, "-c", "\n".join(lines), str(theirs.fileno()), str(memory)],
        pass_fds=(theirs.fileno(), memory),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
    )
    theirs.close()
    ours.send_bytes(settings)
    return process, ours


def work(connection_file: int, memory_file: int) -> None:
    """What a process of `DecodingProcesses` does, until the other end closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the one that is spoken to ends the others
    if find_spec("torch"):
        import torch

        torch.set_num_threads(1)
    connection = Connection(connection_file)
    decoder, shape = pickle.loads(connection.recv_bytes())  # noqa: S301 - from the process that started this one
    memory = np.frombuffer(mmap.mmap(memory_file, 0), np.uint8).reshape(-1, *shape)
    serve(connection, decoder, memory)


def serve(connection: Connection, decoder: Decoder, memory: NDArray[np.uint8]) -> None:
    """Answer requests: for each picture True (its crops lie in the memory), the reason of its damage, or None.

    Arguments:
        connection: to the process that asks.
        decoder: of the pictures.
        memory: uint8 [places, V, H, W, 3].
    """
    connection.send(True)
    while True:
        try:
            start, requests = connection.recv()
            places = memory[start : start + len(requests)]
            connection.send([_decode_into(*one, decoder) for one in zip(places, requests, strict=True)])
        except (EOFError, OSError):
            return


def _decode_into(place_VHW3: NDArray[np.uint8], request: Request, decoder: Decoder) -> bool | str | None:
    try:
        found = decoder.decode(*request)
    except Exception:  # noqa: BLE001 - it is done again by the process that asked, and raised there
        return None
    if isinstance(found, str):
        return found
    if len(found) != len(place_VHW3) or any(view.shape != place_VHW3.shape[1:] for view in found):
        return None
    for place, view in zip(place_VHW3, found, strict=True):
        place[...] = view
    return True
