"""What a worker does: it holds the model, and turns the pictures of a part into scores."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manyhot.atomic import sha256_bytes
from manyhot.errors import UserError
from manyhot.inference.cluster.plan import BATCH, Scored
from manyhot.inference.pictures.fetching import Fetched
from manyhot.models.bundle_config import CONFIG, WEIGHTS
from manyhot.processor import prepare_processor

if TYPE_CHECKING:
    from manyhot.inference.predict import Predictor


@dataclass(frozen=True)
class Model:
    """A model on its way to machines that may not see its files.

    Arguments:
        files: their contents, by name.
        start: the one that names the others; None: the folder of all.
        options: of `manyhot.inference.predict.load`.
    """

    files: Mapping[str, bytes]
    start: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, **options: Any) -> Model:
        """Read the bundle of a run folder, a bundle folder, or an exported file."""
        folder = path / "model" if (path / "model").is_dir() else path
        if folder.is_file():
            files = [
                folder,
                *(one for one in [folder.with_suffix(".bin")] if folder.suffix == ".xml" and one.is_file()),
            ]
        else:  # what else lies there decides about no score
            files = [one for one in (folder / CONFIG, folder / WEIGHTS) if one.is_file()]
        start = folder.name if folder.is_file() else None
        return cls({file.name: file.read_bytes() for file in files}, start, options)

    @property
    def sha256(self) -> str:
        """Of all that decides about scores: each file's name and content, and the options."""
        parts = [f"{name} {sha256_bytes(content)}" for name, content in sorted(self.files.items())]
        return sha256_bytes("\n".join([*parts, repr(sorted(self.options.items()))]).encode())

    def load(self, **options: Any) -> Predictor:
        """The Predictor; `options` are those of this worker."""
        from manyhot.inference.predict import load

        with tempfile.TemporaryDirectory(prefix="manyhot-model-") as name:
            folder = Path(name)
            for file, content in self.files.items():
                (folder / file).write_bytes(content)
            return load(folder if self.start is None else folder / self.start, **{**options, **self.options})


@dataclass(frozen=True)
class Work:
    """What every worker is told.

    Arguments:
        model: a Ray reference to a Model.
        threads: of the network, and as many that decode beside it; one thread does both in turn.
        gpu: whether the worker has one.
        column: of tables, as `list_pictures` was given it.
        run: name of the run, unique in the cluster.
    """

    model: Any
    threads: int
    gpu: bool
    column: str | None
    run: str


ATTEMPTS = 4
"""A worker may die for reasons of its machine; a picture on which one dies again and again must end the run."""


class Scorer:
    """An actor of Ray Data: built once a worker, called once a part."""

    def __init__(self, work: Work) -> None:
        prepare_processor()
        import ray

        model: Model = ray.get(work.model)
        decoders = 0 if work.threads == 1 and not work.gpu else work.threads
        self._predictor = model.load(
            device="cuda" if work.gpu else "cpu", batch_size=BATCH, threads=work.threads, workers=decoders
        )
        self._work = work

    def __call__(self, units: dict[str, Any]) -> dict[str, Any]:
        """Score the pictures of one part.

        Arguments:
            units: `part`, int64 [1], and `pictures`, [1]: addresses and rows as `list_pictures` gives them, pickled.

        Returns:
            `part` likewise, and `scored`, [1]: a Scored, or what a UserError says, pickled.
        """
        (number,), (pictures,) = units["part"], units["pictures"]
        addresses, rows = pickle.loads(pictures)  # noqa: S301 - our own, from the process that started this one
        try:
            with attempt(self._work.run, int(number), addresses[0]):
                scored: Scored | str = score_part(self._predictor, addresses, rows, self._work.column)
        except UserError as error:  # Ray would bring it wrapped in errors of its own
            scored = str(error)
        return {"part": np.array([number]), "scored": np.array([pickle.dumps(scored)], dtype=object)}


def score_part(predictor: Predictor, addresses: list[str], rows: list[int], column: str | None = None) -> Scored:
    """Score pictures as `list_pictures` gives them; those that cannot be read are named."""
    n = len(addresses)
    unknown = np.full((n, len(predictor.classes)), -1, np.int8)
    places = [str(place) for place in range(n)]
    with Fetched(addresses, rows, column) as files:
        predictions, logits = predictor.score(files, places, [""] * n, unknown, {})
    return Scored(predictions, logits.damaged)


@contextmanager
def attempt(run: str, part: int, first: str) -> Iterator[None]:
    """Count a start of a part, where the count outlives the worker: Ray gives a part out again without end.

    Arguments:
        run: name of the run, unique in the cluster.
        part: its number.
        first: its first picture, for the message.

    Raises:
        UserError: it was started ATTEMPTS times, and no worker came to its end.
    """
    from ray.experimental import internal_kv

    key = f"manyhot {run} {part}"
    before = int(internal_kv._internal_kv_get(key) or 0)
    if before >= ATTEMPTS:
        what = f"{ATTEMPTS} workers died while they scored the part that begins with this picture."
        raise UserError(what, file=first, remedy="Give them more memory, or look for the picture that is to blame.")
    internal_kv._internal_kv_put(key, str(before + 1), overwrite=True)
    yield
    internal_kv._internal_kv_del(key)
