"""Where stored pixels and boxes come to lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from manyhot.data.images import MAX_PIXELS
from manyhot.data.manifest import Box
from manyhot.data.resizing import Placement, Resizing
from manyhot.errors import UserError

sides = st.integers(1, 5000)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8))


@given(sides, sides, st.integers(1, 600))
def test_the_shorter_side_is_the_size_and_the_proportions_stay(width, height, size):
    place = Resizing(size).place(width, height)
    if (place.width, place.height) == (width, height):
        return
    assert min(place.width, place.height) == size
    assert place.width / width == pytest.approx(place.height / height, abs=1 / min(width, height))
    assert place.width * place.height <= max(MAX_PIXELS, width * height)


@given(sides, sides, st.integers(1, 600))
def test_a_centre_crop_is_square_and_central(width, height, size):
    place = Resizing(size, center_crop=True).place(width, height)
    assert (place.width, place.height) == (size, size)
    whole = width * place.scale_x, height * place.scale_y
    for cut, side in ((place.left, whole[0]), (place.top, whole[1])):
        assert 0 <= cut <= side - size + 1e-6
        assert cut == pytest.approx((side - size) / 2, abs=0.5 + 1e-6)


@given(sides, sides, sides, sides)
def test_exact_and_kept_sizes(width, height, wide, high):
    place = Resizing(exact=(high, wide)).place(width, height)
    assert (place.width, place.height, place.left, place.top) == (wide, high, 0, 0)
    assert Resizing(None).place(width, height) == Placement(width, height, 1.0, 1.0)


def test_a_picture_of_one_row_is_not_blown_up():
    assert Resizing(256).place(20_000, 1) == Placement(20_000, 1, 1.0, 1.0)
    assert Resizing(256, center_crop=True).place(20_000, 1).width == 256


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 120))
def test_pixels_are_torchvisions(width, height, size):
    image = noise(width, height)
    ours = Resizing(size).place(width, height)
    wanted = v2.functional.resize(image, [ours.height, ours.width], antialias=True)
    np.testing.assert_array_equal(np.asarray(ours.picture(image)), np.asarray(wanted))
    crop = Resizing(size, center_crop=True).place(width, height)
    cut = np.asarray(crop.picture(image)).astype(int)
    whole = np.asarray(ours.picture(image)).astype(int)
    if whole.shape[:2] != (height, width) or size == min(width, height):
        part = whole[crop.top : crop.top + size, crop.left : crop.left + size]
        # Cut first or resized first: the filter's weights round apart by a level, and at a border it sees the same.
        assert np.abs(cut - part).max() <= 1


@given(sides, sides, st.integers(1, 600), st.booleans(), st.data())
def test_boxes_stay_inside_and_keep_their_shares(width, height, size, crop, data):
    place = Resizing(size, center_crop=crop).place(width, height)
    x0, x1 = sorted(data.draw(st.tuples(st.floats(0, width), st.floats(0, width))))
    y0, y1 = sorted(data.draw(st.tuples(st.floats(0, height), st.floats(0, height))))
    found = place.box(Box("a", x0, y0, x1, y1, difficult=True))
    if found is None:
        return
    assert (found.name, found.difficult) == ("a", True)
    assert 0 <= found.x0 < found.x1 <= place.width
    assert 0 <= found.y0 < found.y1 <= place.height
    if not crop:
        shares = found.x0 / place.width, found.x1 / place.width, found.y0 / place.height, found.y1 / place.height
        assert shares == pytest.approx((x0 / width, x1 / width, y0 / height, y1 / height))


def test_a_box_follows_its_pixels():
    pixels = np.zeros((90, 150, 3), np.uint8)
    pixels[30:60, 50:100] = 255
    for resizing in (Resizing(60), Resizing(60, center_crop=True), Resizing(exact=(200, 30)), Resizing(None)):
        place = resizing.place(150, 90)
        box = place.box(Box("a", 50, 30, 100, 60))
        assert box is not None
        rows, columns = np.nonzero(np.asarray(place.picture(Image.fromarray(pixels)))[:, :, 0] > 127)
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx(found, abs=1)


def test_a_box_that_the_crop_leaves_out_is_none():
    assert Resizing(10, center_crop=True).place(100, 10).box(Box("a", 0, 0, 40, 10)) is None


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"size": 20_000}, {"exact": (10, 0)}, {"size": None, "center_crop": True}]
)
def test_settings_that_are_none_are_refused(wrong):
    with pytest.raises(UserError):
        Resizing(**wrong)
