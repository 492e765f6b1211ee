"""Ray, imported, started and ended in silence."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from manyhot.errors import UserError

# Results are small: scores and pictures' addresses. The model is added to it.
_STORE_BYTES = 128 << 20

_LONGEST_FOLDER = 20

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # A thread of Ray Data that outlives the cluster would start another one.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # Ray takes 15 off its workers' priority, so that next to any other program they come to a halt.
    "RAY_worker_niceness": "0",
    # The driver's part in C++ writes warnings about Ray Data's own doings to the terminal.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Ray's way from 2.60 on; without it there is a warning.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def import_ray() -> Any:
    """The package ray, with ray.data.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None:
        raise UserError("--engine ray needs the package ray.", remedy="Install it with: pip install 'manyhot[ray]'.")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own imports and settings
        import ray
        import ray.data

        ray.data.DataContext.get_current()
    return ray


@contextmanager
def ray_session(address: str | None, *, cpus: int, gpus: float, store_bytes: int) -> Iterator[Any]:
    """While open, Ray is there: a connection that is open already, a cluster's, or a cluster on this machine.

    The last is ended with all its processes, and its files removed.

    Arguments:
        address: of a cluster, as `ray.init` takes it; None: this machine.
        cpus: of the cluster on this machine.
        gpus: likewise.
        store_bytes: that will lie in its shared memory.

    Raises:
        UserError: no cluster answers there.
    """
    ray = import_ray()
    with _quiet(ray):
        if ray.is_initialized():
            yield ray
            return
        common = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
        files = None if address else tempfile.mkdtemp(prefix="manyhot-ray-", dir=_short_folder())
        try:
            with warnings.catch_warnings(), _standard_error_closed(), _handlers_kept():
                warnings.simplefilter("ignore")
                if address:
                    _connect(ray, address, common)
                else:
                    ray.init(
                        address="local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, _temp_dir=files,
                        object_store_memory=_STORE_BYTES + store_bytes, **common,
                    )  # fmt: skip
            yield ray
        finally:
            ray.shutdown()
            if files is not None:
                shutil.rmtree(files, ignore_errors=True)


def _short_folder() -> str | None:
    """Where the cluster's files go: names of sockets, which lie among them, are limited to some hundred bytes."""
    usual = tempfile.gettempdir()
    return "/tmp" if len(usual) > _LONGEST_FOLDER and os.access("/tmp", os.W_OK) else usual  # noqa: S108


def _connect(ray: Any, address: str, options: dict[str, Any]) -> None:
    try:
        ray.init(address=address, **options)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"no Ray cluster answers at {address} ({reason}).") from None


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray puts a handler of SIGTERM in place, and leaves it there."""
    former = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, former)


@contextmanager
def _standard_error_closed() -> Iterator[None]:
    """Nothing reaches the terminal: Ray's part in C++ speaks past Python. Errors are exceptions all the same."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Ray says nothing on the terminal; what it writes to its own log files stays."""
    loggers = {name: logging.getLogger(name).level for name in ("ray", "ray.data")}
    context = ray.data.DataContext.get_current()
    settings = {"enable_progress_bars": False, "print_on_execution_start": False}
    former = {name: getattr(context, name) for name in settings}
    worker = ray._private.worker
    printing = getattr(worker, "print_to_stdstream", None)
    try:
        if printing is not None:  # that a worker died, and the like, to standard output
            worker.print_to_stdstream = lambda *_, **__: None
        for name in loggers:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        for name, value in settings.items():
            setattr(context, name, value)
        yield
    finally:
        if printing is not None:
            worker.print_to_stdstream = printing
        for name, value in former.items():
            setattr(context, name, value)
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)
