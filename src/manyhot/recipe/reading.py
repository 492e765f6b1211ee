"""Recipes from YAML and from the package, and what the command line sets in them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from manyhot.errors import UserError, nearest
from manyhot.recipe.sections import Recipe
from manyhot.registry import explain


def shipped() -> dict[str, str]:
    """The recipes of the package: name → YAML text, with its head comment."""
    folder = resources.files("manyhot") / "recipes"
    return {
        entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".yaml")
    }


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """Read a shipped recipe or a YAML file and apply `a.b=c` overrides (values are read as YAML).

    Raises:
        UserError: no such recipe, YAML that does not parse, an unknown key or a bad value.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise UserError("there is no such recipe file.", file=path)
        try:
            text, origin = path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise UserError(f"this is not UTF-8 text ({error.reason} at byte {error.start}).", file=path) from None
    else:
        known = shipped()
        if name_or_path not in known:
            raise UserError(
                f"there is no recipe '{name_or_path}'.",
                remedy=f"{nearest(name_or_path, known)} A recipe file ends in .yaml.",
            )
        text, origin = known[name_or_path], f"recipe {name_or_path}"
    return parse_recipe(text, origin, overrides)


def parse_recipe(text: str, origin: str, overrides: list[str] | None = None) -> Recipe:
    """A recipe from YAML text; `origin` names it in messages."""
    tree = _parse_yaml(text, origin)
    if not isinstance(tree, dict):
        raise UserError("a recipe is a mapping of keys to values.", file=origin)
    for override in overrides or []:
        apply_override(tree, override)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(explain(error, Recipe), file=origin) from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every key written out; `parse_recipe` reads it back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set `a.b=c` in a tree of mappings, in place.

    Naming another part (`optimizer.name=adam`, or `optimizer=adam`) drops the settings of the former one.

    Raises:
        UserError: no `=`, or a path through a value that is not a mapping.
    """
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {override}: write key=value, for example training.epochs=5.")
    node = tree
    for depth, key in enumerate(keys[:-1]):
        child = node.setdefault(key, {})
        if isinstance(child, str):  # a part written as its bare name
            child = node[key] = {"name": child}
        if not isinstance(child, dict):
            raise UserError(f"--set {override}: '{'.'.join(keys[: depth + 1])}' holds a value, not keys.")
        node = child
    value = _parse_yaml(text, f"--set {override}")
    if keys[-1] == "name" and len(keys) > 1 and node.get("name") != value:
        node.clear()
    node[keys[-1]] = value


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "this is not YAML"
        raise UserError(f"{problem}.", file=origin, line=mark.line + 1 if mark else None) from None
    except (ValueError, RecursionError) as error:  # a date that is none, or nesting without end
        raise UserError(f"this is not YAML ({error}).", file=origin) from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but for a key that is written twice: it is an error, not the end of the first one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"the key '{key.value}' is written twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node
