"""The JSON schema of recipes, the named parts included."""

from __future__ import annotations

from typing import Any

from manyhot.data.transforms import augmentations
from manyhot.models.pooling import poolings
from manyhot.recipe import Recipe
from manyhot.registry import Registry
from manyhot.training.losses import losses
from manyhot.training.optimizers import optimizers
from manyhot.training.schedules import schedules

REGISTRIES: dict[str, Registry[Any]] = {
    "input.augment": augmentations,
    "model.pooling": poolings,
    "loss": losses,
    "optimizer": optimizers,
    "schedule": schedules,
}
"""The recipe keys that name a part, and the parts that they may name."""


def recipe_schema() -> dict[str, Any]:
    """The schema, for editors that complete and check YAML."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    for key, registry in REGISTRIES.items():
        *section, name = key.split(".")
        properties = schema["$defs"][section[0].capitalize()]["properties"] if section else schema["properties"]
        is_list = "items" in properties[name]
        target = properties[name]["items"] if is_list else properties[name]
        default = None if is_list else target["default"]["name"]
        target.pop("type", None)
        parts = [_part_schema(one, part, needs_name=one != default) for one, part in registry]
        target["anyOf"] = [{"enum": [one for one, _ in registry]}, *parts]
    return schema


def _part_schema(name: str, part: Any, *, needs_name: bool) -> dict[str, Any]:
    schema: dict[str, Any] = part.model_json_schema()
    schema["properties"] = {"name": {"const": name}, **schema.get("properties", {})}
    schema["required"] = [*(["name"] if needs_name else []), *schema.get("required", [])]
    return schema
