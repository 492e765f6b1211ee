"""Asking for help costs no heavy import, and every public name is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import manyhot

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "pydantic",
    "matplotlib",
    "polars",
    "numpy",
    "PIL",
    "accelerate",
    "sklearn",
    "yaml",
    "fastapi",
    "uvicorn",
}
LOADED = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def loaded(code: str) -> set[str]:
    run = subprocess.run([sys.executable, "-c", f"{code}\n{LOADED}"], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def test_the_package_itself_costs_nothing():
    modules = loaded("import manyhot")
    assert "manyhot" in modules
    assert not modules & (HEAVY | {"typer", "rich"})


def test_the_command_line_waits_with_heavy_imports():
    modules = loaded("import manyhot.cli")
    assert "typer" in modules
    assert not modules & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["data", "--help"], []])
def test_help_imports_nothing_heavy(arguments):
    code = (
        f"import sys; sys.argv = ['manyhot', *{arguments!r}]\n"
        "from manyhot.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, 2, None), end.code\n"
    )
    modules = loaded(code)
    assert "typer" in modules
    # Typer itself imports pydantic before it parses the arguments of a verb.
    assert not modules & (HEAVY - ({"pydantic"} if len(arguments) > 1 else set()))


@pytest.mark.parametrize("name", manyhot.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    assert getattr(manyhot, name).__doc__
    assert name in dir(manyhot)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="trian"):
        manyhot.trian  # noqa: B018
