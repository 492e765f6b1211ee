"""Maps are laid where their cells are: by torch's own resizing where that is exact, by ideal maps where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from manyhot.data.crops import Frame
from manyhot.localization.boxes import Largest
from manyhot.localization.placing import ViewMap, hottest_point, place, scaled
from manyhot.metrics.overlap import iou
from manyhot.models.geometry import Geometry


def whole(size, shape=None):
    """The frame of a view that shows a picture whole, squashed to `shape`."""
    return Frame(0, 0, *size, *(shape or size))


@settings(deadline=None)
@given(cells=st.integers(1, 7), stride=st.sampled_from([4, 8, 32]), seed=st.integers(0, 99))
def test_where_cells_tile_the_view_torch_resizes_the_same(cells, stride, seed):
    maps = np.random.default_rng(seed).normal(size=(3, cells, cells + 1)).astype(np.float32)
    side, other = cells * stride, (cells + 1) * stride
    view = ViewMap(maps, Geometry(stride, (stride - 1) / 2), whole((other, side)))
    wanted = F.interpolate(torch.from_numpy(maps)[None], size=(side, other), mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(place([view], (other, side)), wanted, atol=1e-5)


@settings(deadline=None)
@given(offset=st.floats(0, 31), stride=st.integers(2, 32), x=st.integers(0, 5), y=st.integers(0, 5))
def test_the_centre_of_a_cell_is_where_the_geometry_says(offset, stride, x, y):
    geometry = Geometry(stride, round(offset))
    maps = np.zeros((1, 6, 6))
    maps[0, y, x] = 1
    size = (32 + 6 * stride, 40 + 6 * stride)
    heat = place([ViewMap(maps, geometry, whole(size))], size)[0]
    found = geometry.centre(x), geometry.centre(y)
    assert heat[int(found[1]), int(found[0])] == pytest.approx(1)
    if 0 < x < 5 and 0 < y < 5:
        assert hottest_point(heat) == found


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.sampled_from([1, 3, 5, 7]), st.booleans(), st.integers(0, 99))
def test_a_smaller_picture_has_the_heat_of_the_larger_ones_pixels(width, height, odd, mirrored, seed):
    rng = np.random.default_rng(seed)
    left, top = rng.uniform(0, 0.4) * width * odd, rng.uniform(0, 0.4) * height * odd
    frame = Frame(left, top, 0.9 * width * odd, 1.0 * height * odd, 64, 48, mirrored)
    views = [ViewMap(rng.normal(size=(2, 5, 6)).astype(np.float32), Geometry(10, 3), frame)]
    large = place(views, (width * odd, height * odd))
    small = place(scaled(views, (1 / odd, 1 / odd)), (width, height))
    middle = large[:, odd // 2 :: odd, odd // 2 :: odd]  # where odd parts have a pixel in their middle
    seen = np.ones(small.shape[1:], bool)
    centres_x, centres_y = odd * (np.arange(width) + 0.5), odd * (np.arange(height) + 0.5)
    seen &= ((centres_x >= frame.left) & (centres_x < frame.right))[None]
    seen &= (centres_y >= frame.top)[:, None]
    np.testing.assert_allclose(small[:, seen], middle[:, seen], atol=1e-5)


@settings(deadline=None)
@given(st.integers(20, 60), st.integers(20, 60), st.booleans(), st.integers(0, 99))
def test_mirrored_squashed_and_cropped_views_meet_in_the_picture(width, height, squash, seed):
    # A slope over the picture, read at cell centres in any frame, is that slope again between the outer centres.
    def cells(frame, geometry, count):
        centres = geometry.offset + geometry.stride * np.arange(count) + 0.5
        across = centres / frame.width * (frame.right - frame.left)
        xs = (frame.right - across if frame.mirrored else frame.left + across) - 0.5
        ys = frame.top + centres / frame.height * (frame.bottom - frame.top) - 0.5
        return (3 * xs + 5 * ys[:, None])[None]

    rng = np.random.default_rng(seed)
    left, top = rng.uniform(0, 0.4) * width, rng.uniform(0, 0.4) * height
    part = Frame(left, top, left + 0.55 * width, top + 0.6 * height, 64, 64)
    frames = [whole((width, height), (64, 80) if squash else None), part, part.flipped()]
    geometry = Geometry(frames[0].width / 16, -1.0)
    views = [
        ViewMap(cells(frame, Geometry(frame.width / 16, -1.0), 60), Geometry(frame.width / 16, -1.0), frame)
        for frame in frames
    ]
    assert geometry.stride > 0
    wanted = 3 * np.arange(width) + 5 * np.arange(height)[:, None]
    for some in ([views[0]], views, views[1:]):
        heat = place(some, (width, height))[0]
        seen = heat > heat.min() + 1e-3 if len(some) == 2 else np.ones_like(heat, bool)
        ys, xs = np.nonzero(seen)
        inner = seen & (np.arange(width) >= xs.min() + 4) & (np.arange(width) <= xs.max() - 4)
        inner &= ((np.arange(height) >= ys.min() + 4) & (np.arange(height) <= ys.max() - 4))[:, None]
        np.testing.assert_allclose(heat[inner], wanted[inner], atol=0.02)


def test_what_no_view_shows_is_as_cold_as_the_coldest_shown():
    view = ViewMap(np.array([[[2.0, 3.0], [4.0, 5.0]]]), Geometry(5, 2), Frame(10, 10, 20, 20, 10, 10))
    heat = place([view], (30, 30))[0]
    assert heat[:10].max() == heat[20:].max() == 2
    assert heat[12, 12] == 2
    assert heat[17, 17] == 5
    assert heat.max() == 5


def test_of_a_plateau_the_middle_is_the_point():
    heat = np.zeros((20, 30))
    heat[4:9, 10:21] = 1
    assert hottest_point(heat) == (15, 6)
    heat[15, 3] = 1.5
    assert hottest_point(heat) == (3, 15)


def ideal(box, geometry, cells):
    """The share of each cell's own square (one stride wide, round its centre) that a box covers, [h, w]."""
    centres = geometry.offset + 0.5 + geometry.stride * np.arange(cells)
    low, high = centres - geometry.stride / 2, centres + geometry.stride / 2
    across = (np.minimum(high, box[2]) - np.maximum(low, box[0])).clip(0) / geometry.stride
    down = (np.minimum(high, box[3]) - np.maximum(low, box[1])).clip(0) / geometry.stride
    return down[:, None] * across


# The localizer of AlexNet at 512 px, and ResNet's last stage at the same.
@pytest.mark.parametrize(("geometry", "cells", "smallest"), [(Geometry(16, 31), 29, 96), (Geometry(32, 0), 16, 160)])
def test_boxes_of_ideal_maps_fit_when_placed_and_miss_when_stretched(geometry, cells, smallest):
    rng = np.random.default_rng(0)
    side = 512
    found = {"placed": [], "stretched": [], "align_corners": []}
    for _ in range(150):
        span = rng.integers(smallest, 300, 2)
        corner = rng.integers(24, side - 24 - span)
        box = np.array([*corner, *(corner + span)], float)
        cell_map = ideal(box, geometry, cells)
        as_tensor = torch.from_numpy(cell_map)[None, None]
        heats = {
            "placed": place([ViewMap(cell_map[None], geometry, whole((side, side)))], (side, side))[0],
            "stretched": F.interpolate(as_tensor, size=(side, side), mode="bilinear")[0, 0].numpy(),
            "align_corners": F.interpolate(as_tensor, size=(side, side), mode="bilinear", align_corners=True)[
                0, 0
            ].numpy(),
        }
        for way, heat in heats.items():
            (fitted,) = Largest(threshold=0.5).find(heat)
            found[way].append(iou(np.array([fitted.corners]), box[None])[0, 0])
    means = {way: float(np.mean(values)) for way, values in found.items()}
    print(geometry, means)
    assert means["placed"] >= 0.94
    assert means["stretched"] < 0.8
    assert means["align_corners"] < means["stretched"]
