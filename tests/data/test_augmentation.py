"""The augmentations of training from scratch against torchvision, Pillow and slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, autoaugment, v2

from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms import augmentations
from manyhot.data.transforms.randaugment import OPERATIONS
from manyhot.errors import UserError
from manyhot.recipe import Input

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL = (124, 116, 104)


def rules(size=32, fit="crop", resize=None) -> Preprocessing:
    return Preprocessing.from_recipe(Input(size=size, fit=fit, resize=resize), MEAN, STD)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def build(name, **settings_of_it):
    return augmentations.build({"name": name, **settings_of_it})


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 200), st.integers(20, 200), st.integers(16, 40), st.integers(0, 30), st.integers(0, 99))
def test_random_crop_is_a_window_of_the_resized_picture(width, height, size, more, seed):
    image, setting = picture(width, height), rules(size, "crop", size + more)
    made = array(build("random_crop").apply(image, np.random.default_rng(seed), setting))
    scale = (size + more) / min(width, height)
    limit = 4 * (size + more)
    wide, high = (min(limit, max(size + more, round(side * scale))) for side in (width, height))
    rng = np.random.default_rng(seed)
    left, top = rng.integers(wide - size + 1), rng.integers(high - size + 1)
    whole = image.resize((wide, high), Image.Resampling.BILINEAR)
    assert np.abs(made - array(whole.crop((left, top, left + size, top + size)))).max() <= 2


def test_random_crop_of_a_picture_of_that_size_is_exact_and_reaches_every_place():
    image, setting = picture(40, 36), rules(32, "crop", 36)
    part = build("random_crop")
    windows = {array(image)[y : y + 32, x : x + 32].tobytes(): (x, y) for x in range(9) for y in range(5)}
    found = [windows[array(part.apply(image, np.random.default_rng(s), setting)).tobytes()] for s in range(600)]
    assert set(found) == set(windows.values())
    squashed = array(image.resize((37, 37), Image.Resampling.BILINEAR))
    made = array(part.apply(image, np.random.default_rng(0), rules(32, "squash")))
    near = [np.abs(squashed[y : y + 32, x : x + 32] - made).max() for x in range(6) for y in range(6)]
    assert min(near) <= 2


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 999))
def test_shift_scale_rotate_equals_torchvisions_affine(width, height, seed):
    image = picture(width, height)
    made = build("shift_scale_rotate", p=1).apply(image, np.random.default_rng(seed), rules())
    rng = np.random.default_rng(seed)
    rng.random()
    angle, factor = rng.uniform(-45, 45), rng.uniform(0.9, 1.1)
    dx, dy = rng.uniform(-0.0625, 0.0625) * width, rng.uniform(-0.0625, 0.0625) * height
    wanted = v2.functional.affine(image, -angle, [dx, dy], factor, [0.0, 0.0], InterpolationMode.BILINEAR, list(FILL))
    off = np.abs(array(made) - array(wanted)).max(axis=-1)
    assert (off > 1).mean() < 0.01  # rounding at the edge of the filled corners


def test_shift_scale_rotate_draws_from_its_whole_range():
    """A marked point at three quarters of the width tells angle and factor."""
    image = Image.new("RGB", (129, 129))
    image.paste((255, 255, 255), (94, 62, 99, 67))
    part = build("shift_scale_rotate", shift=0, scale=0.3, degrees=30, p=1)
    lengths, angles = [], []
    for seed in range(200):
        made = array(part.apply(image, np.random.default_rng(seed), rules()))[..., 0]
        made = np.where(made > 150, made, 0)
        y, x = (np.average(np.arange(129) + 0.5, weights=made.sum(axis=axis)) - 64.5 for axis in (1, 0))
        lengths.append(math.hypot(x, y) / 32)
        angles.append(math.degrees(math.atan2(-y, x)))
    assert 0.68 < min(lengths) < 0.73
    assert 1.27 < max(lengths) < 1.32
    assert -31 < min(angles) < -28
    assert 28 < max(angles) < 31


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 999))
def test_brightness_and_contrast_are_the_formula(brightness, contrast, seed):
    image = picture(24, 16)
    part = build("brightness_contrast", brightness=brightness, contrast=contrast, p=1)
    made = array(part.apply(image, np.random.default_rng(seed), rules()))
    rng = np.random.default_rng(seed)
    rng.random()
    a, b = rng.uniform(1 - contrast, 1 + contrast), 255 * rng.uniform(-brightness, brightness)
    for old, new in zip(array(image).ravel(), made.ravel(), strict=True):
        assert abs(min(255.0, max(0.0, a * old + b)) - new) <= 0.5 + 1e-9


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_equalize_equals_torchvision(width, height, seed):
    image = picture(width, height, seed)
    made = build("equalize", p=1).apply(image, np.random.default_rng(0), rules())
    wanted = v2.functional.equalize(v2.functional.pil_to_tensor(image))
    np.testing.assert_array_equal(array(made), wanted.permute(1, 2, 0).numpy())


def test_equalized_values_are_about_equally_frequent():
    ramp = (np.linspace(0, 1, 256 * 64) ** 3 * 255).astype(np.uint8).reshape(128, 128)
    made = array(build("equalize", p=1).apply(Image.fromarray(ramp).convert("RGB"), np.random.default_rng(0), rules()))
    shares = np.histogram(made[..., 0], bins=4, range=(0, 256))[0] / made[..., 0].size
    assert shares.max() < 0.45
    assert shares.min() > 0.1


PARTS = ["shift_scale_rotate", "brightness_contrast", "equalize", "random_erasing"]


@pytest.mark.parametrize("name", PARTS)
def test_a_probability_is_how_often(name):
    image = picture(32, 32)
    rng, part = np.random.default_rng(0), build(name, p=0.3)
    changed = sum(not np.array_equal(array(part.apply(image, rng, rules())), array(image)) for _ in range(400))
    assert 85 <= changed <= 155  # within four standard deviations of 120
    never = build(name, p=0)
    assert never.apply(image, rng, rules()) is image


NAMES = {
    "identity": "Identity",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [0, 1, 9, 17, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_rand_augment_equals_torchvisions(name, magnitude, sign):
    image = picture(75, 50)
    theirs = autoaugment.RandAugment(magnitude=magnitude)._augmentation_space(31, (50, 75))
    magnitudes, signed = theirs[NAMES[name]]
    strength = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
    wanted = autoaugment._apply_op(
        image, NAMES[name], strength * (sign if signed else 1), InterpolationMode.NEAREST, list(FILL)
    )
    made = OPERATIONS[name](image, sign * magnitude / 30, FILL)
    off = np.abs(array(made) - array(wanted)).max(axis=-1)
    assert (off > 1).mean() < 0.005


def test_rand_augment_draws_every_operation_as_often():
    assert list(NAMES) == list(OPERATIONS)
    image, counts = picture(40, 40), dict.fromkeys(OPERATIONS, 0)
    part = build("rand_augment", operations=1, magnitude=9)
    looks = {}
    for name, operation in OPERATIONS.items():
        for sign in (1, -1):
            looks.setdefault(array(operation(image, sign * 0.3, FILL)).tobytes(), name)
    for seed in range(1400):
        counts[looks[array(part.apply(image, np.random.default_rng(seed), rules())).tobytes()]] += 1
    assert sum(counts.values()) == 1400
    assert all(60 <= count <= 142 for count in counts.values()), counts  # about 100, within four standard deviations


def test_rand_augment_applies_several_in_turn():
    image, rng = picture(40, 40), np.random.default_rng(5)
    wanted = image
    for _ in range(3):
        name = list(OPERATIONS)[int(rng.integers(14))]
        wanted = OPERATIONS[name](wanted, (1 if rng.random() < 0.5 else -1) * 0.5, FILL)
    part = build("rand_augment", operations=3, magnitude=15)
    np.testing.assert_array_equal(array(part.apply(image, np.random.default_rng(5), rules())), array(wanted))


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 9999), st.sampled_from(["mean", "noise"]))
def test_erasing_fills_one_rectangle_of_its_size_and_nothing_else(width, height, seed, fill):
    image = Image.new("RGB", (width, height), (255, 0, 255))
    low, high = 0.1, 0.3
    part = build("random_erasing", p=1, scale=[low, high], ratio=[0.5, 2], fill=fill)
    made = array(part.apply(image, np.random.default_rng(seed), rules()))
    changed = (made != (255, 0, 255)).any(axis=-1)
    if not changed.any():
        assert min(width, height) < 12  # too flat, or too small, for such a rectangle
        return
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    box = changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert box.all()
    tall, wide = box.shape
    # A rounding of both sides by half a pixel at most.
    assert (tall + 0.5) * (wide + 0.5) >= low * width * height
    assert (tall - 0.5) * (wide - 0.5) <= high * width * height
    assert (wide + 0.5) / (tall - 0.5) >= 0.5
    assert (wide - 0.5) / (tall + 0.5) <= 2
    if fill == "mean":
        assert (made[changed] == FILL).all()
    elif box.size > 200:
        assert abs(made[changed].mean() - 127.5) < 30
        assert made[changed].std() > 60


def test_erasing_leaves_the_picture_given_as_it_is():
    image = picture(40, 40)
    before = array(image).copy()
    build("random_erasing", p=1).apply(image, np.random.default_rng(1), rules())
    np.testing.assert_array_equal(array(image), before)


@pytest.mark.parametrize(
    ("name", "settings_of_it"),
    [
        ("shift_scale_rotate", {"shift": -0.1}),
        ("shift_scale_rotate", {"scale": 1}),
        ("shift_scale_rotate", {"degrees": 200}),
        ("brightness_contrast", {"contrast": 1.2}),
        ("equalize", {"p": 2}),
        ("rand_augment", {"magnitude": 31}),
        ("rand_augment", {"operations": 0}),
        ("random_erasing", {"scale": [0.5, 0.1]}),
        ("random_erasing", {"fill": "black"}),
    ],
)
def test_settings_that_could_not_be_drawn_from_are_refused(name, settings_of_it):
    with pytest.raises(UserError, match=f"'{name}': {next(iter(settings_of_it))}"):
        build(name, **settings_of_it)
