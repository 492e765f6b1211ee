"""Preprocessing equals what Pillow and torchvision do; augmentation is a function of its generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms import augment, augmentations
from manyhot.errors import UserError
from manyhot.recipe import Input

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SIZES = [(1, 1), (1, 7), (3, 2), (33, 33), (97, 41), (640, 3), (2, 500), (4000, 1), (33, 64)]


def preprocessing(size=32, fit="crop", resize=None, interpolation="bilinear") -> Preprocessing:
    return Preprocessing.from_recipe(Input(size=size, fit=fit, resize=resize, interpolation=interpolation), MEAN, STD)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colour with structure of every size that the picture can hold."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def build(name, **settings):
    return augmentations.build({"name": name, **settings})


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(8, 200), st.integers(8, 200), st.integers(16, 64), st.integers(0, 40), st.sampled_from(sorted(FILTERS))
)
def test_crop_equals_resizing_the_shorter_side_and_cutting_the_centre(width, height, size, more, interpolation):
    resize = size + 2 * more
    scale = resize / min(width, height)
    wide, high = round(width * scale), round(height * scale)
    assume((wide - size) % 2 == (high - size) % 2 == 0)  # so that the cut falls between pixels
    # Pillow chooses which axis comes first, and rounds in between; half the contrast keeps clipping out of it. The
    # weights' absolute values sum to 1.37 at most, so each result is off by .5 * 1.37 + .5, both together by 2.4.
    image = picture(width, height).point(lambda value: 64 + value // 2)
    fitted = preprocessing(size, "crop", resize, interpolation).fit_image(image)
    left, top = (wide - size) // 2, (high - size) // 2
    wanted = image.resize((wide, high), FILTERS[interpolation]).crop((left, top, left + size, top + size))
    assert fitted.size == wanted.size == (size, size)
    assert np.abs(array(fitted) - array(wanted)).max() <= 2


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(16, 64), st.sampled_from(sorted(FILTERS)))
def test_squash_equals_resize(width, height, size, interpolation):
    image = picture(width, height)
    wanted = image.resize((size, size), FILTERS[interpolation])
    fitted = preprocessing(size, "squash", None, interpolation).fit_image(image)
    np.testing.assert_array_equal(array(fitted), array(wanted))


@pytest.mark.parametrize(("width", "height"), [(300, 150), (150, 300), (150, 150)])
def test_crop_agrees_with_torchvision(width, height):
    image = picture(width, height)
    resized = v2.functional.resize(image, 80, v2.InterpolationMode.BILINEAR, antialias=True)
    wanted = v2.functional.center_crop(resized, 64)
    assert np.abs(array(preprocessing(64, "crop", 80).fit_image(image)) - array(wanted)).max() <= 2


def test_the_centre_is_kept_and_the_ends_are_cut():
    image = Image.new("RGB", (300, 100), (255, 0, 0))
    image.paste((0, 255, 0), (100, 0, 200, 100))
    cropped = array(preprocessing(32, "crop", 32).fit_image(image))
    assert (cropped[:, 1:-1] == (0, 255, 0)).all()  # at the sides the filter reaches over the cut
    squashed = array(preprocessing(30, "squash").fit_image(image))
    assert squashed[15, 2].tolist() == squashed[15, 27].tolist() == [255, 0, 0]
    assert squashed[15, 15].tolist() == [0, 255, 0]


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("size", [*SIZES, (1, 3_000_000)])
def test_any_picture_fits(size, fit):
    assert preprocessing(32, fit).fit_image(Image.new("RGB", size, (9, 9, 9))).size == (32, 32)


def test_the_recipe_comes_before_the_backbone():
    recipe = Input(size=64, resize=80, mean=(0.1, 0.2, 0.3), interpolation="lanczos")
    made = Preprocessing.from_recipe(recipe, MEAN, STD)
    assert (made.mean, made.std, made.resize, made.interpolation) == ((0.1, 0.2, 0.3), STD, 80, "lanczos")
    assert Preprocessing.from_recipe(Input(size=224), MEAN, STD).resize == 256
    assert Preprocessing.model_validate_json(made.model_dump_json()) == made


def test_crops_say_what_is_seen():
    assert preprocessing(224).describe() == "centre crop 224 of shorter side 256"
    assert preprocessing(320, "squash").describe() == "whole picture squashed to 320"


def test_normalize_equals_torchvision():
    images = torch.randint(0, 256, (3, 3, 8, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    wanted = v2.functional.normalize(v2.functional.to_dtype(images, torch.float32, scale=True), list(MEAN), list(STD))
    torch.testing.assert_close(preprocessing().normalize(images), wanted, rtol=0, atol=1e-6)
    assert torch.equal(images, before)


EVERY = [build(name) for name, _ in augmentations]


@pytest.mark.parametrize("part", EVERY, ids=lambda part: type(part).__name__)
@pytest.mark.parametrize("size", SIZES)
def test_every_part_makes_the_right_size_of_any_picture(part, size):
    for seed in range(5):
        (image,) = augment(picture(*size), (part,), np.random.default_rng(seed), preprocessing())
        assert (image.size, image.mode) == ((32, 32), "RGB")


@pytest.mark.parametrize("part", EVERY, ids=lambda part: type(part).__name__)
def test_every_part_is_a_function_of_its_generator_and_leaves_the_picture_alone(part):
    image = picture(60, 45)
    before = array(image).copy()
    made = [
        array(augment(image, (part,), np.random.default_rng(seed), preprocessing())[0])
        for seed in (1, 1, *range(2, 12))
    ]
    np.testing.assert_array_equal(made[0], made[1])
    assert len({one.tobytes() for one in made}) > 1
    np.testing.assert_array_equal(array(image), before)


def test_parts_apply_in_order_and_share_one_generator():
    image, rules = picture(60, 45), preprocessing()
    parts = (build("horizontal_flip", p=1), build("random_shift", share=0.3), build("color_jitter"))
    rng = np.random.default_rng(3)
    wanted = rules.fit_image(image)
    for part in parts:
        wanted = part.apply(wanted, rng, rules)
    np.testing.assert_array_equal(array(augment(image, parts, np.random.default_rng(3), rules)[0]), array(wanted))
    np.testing.assert_array_equal(array(augment(image, (), rng, rules)[0]), array(rules.fit_image(image)))


def test_flips_flip():
    image = preprocessing().fit_image(picture(60, 45))
    always = build("horizontal_flip", p=1).apply(image, np.random.default_rng(0), preprocessing())
    np.testing.assert_array_equal(array(always), array(image)[:, ::-1])
    never = build("horizontal_flip", p=0).apply(image, np.random.default_rng(0), preprocessing())
    np.testing.assert_array_equal(array(never), array(image))
    rng, flip = np.random.default_rng(0), build("horizontal_flip", p=0.3)
    flipped = sum(np.array_equal(array(flip.apply(image, rng, preprocessing())), array(always)) for _ in range(400))
    assert 85 <= flipped <= 155  # within four standard deviations of 120


def shift_of(shifted: np.ndarray, image: np.ndarray, most: int) -> tuple[int, int]:
    """The shift that explains the picture, edges repeated; found by trying all."""
    padded = np.pad(image, ((most, most), (most, most), (0, 0)), mode="edge")
    height, width = image.shape[:2]
    found = [
        (dx, dy)
        for dx in range(-most, most + 1)
        for dy in range(-most, most + 1)
        if np.array_equal(padded[most + dy : most + dy + height, most + dx : most + dx + width], shifted)
    ]
    assert len(found) == 1, found
    return found[0]


def test_shift_moves_by_what_was_drawn_and_repeats_the_edge():
    image, rules = preprocessing().fit_image(picture(320, 320)), preprocessing()
    part = build("random_shift", share=0.15)  # 4.8 pixels of 32
    found = [
        shift_of(array(part.apply(image, np.random.default_rng(seed), rules)), array(image), 7) for seed in range(150)
    ]
    for seed, shift in enumerate(found):
        drawn = np.random.default_rng(seed).uniform(-0.15, 0.15, 2) * 32
        assert shift == tuple(np.rint(drawn))
    for axis in (0, 1):
        assert {shift[axis] for shift in found} == set(range(-5, 6))


def test_shift_before_a_cut_is_a_share_of_the_picture_as_it_is():
    image = picture(200, 80)
    part = build("random_shift", share=0.1)
    found = [
        shift_of(array(part.apply(image, np.random.default_rng(seed), preprocessing())), array(image), 21)
        for seed in range(12)
    ]
    assert 8 < max(abs(dx) for dx, _ in found) <= 20
    assert 4 < max(abs(dy) for _, dy in found) <= 8


@settings(deadline=None, max_examples=60)
@given(st.integers(40, 400), st.integers(40, 400), st.integers(0, 1000))
def test_random_resized_crop_takes_its_share_from_inside(width, height, seed):
    """Each pixel's colour is its place, so the crop shows where it comes from."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = Image.fromarray(np.stack([x, y, x], -1).round().astype(np.uint8))
    low, high = 0.3, 0.8
    part = build("random_resized_crop", scale=[low, high], ratio=[0.75, 1.25])
    made = array(part.apply(image, np.random.default_rng(seed), preprocessing(64)))
    share_x = (made[:, -1, 0] - made[:, 0, 0]).mean() / 255 * 64 / 63
    share_y = (made[-1, :, 1] - made[0, :, 1]).mean() / 255 * 64 / 63
    ratio = share_x * width / (share_y * height)
    cut = share_x > 0.97 or share_y > 0.97  # clipped after ten tries in a long picture
    assert share_x <= 1.02
    assert share_y <= 1.02
    assert share_x * share_y < high * 1.1
    if not cut:
        assert low * 0.88 < share_x * share_y
        assert 0.75 * 0.9 < ratio < 1.25 * 1.1


def test_the_whole_picture_is_a_squash():
    image, rules = picture(50, 50), preprocessing(32, "squash")
    part = build("random_resized_crop", scale=[1, 1], ratio=[1, 1])
    ours, theirs = array(part.apply(image, np.random.default_rng(0), rules)), array(rules.fit_image(image))
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # torch's bilinear filter beside Pillow's


def test_a_cropping_part_sees_the_whole_picture():
    image = Image.new("RGB", (300, 32), (255, 0, 0))
    image.paste((0, 255, 0), (134, 0, 166, 32))  # all that a centre crop would leave
    part = build("random_resized_crop", scale=[0.1, 0.1])
    seen = [
        array(augment(image, (part,), np.random.default_rng(seed), preprocessing(32, "crop", 32))[0])
        for seed in range(20)
    ]
    assert any((one[..., 0] == 255).all() for one in seen)


def test_rotation_keeps_the_centre_fills_with_the_mean_and_stays_in_range():
    rules = preprocessing(65)
    image = Image.new("RGB", (65, 65), (255, 255, 255))
    image.paste((0, 0, 0), (32, 0, 33, 33))  # a hand that points up
    part = build("rotation", degrees=45)
    angles = []
    for seed in range(40):
        turned = array(part.apply(image, np.random.default_rng(seed), rules))
        assert turned[32, 32].max() < 140
        y, x = np.nonzero((turned[..., 0] < 100) & (turned[..., 1] < 100) & (np.ptp(turned, axis=-1) < 5))
        far = np.argmax((y - 32) ** 2 + (x - 32) ** 2)
        angles.append(np.degrees(np.arctan2(x[far] - 32, 32 - y[far])))
        if abs(angles[-1]) > 20:
            corner = [round(255 * channel) for channel in MEAN]
            assert any(turned[i, j].tolist() == corner for i in (0, -1) for j in (0, -1))
    assert max(map(abs, angles)) <= 48
    assert min(angles) < -20
    assert max(angles) > 20


def test_colour_jitter_changes_what_it_says():
    rules, grey = preprocessing(), Image.new("RGB", (32, 32), (100, 100, 100))
    bright = build("color_jitter", brightness=0.5, contrast=0, saturation=0)
    values = [array(bright.apply(grey, np.random.default_rng(seed), rules))[0, 0, 0] for seed in range(60)]
    assert 50 <= min(values) < 70
    assert 130 < max(values) <= 150
    colour = build("color_jitter", brightness=0, contrast=0, saturation=1)
    np.testing.assert_array_equal(array(colour.apply(grey, np.random.default_rng(0), rules)), array(grey))
    image = rules.fit_image(picture(60, 45))
    still = build("color_jitter", brightness=0, contrast=0, saturation=0)
    np.testing.assert_array_equal(array(still.apply(image, np.random.default_rng(0), rules)), array(image))
    contrast = build("color_jitter", brightness=0, contrast=1, saturation=0)
    spreads = [array(contrast.apply(image, np.random.default_rng(seed), rules)).std() for seed in range(20)]
    assert min(spreads) < 0.5 * array(image).std() < 1.2 * array(image).std() < max(spreads)


@pytest.mark.parametrize(
    ("name", "settings_of_it"),
    [
        ("random_resized_crop", {"scale": [1, 0.3]}),
        ("random_resized_crop", {"scale": [0, 1]}),
        ("random_resized_crop", {"scale": [0.5, 1.5]}),
        ("random_resized_crop", {"ratio": [0, 1]}),
        ("random_resized_crop", {"ratio": [2, 1]}),
        ("random_shift", {"share": -0.1}),
        ("horizontal_flip", {"p": 1.1}),
        ("rotation", {"degrees": 0}),
        ("color_jitter", {"contrast": 2}),
    ],
)
def test_settings_that_could_not_be_drawn_from_are_refused(name, settings_of_it):
    with pytest.raises(UserError, match=f"'{name}': {next(iter(settings_of_it))}"):
        build(name, **settings_of_it)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 4, 3, 6, 5), (3, 4, 4)])
def test_normalising_is_the_same_in_any_layout(shape):
    rules = preprocessing(16).model_copy(update={"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    last = images.movedim(-3, -1).contiguous().movedim(-1, -3)
    mean, std = (torch.tensor(three, dtype=torch.float64).view(3, 1, 1) for three in (rules.mean, rules.std))
    exact = (images.double() / 255 - mean) / std
    # Subtracting and dividing in float32 is off by up to 3.7e-7.
    torch.testing.assert_close(rules.normalize(images).double(), exact, rtol=0, atol=2.5e-7)
    assert torch.equal(rules.normalize(last), rules.normalize(images))
    assert rules.normalize(last).stride() == last.stride()
