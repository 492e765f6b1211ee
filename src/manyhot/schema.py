"""The JSON schema of recipes, the named parts included, and their reference for people."""

from __future__ import annotations

import json
from typing import Any

from manyhot.data.crops import crops
from manyhot.data.transforms import augmentations
from manyhot.models.crop_pooling import crop_poolings
from manyhot.models.detectors import detectors
from manyhot.models.localizer import localizers
from manyhot.models.pooling import poolings
from manyhot.models.weight_standardization import standardizations
from manyhot.recipe import Recipe
from manyhot.registry import Registry
from manyhot.training.losses import losses
from manyhot.training.mixing import mixes
from manyhot.training.optimizers import optimizers
from manyhot.training.schedules import schedules
from manyhot.training.solvers import solvers

REGISTRIES: dict[str, Registry[Any]] = {
    "input.crops": crops,
    "input.augment": augmentations,
    "model.weight_standardization": standardizations,
    "model.localizer": localizers,
    "model.pooling": poolings,
    "model.crop_pooling": crop_poolings,
    "model.detector": detectors,
    "loss": losses,
    "optimizer": optimizers,
    "schedule": schedules,
    "training.mix": mixes,
    "training.solver": solvers,
    "evaluation.crops": crops,
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
        default = (target.get("default") or {}).get("name")
        null = [{"type": "null"}] if _may_be_null(target) else []
        target.pop("type", None)
        parts = [_part_schema(one, part, needs_name=one != default) for one, part in registry]
        target["anyOf"] = [{"enum": [one for one, _ in registry]}, *parts, *null]
    return schema


def _part_schema(name: str, part: Any, *, needs_name: bool) -> dict[str, Any]:
    schema: dict[str, Any] = part.model_json_schema()
    schema["properties"] = {"name": {"const": name}, **schema.get("properties", {})}
    schema["required"] = [*(["name"] if needs_name else []), *schema.get("required", [])]
    return schema


def recipe_reference() -> str:
    """Every key of a recipe, every part and every setting, in Markdown; docs/recipes.md holds this text."""
    schema = Recipe.model_json_schema()
    sections = {
        name: value["$ref"].rsplit("/", 1)[1] for name, value in schema["properties"].items() if "$ref" in value
    }
    top = {**schema, "properties": {k: v for k, v in schema["properties"].items() if k not in sections}}
    blocks = ["## Outside the sections", _setting_table(top)]
    for name, definition in sections.items():
        blocks += [f"## {name}", _setting_table(schema["$defs"][definition], f"{name}.")]
    first: dict[Registry[Any], str] = {}
    for key, registry in REGISTRIES.items():
        blocks.append(f"## Parts for {key}")
        if first.setdefault(registry, key) != key:
            blocks.append(f"Those for `{first[registry]}`.")
            continue
        for name, part in registry:
            described = part.model_json_schema()
            blocks += [f"### {name}", (part.__doc__ or "").partition("\n")[0]]
            blocks += [_setting_table(described)] if described.get("properties") else ["No settings."]
    return "\n\n".join(blocks) + "\n"


def _setting_table(schema: dict[str, Any], prefix: str = "") -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, value in schema["properties"].items():
        key = prefix + name
        kind = _describe_part(value) if key in REGISTRIES else _describe_values(value)
        default = "required" if name in schema.get("required", []) else f"`{_as_yaml(value['default'])}`"
        rows.append(f"| `{key}` | {kind} | {default} | {value['description']} |")
    return "\n".join(rows)


def _describe_part(value: dict[str, Any]) -> str:
    parts = "parts" if "items" in value else "part or `null`" if _may_be_null(value) else "part"
    return f"{parts}, see below"


def _may_be_null(value: dict[str, Any]) -> bool:
    return {"type": "null"} in value.get("anyOf", ())


def _describe_values(value: dict[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    if "anyOf" in value:
        return " or ".join(_describe_values(way) for way in value["anyOf"])
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if "prefixItems" in value:
        return f"{len(value['prefixItems'])} values: {_describe_values(value['prefixItems'][0])}"
    if value["type"] == "array":
        return f"list: {_describe_values(value['items'])}"
    bounds = [f"{sign} {value[keyword]}" for keyword, sign in _BOUNDS.items() if keyword in value]
    return " ".join([_KINDS[value["type"]], ", ".join(bounds)]).rstrip()


def _as_yaml(default: Any) -> str:
    """A default as a recipe would say it; a part without settings is its name."""
    if isinstance(default, dict) and set(default) == {"name"}:
        default = default["name"]
    return default if isinstance(default, str) and default else json.dumps(default)


_KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true`, `false`",
    "null": "`null`",
}
_BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "a multiple of",
}
