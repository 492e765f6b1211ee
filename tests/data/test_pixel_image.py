"""Images over arrays: all that Pillow can do comes out as on an ordinary image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageOps
from torchvision.transforms import v2

from manyhot.data.pixel_image import PixelImage, resized_part

FLIP = Image.Transpose.FLIP_LEFT_RIGHT


def pixels(width: int = 31, height: int = 22, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found.flags.writeable = False
    return found


def pasted(image: Image.Image) -> Image.Image:
    under = Image.new("RGB", (60, 60), "red")
    under.paste(image, (3, 4))
    return under


def drawn(image: Image.Image) -> Image.Image:
    ImageDraw.Draw(image).rectangle((2, 2, 9, 9), fill="blue")
    return image


def shrunk(image: Image.Image) -> Image.Image:
    image.thumbnail((9, 9))
    return image


def put(image: Image.Image) -> Image.Image:
    image.putpixel((1, 2), (3, 4, 5))
    return image


OPERATIONS = [
    lambda image: image,
    lambda image: image.copy(),
    lambda image: image.convert("L").convert("RGB"),
    lambda image: image.crop((3, 4, 20, 19)),
    lambda image: image.crop((-3, 4, 40, 19)),
    lambda image: image.crop((3, 4, 3, 19)),
    lambda image: image.crop(),
    lambda image: image.crop((3, 4, 20, 19)).transpose(FLIP).crop((1, 1, 9, 8)),
    lambda image: image.transpose(FLIP),
    lambda image: image.transpose(FLIP).transpose(FLIP),
    lambda image: image.transpose(Image.Transpose.ROTATE_90),
    lambda image: image.rotate(13, Image.Resampling.BILINEAR, fillcolor=(1, 2, 3)),
    lambda image: image.resize((12, 17), Image.Resampling.BILINEAR, box=(2.5, 3, 20, 19.25)),
    lambda image: image.reduce(2),
    lambda image: image.transform((10, 10), Image.Transform.AFFINE, (1, 0.1, 2, 0, 1, 3)),
    lambda image: image.point(lambda value: 255 - value),
    lambda image: ImageEnhance.Color(image).enhance(0.4),
    lambda image: ImageEnhance.Contrast(image).enhance(1.4),
    lambda image: ImageOps.equalize(image),
    lambda image: ImageChops.invert(image),
    lambda image: Image.blend(image, Image.new("RGB", image.size), 0.3),
    lambda image: Image.merge("RGB", image.split()[::-1]),
    pasted,
    drawn,
    shrunk,
    put,
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_it_is_an_image_like_any_other(operation):
    given = pixels()
    ours, theirs = operation(PixelImage(given)), operation(Image.fromarray(given))
    assert (ours.size, ours.mode) == (theirs.size, theirs.mode)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert ours.tobytes() == theirs.tobytes()
    np.testing.assert_array_equal(given, pixels())


def test_views_are_views_until_they_are_written_to():
    given = pixels()
    image = PixelImage(given)
    assert np.shares_memory(np.asarray(image), given)
    assert np.shares_memory(np.asarray(image.crop((3, 4, 20, 19))), given)
    image.putpixel((0, 0), (9, 9, 9))
    assert not np.shares_memory(np.asarray(image), given)
    assert image.getpixel((0, 0)) == (9, 9, 9)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_parts_are_resized_as_torchvision_and_nearly_as_pillow_does(data):
    width, height = data.draw(st.tuples(st.integers(1, 90), st.integers(1, 90)))
    left, top = data.draw(st.tuples(st.integers(0, width - 1), st.integers(0, height - 1)))
    right, bottom = data.draw(st.tuples(st.integers(left + 1, width), st.integers(top + 1, height)))
    size = data.draw(st.tuples(st.integers(1, 64), st.integers(1, 64)))
    given = pixels(width, height, seed=width)
    box = (left, top, right, bottom)
    ours = np.asarray(resized_part(PixelImage(given), box, size, Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(
        ours, np.asarray(resized_part(Image.fromarray(given), box, size, Image.Resampling.BILINEAR))
    )
    part = torch.from_numpy(np.array(given[top:bottom, left:right])).permute(2, 0, 1)
    wanted = v2.functional.resize(part, [size[1], size[0]], antialias=True)
    assert np.abs(ours.astype(int) - wanted.permute(1, 2, 0).numpy()).max() <= 1
    pillows = np.asarray(Image.fromarray(given).crop(box).resize(size, Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours - pillows).max() <= 2


@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_other_filters_are_pillows(resample):
    given = pixels()
    ours = resized_part(PixelImage(given), (2, 3, 20, 19), (9, 8), resample)
    theirs = Image.fromarray(given).resize((9, 8), resample, box=(2, 3, 20, 19))
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
