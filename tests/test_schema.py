"""The JSON schema of recipes takes what the package takes, and names its parts."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml

from manyhot.errors import UserError
from manyhot.recipe import Recipe, dump_recipe, load_recipe, parse_recipe, shipped
from manyhot.schema import REGISTRIES, recipe_schema

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
ANNOTATIONS = {"title", "description", "default", "$defs", "$schema"}


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str = "") -> list[str]:
    """Why `value` does not follow `schema`: the keywords of JSON Schema that recipes use; any other is a failure."""
    found = []
    for keyword, wanted in schema.items():
        if keyword in ANNOTATIONS or (keyword == "items" and not isinstance(value, list)):
            continue
        match keyword:
            case "$ref":
                found += faults(value, root["$defs"][wanted.rsplit("/", 1)[1]], root, path)
            case "anyOf":
                ways = [faults(value, way, root, path) for way in wanted]
                if all(ways):
                    found.append(f"{path}: none of {ways}")
            case "type":
                ok = isinstance(value, TYPES[wanted]) and (wanted == "boolean" or not isinstance(value, bool))
                found += [] if ok else [f"{path}: {value!r} is no {wanted}"]
            case "enum" | "const":
                found += [] if value in (wanted if keyword == "enum" else [wanted]) else [f"{path}: {value!r}"]
            case "multipleOf":
                ok = not isinstance(value, int) or value % wanted == 0
                found += [] if ok else [f"{path}: {value} is no multiple of {wanted}"]
            case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    ok = {
                        "minimum": value >= wanted,
                        "maximum": value <= wanted,
                        "exclusiveMinimum": value > wanted,
                        "exclusiveMaximum": value < wanted,
                    }[keyword]
                    found += [] if ok else [f"{path}: {value} against {keyword} {wanted}"]
            case "properties":
                if isinstance(value, dict):
                    for key in wanted.keys() & value.keys():
                        found += faults(value[key], wanted[key], root, f"{path}.{key}")
            case "required":
                if isinstance(value, dict):
                    found += [f"{path}: no {key}" for key in wanted if key not in value]
            case "additionalProperties":
                assert wanted in (True, False)
                if isinstance(value, dict) and wanted is False:
                    found += [f"{path}: unknown {key}" for key in value if key not in schema["properties"]]
            case "items":
                for place, item in enumerate(value):
                    found += faults(item, wanted, root, f"{path}[{place}]")
            case "prefixItems":
                if isinstance(value, list):
                    for place, (item, one) in enumerate(zip(value, wanted, strict=False)):
                        found += faults(item, one, root, f"{path}[{place}]")
            case "minItems" | "maxItems":
                if isinstance(value, list):
                    ok = len(value) >= wanted if keyword == "minItems" else len(value) <= wanted
                    found += [] if ok else [f"{path}: {len(value)} items"]
            case _:
                raise AssertionError(f"{path}: this test does not know the keyword {keyword}")
    return found


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads(json.dumps(recipe_schema()))  # it must survive JSON


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_follow_the_schema_as_written_and_as_resolved(schema, name):
    assert faults(yaml.safe_load(shipped()[name]), schema, schema) == []
    assert faults(yaml.safe_load(dump_recipe(load_recipe(name))), schema, schema) == []


@pytest.mark.parametrize("name", shipped())
def test_the_parts_of_shipped_recipes_can_be_built(name):
    recipe = load_recipe(name)
    for key, registry in REGISTRIES.items():
        found: Any = recipe
        for step in key.split("."):
            found = getattr(found, step)
        for setting in found if isinstance(found, tuple) else [found] if found else []:
            assert type(registry.build(setting)) is dict(registry)[setting["name"]]


WRONG = [
    ("model", {"backbone": "preact_resnet", "stages": [[126, 2]]}),
    ("model", {"backbone": "preact_resnet", "stages": [[128, 0]]}),
    ("model", {"backbone": "preact_resnet", "stages": []}),
    ("model", {"backbone": "preact_resnet", "stages": [128, 2]}),
    ("training", {"epochz": 1}),
    ("training", {"epochs": 0}),
    ("training", {"epochs": "many"}),
    ("training", {"mix": "mixin"}),
    ("training", {"mix": {"alpha": 0.2}}),
    ("training", {"mix": {"name": "mixup", "alpha": 0}}),
    ("input", {"fit": "stretch"}),
    ("input", {"mean": [0.1, 0.2]}),
    ("input", {"augment": ["horizontal_flop"]}),
    ("input", {"augment": [{"name": "horizontal_flip", "p": 2}]}),
    ("loss", "bcee"),
    ("loss", {"name": "bce", "reduction": "product"}),
    ("loss", {"alpha": 0.1}),
    ("loss", {"class_weights": "equal"}),
    ("loss", {"name": "asymmetric", "margin": 1}),
    ("optimizer", {"name": "sgd", "momentum": 1}),
    ("optimizer", {"name": "sgd", "beta1": 0.5}),
    ("schedule", 3),
    ("extra", 1),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_schema_and_package_refuse_the_same(schema, key, value):
    tree = {"name": "x", "model": {"backbone": "resnet18"}}
    assert faults(tree, schema, schema) == []
    tree[key] = value
    assert faults(tree, schema, schema) != []
    with pytest.raises(UserError):
        build_all(parse_recipe(yaml.safe_dump(tree), "x"))


def build_all(recipe: Recipe) -> None:
    for setting in recipe.input.augment:
        REGISTRIES["input.augment"].build(setting)
    REGISTRIES["model.pooling"].build(recipe.model.pooling)
    for key in ("loss", "optimizer", "schedule"):
        REGISTRIES[key].build(getattr(recipe, key))
    if recipe.training.mix is not None:
        REGISTRIES["training.mix"].build(recipe.training.mix)


def test_every_registered_part_may_be_named_bare(schema):
    for key, registry in REGISTRIES.items():
        for name, part in registry:
            if any(field.is_required() for field in part.model_fields.values()):
                continue
            tree: dict[str, Any] = {"name": "x", "model": {"backbone": "resnet18"}}
            *section, last = key.split(".")
            place = tree.setdefault(section[0], {}) if section else tree
            for setting in (name, {"name": name}):
                place[last] = [setting] if last == "augment" else setting
                assert faults(copy.deepcopy(tree), schema, schema) == [], (key, name)


def test_no_mix_may_be_written_as_null(schema):
    tree: dict[str, Any] = {"name": "x", "model": {"backbone": "resnet18"}, "training": {"mix": None}}
    assert faults(tree, schema, schema) == []
    assert parse_recipe(yaml.safe_dump(tree), "x").training.mix is None
    tree["loss"] = None
    assert faults(tree, schema, schema) != []
