"""The docs are complete: every verb, option, key, part, file and recipe has its line; every link leads somewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import manyhot
from manyhot.cli import app
from manyhot.recipe import Recipe, shipped
from manyhot.schema import REGISTRIES, recipe_reference
from manyhot.training.tracking import _TAGS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The page of each verb, and the verb; the program itself is `manyhot`."""
    members = getattr(command, "commands", {})
    if not path or not members:
        yield "-".join(path) or "manyhot", command
    for name, member in members.items():
        yield from commands(member, (*path, name))


VERBS = dict(commands(typer.main.get_command(app)))


def names(parameter: Any) -> list[str]:
    """What a page calls a parameter: options by their flags, arguments by their name in capitals."""
    if parameter.param_type_name == "argument":
        return [(parameter.metavar or parameter.name).upper()]
    return [*parameter.opts, *parameter.secondary_opts]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_its_row_and_every_row_its_option(verb):
    page = (DOCS / "cli" / f"{verb}.md").read_text(encoding="utf-8")
    options = page.partition("| argument or option |")[2] or page.partition("| option |")[2]
    rows = re.findall(r"^\| `(\S+?)[ `]", options.partition("\n\n")[0], re.MULTILINE)
    assert sorted(rows) == sorted([*(name for one in VERBS[verb].params for name in names(one)), "--help"])
    title = verb if verb == "manyhot" else f"manyhot-{verb}"
    assert page.partition("\n")[0].replace(" ", "-") == f"#-{title}"  # "data show" and "find-lr" alike


def test_every_verb_is_listed_and_no_page_lacks_a_verb():
    assert sorted(page.stem for page in (DOCS / "cli").glob("*.md")) == sorted(VERBS)
    listed = {page: page.read_text(encoding="utf-8") for page in (ROOT / "README.md", DOCS / "index.md")}
    missing = [(page.name, verb) for page, text in listed.items() for verb in VERBS if f"cli/{verb}.md)" not in text]
    assert missing == [("README.md", "manyhot")]


def test_the_recipe_reference_is_what_the_package_prints():
    text = (DOCS / "recipes.md").read_text(encoding="utf-8")
    between = text.partition("<!-- reference begins -->\n")[2].partition("<!-- reference ends -->")[0]
    assert between.strip() == recipe_reference().strip(), "put there what `manyhot recipes --reference` prints"


def test_the_recipe_reference_names_every_key_part_and_setting():
    text = recipe_reference()
    for name, field in Recipe.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        for key, one in {f"{name}.{key}": one for key, one in inner.items()}.items() if inner else [(name, field)]:
            assert f"| `{key}` |" in text
            assert one.description, key
            assert one.description in text, key
    described = {registry: key for key, registry in reversed(REGISTRIES.items())}
    for registry, key in described.items():
        parts = text.partition(f"\n## Parts for {key}\n")[2].partition("\n## ")[0]
        for name, part in registry:
            section = parts.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
            assert section.strip(), (key, name)
            assert [one for one in part.model_fields if f"| `{one}` |" not in section] == [], (key, name)


def test_every_shipped_recipe_is_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in shipped() if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        assert place.is_relative_to(ROOT), target
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), target


def anchors(markdown: str) -> set[str]:
    """The anchors of headings: letters, digits, hyphens and underscores of the text in small letters."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_on_the_map():
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = [page.relative_to(DOCS).as_posix() for page in sorted(DOCS.rglob("*.md")) if page.stem != "index"]
    assert [page for page in pages if f"({page})" not in text] == []


@pytest.fixture(scope="module")
def run(tiny_recipe: Path, tiny_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, trained and evaluated."""
    out = tmp_path_factory.mktemp("docs") / "run"
    changes = ["training.epochs=1", "training.freeze_epochs=0"]
    manyhot.train(manyhot.load_recipe(str(tiny_recipe), changes), manyhot.open_source(str(tiny_table)), out)
    manyhot.evaluate(out)
    manyhot.localize(out)
    return out


def test_what_a_run_leaves_is_documented(run):
    concepts = (DOCS / "concepts.md").read_text(encoding="utf-8")
    for file in (path for path in sorted(run.rglob("*")) if path.is_file()):
        path = re.sub("^(evaluation|localization)/val/", r"\1/SPLIT/", file.relative_to(run).as_posix())
        known = [path, *(f"{parent.as_posix()}/" for parent in Path(path).parents)]
        assert any(f"`{one}`" in concepts for one in known), path

    training = (DOCS / "training.md").read_text(encoding="utf-8")
    line = json.loads((run / "history.jsonl").read_text(encoding="utf-8"))
    assert [name for name in (*line, *_TAGS, "loss/step", "AP/CLASS") if f"`{name}`" not in training] == []

    measures = (DOCS / "metrics.md").read_text(encoding="utf-8")
    metrics = json.loads((run / "evaluation" / "val" / "metrics.json").read_text(encoding="utf-8"))
    assert [key for key in metrics if f"`{key}`" not in measures] == []

    measures = (DOCS / "localization.md").read_text(encoding="utf-8")
    metrics = json.loads((run / "localization" / "val" / "metrics.json").read_text(encoding="utf-8"))
    inner = [*metrics["pointing"], *metrics["detection"], *metrics["classes"][0], *metrics["baselines"]]
    assert [key for key in [*metrics, *inner] if f"`{key}`" not in measures] == []
