import itertools

import numpy as np
import pytest
from PIL import Image

from manyhot.data import drawing
from manyhot.data.manifest import Box

CAT = Box("cat", 20, 30, 120, 160)


def drawn(image, *boxes, **options):
    return np.asarray(drawing.draw_boxes(image, boxes, **options)).astype(int)


def contrast(a, b):
    """WCAG contrast ratio of two RGB colours."""

    def luminance(colour):
        linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("background", ["white", "black", "gray", *drawing.COLOURS])
def test_an_outline_shows_on_any_background(background):
    image = Image.new("RGB", (500, 400), background)
    result = drawn(image, CAT)
    right_edge = result[100, 110:130]  # across the right side, away from the tag
    ground = np.asarray(image)[0, 0]
    assert max(contrast(pixel, ground) for pixel in right_edge) >= 3


def test_the_outline_lies_on_the_edge_of_the_box():
    changed = np.abs(drawn(Image.new("RGB", (500, 400), "gray"), CAT) - 128).sum(axis=2) > 0
    row = np.flatnonzero(changed[100])
    assert row.min() == pytest.approx(CAT.x0, abs=2)
    assert row.max() == pytest.approx(CAT.x1 - 1, abs=2)
    assert not changed[60:140, 40:100].any()  # the object itself stays as it is


def test_names_are_readable_on_their_tags():
    for colour in drawing.COLOURS:
        assert contrast(drawing._text_on(colour), colour) >= 4.5


def test_small_pictures_are_enlarged_and_large_ones_are_not():
    small = drawing.draw_boxes(Image.new("L", (32, 16)), [Box("one", 4, 4, 8, 8)])
    assert small.size == (448, 224)
    assert small.mode == "RGB"
    assert drawing.draw_boxes(Image.new("RGB", (500, 100)), []).size == (500, 100)


def test_the_picture_given_stays_as_it_is():
    image = Image.new("RGB", (500, 400), "white")
    drawn(image, CAT)
    assert image.getcolors() == [(500 * 400, (255, 255, 255))]


def test_difficult_boxes_are_dashed():
    image = Image.new("RGB", (500, 400), "white")
    colour = np.array(drawing.COLOURS[0])
    full = (drawn(image, CAT) == colour).all(axis=2)[60:150, 119]
    dashed = (drawn(image, Box("cat", 20, 30, 120, 160, difficult=True)) == colour).all(axis=2)[60:150, 119]
    assert full.all()
    assert 0.3 < dashed.mean() < 0.7


def test_a_title_takes_its_own_strip():
    image = Image.new("RGB", (500, 400), "gray")
    plain, titled = drawn(image, CAT), drawn(image, CAT, title="x" * 500)
    strip = len(titled) - len(plain)
    assert 10 < strip < 40
    assert np.array_equal(titled[strip:], plain)
    assert (titled[:strip].min(axis=(1, 2)) < 100).any()


@pytest.mark.parametrize(
    "box",
    [
        Box("a long name that is wider than its box", 0, 0, 3, 3),
        Box("over the edge", -50, -50, 900, 900),
        Box("outside", 700, 700, 800, 800),
        Box("empty", 10, 10, 10, 10),
        Box("", 10, 10, 40, 40),
        Box("żółw 乌龟", 10.4, 10.6, 40.5, 40.5),
    ],
)
def test_any_box_can_be_drawn(box):
    assert drawn(Image.new("RGB", (64, 64), "white"), box).shape == (448, 448, 3)


def test_tags_of_crowded_boxes_do_not_hide_one_another():
    boxes = [Box("sheep", 100 + 5 * i, 150 + 5 * i, 250 + 5 * i, 300 + 5 * i) for i in range(4)]
    result = drawn(Image.new("RGB", (500, 400), "white"), *boxes)
    one = drawn(Image.new("RGB", (500, 400), "white"), boxes[0])
    # A tag is by far the largest filled patch of the class colour: four of them hold about four times as much.
    filled = [(picture == drawing.COLOURS[0]).all(axis=2) for picture in (result, one)]
    solid = [
        np.logical_and.reduce([np.roll(mask, shift, (0, 1)) for shift in itertools.product(range(3), repeat=2)]).sum()
        for mask in filled
    ]
    assert solid[0] > 3 * solid[1]
