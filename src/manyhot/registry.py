"""Named parts: a recipe says a name and its settings, the registry builds the part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from manyhot.errors import UserError, nearest


class Part(BaseModel):
    """Base of every part that a recipe can name; its fields are the keys that the recipe may set."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


P = TypeVar("P", bound=Part)


class Registry(Generic[P]):
    """The parts of one kind, by name.

    A part is a `Part` subclass: its fields, with their types, defaults and descriptions, are what a recipe may write
    beside its name. Adding a part is writing one decorated class; nothing else lists them.

    Arguments:
        kind: what the parts are called in messages, for example "pooling".
        where: the recipe key under which they are named, for example "model.pooling".
    """

    def __init__(self, kind: str, where: str) -> None:
        self.kind = kind
        self.where = where
        self._parts: dict[str, type[P]] = {}

    def register(self, name: str) -> Callable[[type[P]], type[P]]:
        """Class decorator that gives a part its name."""

        def add(part: type[P]) -> type[P]:
            assert name not in self._parts, f"{self.kind} {name} is registered twice"
            self._parts[name] = part
            return part

        return add

    def __iter__(self) -> Iterator[tuple[str, type[P]]]:
        """Names and classes, sorted by name."""
        return iter(sorted(self._parts.items()))

    def name_of(self, part: P) -> str:
        """The name under which a part's class is registered."""
        return next(name for name, known in self._parts.items() if known is type(part))

    def build(self, setting: Mapping[str, Any]) -> P:
        """The part that `{"name": …, key: value, …}` describes.

        Raises:
            UserError: an unknown name, an unknown key (with the nearest known one) or a bad value.
        """
        settings = dict(setting)
        name = settings.pop("name")
        if name not in self._parts:
            raise UserError(f"unknown {self.kind} '{name}' in {self.where}.", remedy=nearest(name, self._parts))
        part = self._parts[name]
        try:
            return part.model_validate(settings)
        except ValidationError as error:
            raise UserError(f"{self.where}, {self.kind} '{name}': {explain(error, part)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """All faults of a validation as one line: key, fault, the value found, and for an unknown key the nearest one."""
    return " ".join(_explain_one(dict(fault), model) for fault in error.errors(include_url=False))


def _explain_one(fault: dict[str, Any], model: type[BaseModel]) -> str:
    *parents, key = fault["loc"] or ("value",)
    path = ".".join(str(part) for part in (*parents, key))
    if fault["type"] == "extra_forbidden":
        return f"unknown key '{path}'. {nearest(str(key), _keys_at(model, parents))}"
    message = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:  # of several keys together, which the message names
        return f"{message}."
    found = f" (found {fault['input']!r})" if fault["type"] != "missing" else ""
    return f"{path}: {message[0].lower() + message[1:]}{found}."


def _keys_at(model: type[BaseModel], parents: list[Any]) -> list[str]:
    """The keys known at the place that `parents` leads to."""
    for parent in parents:
        field = model.model_fields.get(str(parent))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)
