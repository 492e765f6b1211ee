"""Named parts: a setting builds the part it names, or says what is wrong with it."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manyhot.errors import UserError
from manyhot.registry import Part, Registry, explain


@pytest.fixture
def shapes() -> Registry[Part]:
    registry: Registry[Part] = Registry("shape", "drawing.shape")

    @registry.register("square")
    class Square(Part):
        side: float = Field(1.0, gt=0)

    @registry.register("circle")
    class Circle(Part):
        radius: float
        filled: bool = False

    return registry


def test_a_setting_becomes_the_part_it_names(shapes):
    part = shapes.build({"name": "circle", "radius": "2e-1"})
    assert (part.radius, part.filled) == (0.2, False)
    assert type(part) is dict(shapes)["circle"]


def test_a_part_knows_its_name_again(shapes):
    for name, part in shapes:
        assert shapes.name_of(part.model_construct()) == name


def test_building_leaves_the_setting_alone(shapes):
    setting = {"name": "square", "side": 2}
    assert shapes.build(setting).side == 2
    assert setting == {"name": "square", "side": 2}


def test_names_come_sorted(shapes):
    assert [name for name, _ in shapes] == ["circle", "square"]


def test_a_name_is_given_once(shapes):
    with pytest.raises(AssertionError, match="square is registered twice"):
        shapes.register("square")(Part)


@pytest.mark.parametrize(
    ("setting", "words_in_message"),
    [
        ({"name": "sqare"}, ["unknown shape 'sqare'", "drawing.shape", "Did you mean 'square'?", "circle, square"]),
        ({"name": "square", "sides": 1}, ["unknown key 'sides'", "Did you mean 'side'?"]),
        ({"name": "square", "side": 0}, ["drawing.shape", "'square'", "side", "greater than 0", "found 0"]),
        ({"name": "square", "side": float("inf")}, ["side", "finite"]),
        ({"name": "square", "side": float("nan")}, ["side", "finite"]),
        ({"name": "circle"}, ["radius: field required"]),
        ({"name": "circle", "radius": "wide", "filled": 7}, ["radius", "'wide'", "filled", "7"]),
        ({"name": "circle", "radius": 1, 3: 4}, ["keys should be strings"]),
    ],
)
def test_faults_are_named(shapes, setting, words_in_message):
    with pytest.raises(UserError) as caught:
        shapes.build(setting)
    for words in words_in_message:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_deep_down_is_compared_with_the_keys_of_its_place():
    class Inner(BaseModel):
        model_config = ConfigDict(extra="forbid")
        length: int = 0

    class Outer(BaseModel):
        model_config = ConfigDict(extra="forbid")
        inner: Inner = Inner()
        lengths: int = 0

    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": {"lenght": 3}})
    assert explain(caught.value, Outer) == "unknown key 'inner.lenght'. Did you mean 'length'? Known: length."
