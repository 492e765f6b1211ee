"""Recipes: what is written is what is run, and a slip of the pen says where it is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhot.errors import UserError, nearest
from manyhot.recipe import Recipe, apply_override, dump_recipe, load_recipe, parse_recipe, shipped

LEAST = "name: least\nmodel: {backbone: resnet18}\n"

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
settings_of_a_part = st.dictionaries(
    st.text("abcdefg_", min_size=1, max_size=6).filter(lambda key: key != "name"),
    st.one_of(
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        words,
        st.none(),
        st.lists(st.integers()),
    ),
    max_size=3,
)
parts = st.builds(lambda name, rest: {"name": name, **rest}, words, settings_of_a_part)


@settings(deadline=None, max_examples=60)
@given(
    name=words,
    description=words,
    seed=st.integers(0, 2**31 - 1),
    loss=parts,
    augment=st.lists(parts, max_size=3),
    mean=st.none() | st.tuples(*[st.floats(0, 1)] * 3),
    beta=st.floats(0, exclude_min=True, allow_infinity=False),
    train_split=words,
)
def test_a_dumped_recipe_reads_back_as_itself(name, description, seed, loss, augment, mean, beta, train_split):
    recipe = Recipe.model_validate(
        {
            "name": name,
            "description": description,
            "seed": seed,
            "model": {"backbone": name},
            "loss": loss,
            "input": {"augment": augment, "mean": mean},
            "evaluation": {"beta": beta},
            "data": {"train_split": train_split},
        }
    )
    assert parse_recipe(dump_recipe(recipe), "dump") == recipe


def test_a_dump_writes_out_every_key():
    tree = yaml.safe_load(dump_recipe(parse_recipe(LEAST, "least")))
    assert tree["training"]["epochs"] == 10
    assert tree["loss"] == {"name": "bce"}
    assert set(tree) == set(Recipe.model_fields)


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_load_and_say_how_to_run_them(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    head = shipped()[name].split("name:")[0]
    assert f"manyhot train {name} " in head


def test_a_file_is_read_like_a_shipped_recipe(tmp_path: Path):
    name, text = next(iter(shipped().items()))
    file = tmp_path / "mine.yml"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_recipe(str(file)) == load_recipe(name)


def test_numbers_written_as_people_write_them():
    text = LEAST + "optimizer: {name: sgd, lr: 1e-3}\nevaluation: {beta: 5e-1}\n"
    assert parse_recipe(text, "x").evaluation.beta == 0.5


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["training.epochs=3"], {"training.epochs": 3}),
        (["input.augment=[horizontal_flip, {name: rotation, degrees: 5}]"], {"input.augment": 2}),
        (["input.mean=[0.1, 0.2, 0.3]"], {"input.mean": (0.1, 0.2, 0.3)}),
        (["training.grad_clip=1.5", "training.grad_clip=null"], {"training.grad_clip": None}),
        (["name=a=b"], {"name": "a=b"}),
        (["optimizer.momentum=0.5"], {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.5}}),
        (["optimizer.name=adam"], {"optimizer": {"name": "adam"}}),
        (["optimizer=adam"], {"optimizer": {"name": "adam"}}),
        (["optimizer.name=sgd"], {"optimizer": {"name": "sgd", "lr": 0.1}}),
        (["loss.reduction=sum"], {"loss": {"name": "bce", "reduction": "sum"}}),
        (["loss.name=other", "loss.rate=.1"], {"loss": {"name": "other", "rate": 0.1}}),
    ],
)  # fmt: skip
def test_overrides(overrides, wanted):
    recipe = parse_recipe(LEAST + "optimizer: {name: sgd, lr: 0.1}\nloss: bce\n", "x", overrides)
    for key, value in wanted.items():
        found = recipe
        for part in key.split("."):
            found = getattr(found, part)
        assert (len(found) if key == "input.augment" else found) == value


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4), st.integers())
def test_an_override_sets_one_leaf_and_nothing_else(path, value):
    tree = {"a": {"b": {"kept": 1}, "kept": 2}, "kept": 3}
    apply_override(tree, f"{'.'.join(path)}={value}")
    node = tree
    for key in path:
        node = node[key]
    assert node == value
    assert tree["kept"] == 3
    if path[0] != "a":
        assert tree["a"] == {"b": {"kept": 1}, "kept": 2}


@pytest.mark.parametrize(
    ("text", "overrides", "words_in_message"),
    [
        (LEAST + "trainign: {}\n", [], ["trainign", "Did you mean 'training'?"]),
        (LEAST + "training: {epochz: 3}\n", [], ["training.epochz", "Did you mean 'epochs'?", "batch_size"]),
        (LEAST + "training: {epochs: 0}\n", [], ["training.epochs", "found 0"]),
        (LEAST + "training: {epochs: -1, batch_size: x}\n", [], ["training.epochs", "training.batch_size"]),
        (LEAST + "training:\n", [], ["training", "found None"]),
        (LEAST + "evaluation: {beta: .inf}\n", [], ["evaluation.beta", "finite"]),
        (LEAST + "evaluation: {threshold: .nan}\n", [], ["evaluation.threshold"]),
        (LEAST + "evaluation: {resamples: 50}\n", [], ["evaluation.resamples", "100 resamples or more"]),
        (LEAST + "input: {fit: stretch}\n", [], ["input.fit", "squash", "stretch"]),
        (LEAST + "seed: 1\nseed: 2\n", [], ["line 4", "'seed'", "twice"]),
        (LEAST + "training:\n  epochs: 1\n  epochs: 2\n", [], ["line 5", "'epochs'", "twice"]),
        (LEAST + "1: 2\n", [], ["keys should be strings"]),
        (LEAST + "loss: 3\n", [], ["loss", "name"]),
        (LEAST + "loss: {reduction: sum}\n", ["loss.name=3"], ["loss", "name"]),
        (LEAST + "input: {augment: [{p: 1}]}\n", [], ["input.augment", "name"]),
        ("name: a\n", [], ["model", "required"]),
        ("- a\n", [], ["mapping"]),
        ("", [], ["mapping"]),
        ("name: [1\n", [], ["origin, line"]),
        ("a: b: c\n", [], ["line 1"]),
        ("name: 2012-13-45\n", [], ["origin", "month"]),
        ("name: \x00\n", [], ["origin"]),
        ("[" * 1500, [], ["origin"]),
        ("name: !!python/object/apply:os.getcwd []\n", [], ["line 1", "tag"]),
        (LEAST, ["training.epochs"], ["--set training.epochs", "key=value"]),
        (LEAST, ["=3"], ["key=value"]),
        (LEAST, ["training..epochs=3"], ["key=value"]),
        (LEAST, ["name.first=3", "name.first.second=4"], ["--set name.first.second=4", "'name.first'"]),
        (LEAST + "seed: 1\n", ["seed.a=2"], ["'seed' holds a value"]),
        (LEAST, ["seed=[1"], ["--set seed=[1"]),
    ],
)
def test_faults_are_named(text, overrides, words_in_message):
    with pytest.raises(UserError) as caught:
        parse_recipe(text, "origin", overrides)
    for words in words_in_message:
        assert words in str(caught.value)


def test_an_anchor_may_be_used_twice_and_merged():
    text = "x: &x {epochs: 3}\n" + LEAST + "training: {<<: *x, epochs: 4}\n"
    with pytest.raises(UserError, match="unknown key 'x'"):  # the merge itself is no repeat
        parse_recipe(text, "x")


def test_a_recipe_that_does_not_exist_is_named_with_the_nearest(tmp_path: Path):
    assert "digits-small" in shipped()
    with pytest.raises(UserError, match="Did you mean 'digits-small'"):
        load_recipe("digits-smal")
    with pytest.raises(UserError, match="no such recipe file"):
        load_recipe(str(tmp_path / "none.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UserError, match="no such recipe file"):
        load_recipe(str(tmp_path / "folder.yaml"))


def test_a_file_in_another_encoding_is_named(tmp_path: Path):
    file = tmp_path / "latin.yaml"
    file.write_bytes("name: café\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.yaml: this is not UTF-8"):
        load_recipe(str(file))


def test_a_recipe_does_not_change():
    recipe = parse_recipe(LEAST, "x")
    with pytest.raises(ValueError, match="frozen"):
        recipe.training.epochs = 4
    assert math.isclose(recipe.data.val_fraction, 0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "what."),
        ({"file": "a.csv"}, "a.csv: what."),
        ({"file": Path("a.csv"), "line": 3}, "a.csv, line 3: what."),
        ({"remedy": "Do this."}, "what. Do this."),
        ({"file": "a", "line": 1, "remedy": "Do this."}, "a, line 1: what. Do this."),
    ],
)
def test_user_error_says_where_what_and_what_to_do(arguments, message):
    assert str(UserError("what.", **arguments)) == message


def test_nearest_lists_what_is_known_and_cuts_long_lists():
    assert nearest("cta", ["dog", "cat"]) == "Did you mean 'cat'? Known: cat, dog."
    assert nearest("zebra", ["dog", "cat"]) == "Known: cat, dog."
    long = nearest("zzz", [f"name{i:03}" for i in range(100)])
    assert "name039" in long
    assert "name040" not in long
    assert long.endswith("….")


def test_settings_without_a_name_are_those_of_the_default_part():
    recipe = parse_recipe(LEAST, "x", ["optimizer.lr=0.5", "loss.reduction=sum", "schedule.warmup_epochs=1"])
    assert recipe.optimizer == {"name": "adamw", "lr": 0.5}
    assert recipe.loss == {"name": "bce", "reduction": "sum"}
    assert recipe.schedule == {"name": "constant", "warmup_epochs": 1}
    assert parse_recipe(dump_recipe(recipe), "x") == recipe


@pytest.mark.parametrize("override", ["input={fit: squash, resize: 256}", "input.resize=200"])
def test_a_resize_without_effect_is_refused(override):
    with pytest.raises(UserError, match="resize"):
        parse_recipe(LEAST, "x", [override])
