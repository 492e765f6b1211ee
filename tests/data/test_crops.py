"""Crops: where they lie, in which order, and what they look like; torchvision as the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as tv

from manyhot.data.crops import crops, scaled
from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.recipe import Input

MEAN = STD = (0.5, 0.5, 0.5)


def rules(way: str | dict[str, object], **settings: object) -> Preprocessing:
    return Preprocessing.from_recipe(Input.model_validate({"crops": way, **settings}), MEAN, STD)


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


sides = st.integers(20, 90)


@settings(deadline=None, max_examples=50)
@given(width=sides, height=sides, resize=st.integers(33, 70), fit=st.sampled_from(["crop", "squash"]))
def test_five_and_ten_crops_are_torchvisions(width, height, resize, fit):
    image = picture(width, height)
    way = rules("ten", size=32, resize=resize, fit=fit)
    canvas = way.cropping.canvas(image, way)
    assert min(canvas.size) == resize
    if fit == "squash":
        assert canvas.size == (resize, resize)
    wanted = tv.ten_crop(canvas, 32)
    found = way.views(image)
    assert len(found) == way.cropping.count == 10
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(array(one), array(other))
    five = rules("five", size=32, resize=resize, fit=fit)
    assert five.cropping.count == 5
    for one, other in zip(five.views(image), found[:5], strict=True):
        np.testing.assert_array_equal(array(one), array(other))


def test_one_crop_is_the_centre_of_the_five():
    image = picture(64, 48)
    (one,) = rules("one", size=32, resize=48).views(image)
    centre = rules("five", size=32, resize=48).views(image)[4]
    assert np.abs(array(one) - array(centre)).max() <= 1  # the same pixels, resized as a part or as a whole


@settings(deadline=None, max_examples=50)
@given(width=st.integers(5, 400), height=st.integers(5, 400), side=st.integers(16, 64))
def test_scaled_keeps_proportion_up_to_one_to_four(width, height, side):
    found = scaled((width, height), side, squash=False)
    assert min(found) == side
    assert max(found) <= 4 * side
    wanted = min(4.0, max(width, height) / min(width, height))
    assert max(found) / side == pytest.approx(wanted, abs=0.51 / side)
    assert (found[0] - found[1]) * (width - height) >= 0
    assert scaled((width, height), side, squash=True) == (side, side)


def test_scales_show_the_whole_picture_at_each_size_and_mirrored():
    image = picture(60, 45)
    way = rules({"name": "scales", "sizes": [30, 48], "mirrored": True})
    found = way.views(image)
    assert [one.size for one in found] == [(40, 30), (40, 30), (64, 48), (64, 48)]
    assert way.cropping.count == 4
    for whole, mirrored in (found[:2], found[2:]):
        np.testing.assert_array_equal(array(whole), array(mirrored)[:, ::-1])
    wanted = image.resize((40, 30), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(array(found[0]), array(wanted))
    squashed = rules({"name": "scales", "sizes": [30, 48]}, fit="squash").views(image)
    assert [one.size for one in squashed] == [(30, 30), (48, 48)]


def test_only_dense_crops_are_windows_of_the_map():
    assert {name: rules(name).window for name, _ in crops} == {
        "one": None, "five": None, "ten": None, "scales": None, "dense": (224, 64),
    }  # fmt: skip
    assert rules("dense").cropping.count is None


@pytest.mark.parametrize(
    ("way", "settings", "words"),
    [
        ("one", {"fit": "squash", "size": 320}, "whole picture squashed to 320"),
        ("one", {}, "centre crop 224 of shorter side 256"),
        ("five", {"resize": 400}, "five crops 224 of shorter side 400"),
        ("ten", {"fit": "squash"}, "five crops 224 of picture squashed to 256, and mirrored"),
        ({"name": "scales", "sizes": [224, 320]}, {}, "whole picture at shorter side 224, 320"),
        (
            {"name": "dense", "sizes": [256], "mirrored": True},
            {"fit": "squash"},
            "windows 224 every 64 px of whole picture squashed to 256, and mirrored",
        ),
    ],
)
def test_crops_say_what_they_are(way, settings, words):
    assert rules(way, **settings).describe() == words


def test_other_crops_at_test_leave_the_rest():
    one = rules("one", size=32)
    ten = one.with_crops({"name": "ten"})
    assert (ten.cropping.count, one.cropping.count) == (10, 1)
    assert ten.with_crops(None) is ten
    assert ten.with_crops({"name": "one"}) == one


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("fife", r"unknown way to crop 'fife' in input.crops.*five"),
        ({"name": "scales", "sizes": []}, r"sizes"),
        ({"name": "scales", "sizes": [8]}, r"sizes.0: input should be greater than or equal to 16 \(found 8\)"),
        ({"name": "five", "size": 3}, r"unknown key 'size'"),
    ],
)
def test_unknown_crops_are_refused(way, message):
    with pytest.raises(UserError, match=message):
        _ = rules(way).cropping


WAYS = [
    "one", "five", "ten", {"name": "scales", "sizes": [40, 56], "mirrored": True}, {"name": "dense", "sizes": [48]},
]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    way=st.sampled_from(WAYS),
    width=st.integers(40, 220),
    height=st.integers(40, 220),
    resize=st.integers(33, 70),
    fit=st.sampled_from(["crop", "squash"]),
)
def test_frames_say_where_every_crop_lies(way, width, height, resize, fit):
    # On a picture whose red is the column and whose green is the row, a crop's pixels say where they come from.
    columns, rows = np.arange(width), np.arange(height)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = columns, rows[:, None]
    sizes = {"resize": resize} if way in ("five", "ten") or (way, fit) == ("one", "crop") else {}
    rule = rules(way, size=32, fit=fit, **sizes)
    views, frames = rule.views(Image.fromarray(pixels)), rule.frames((width, height))
    assert len(views) == len(frames)
    for view, frame in zip(views, frames, strict=True):
        assert view.size == (frame.width, frame.height)
        across = (np.arange(frame.width) + 0.5) * (frame.right - frame.left) / frame.width
        column = (frame.right - across if frame.mirrored else frame.left + across) - 0.5
        row = frame.top + (np.arange(frame.height) + 0.5) * (frame.bottom - frame.top) / frame.height - 0.5
        # Resizing keeps a slope, but near the picture's edges, where the filter finds nothing beyond.
        for found, wanted, length in ((array(view)[5, :, 0], column, width), (array(view)[:, 5, 1], row, height)):
            reach = 2 + 2 * abs(wanted[1] - wanted[0])
            inner = (wanted > reach) & (wanted < length - 1 - reach)
            assert np.abs(found - wanted)[inner].max(initial=0) <= 1.01


def test_a_flipped_frame_shows_the_same_part():
    (frame,) = rules("one", size=32, resize=48).frames((64, 48))
    assert frame.flipped() != frame
    assert frame.flipped().flipped() == frame
    assert (frame.left, frame.top, frame.right, frame.bottom) == (16, 8, 48, 40)
