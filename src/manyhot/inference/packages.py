"""Packages that only some uses need, asked for when they are used."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from types import ModuleType

from manyhot.errors import UserError

EXTRA = 'Install it with: pip install "manyhot[export]"'


def require(name: str, remedy: str = EXTRA) -> ModuleType:
    """A package, imported.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"the package {error.name or name} is not installed.", remedy=remedy) from None


def installed(name: str) -> bool:
    """Whether a package can be found, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def version(name: str) -> str:
    """Of a package; "none" where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"
