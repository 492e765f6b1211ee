"""Boxes of heat maps, by a flood fill in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manyhot.errors import UserError
from manyhot.localization.boxes import Components, Extreme, Largest, Mass, box_rules
from manyhot.localization.heat import fixed, relative
from manyhot.metrics.overlap import iou

heats = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])
)


def flood(heat, share):
    """All 8-connected parts with heat ≥ share · maximum: (box, pixels, mean heat)."""
    top = float(heat.max())
    waiting = {(int(y), int(x)) for y, x in np.argwhere(heat >= np.float32(share * top))} if top > 0 else set()
    parts = []
    while waiting:
        part, edge = set(), [waiting.pop()]
        while edge:
            y, x = edge.pop()
            part.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & waiting
            waiting -= near
            edge.extend(near)
        ys, xs = [y for y, _ in part], [x for _, x in part]
        box = (min(xs), min(ys), max(xs) + 1, max(ys) + 1)
        parts.append((box, len(part), float(np.mean([heat[at] for at in part]))))
    return parts


@settings(deadline=None)
@given(heats, st.sampled_from([0.1, 0.2, 0.5, 1.0]))
def test_the_largest_part_is_that_of_a_flood_fill(heat, share):
    parts = flood(heat, share)
    found = Largest(threshold=share).find(heat)
    if not parts:
        assert found == []
        return
    most = max(size for _, size, _ in parts)
    matching = [mean for box, size, mean in parts if size == most and box == found[0].corners]
    assert any(found[0].heat == pytest.approx(mean) for mean in matching)


@settings(deadline=None)
@given(heats, st.sampled_from([0.1, 0.5]))
def test_the_extreme_rule_spans_all_parts(heat, share):
    parts = flood(heat, share)
    found = Extreme(threshold=share).find(heat)
    if not parts:
        assert found == []
        return
    boxes = np.array([box for box, _, _ in parts])
    assert found[0].corners == (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))
    assert found[0].heat == pytest.approx(
        sum(size * mean for _, size, mean in parts) / sum(size for _, size, _ in parts)
    )


@settings(deadline=None)
@given(heats, st.sampled_from([0.0, 0.05, 0.2]), st.sampled_from([0.3, 0.4, 1.0]))
def test_components_are_all_parts_large_enough_and_far_enough_apart(heat, least, overlap):
    rule = Components(least_area=least, overlap=overlap)
    found = rule.find(heat)
    all_parts = [part for share in rule.thresholds for part in flood(heat, share)]
    allowed = {box for box, _, _ in all_parts if (box[2] - box[0]) * (box[3] - box[1]) >= least * heat.size}
    assert {box.corners for box in found} <= allowed
    assert bool(found) == bool(allowed)
    assert [box.heat for box in found] == sorted((box.heat for box in found), reverse=True)
    corners = np.array([box.corners for box in found], float).reshape(-1, 4)
    apart = iou(corners, corners)
    np.fill_diagonal(apart, 0)
    assert (apart <= overlap).all()
    for box in allowed:
        assert iou(np.array([box]), corners).max() > overlap or box in {one.corners for one in found}


def test_a_picture_with_two_objects_gives_two_boxes():
    heat = np.zeros((50, 80), np.float32)
    heat[5:20, 5:25] = 1.0
    heat[30:45, 50:75] = 0.6
    heat[48, 2] = 0.9  # one hot pixel is less than a hundredth of the picture
    assert [box.corners for box in Components().find(heat)] == [(5, 5, 25, 20), (50, 30, 75, 45)]
    assert [box.corners for box in Largest().find(heat)] == [(50, 30, 75, 45)]
    assert [box.corners for box in Largest(threshold=0.7).find(heat)] == [(5, 5, 25, 20)]
    assert [box.corners for box in Extreme(threshold=0.5).find(heat)] == [(2, 5, 75, 49)]


def test_pixels_that_touch_at_a_corner_hang_together():
    heat = np.eye(6, dtype=np.float32)
    assert Largest().find(heat) == [((0, 0, 6, 6), 1.0)]


def test_a_threshold_replaces_those_of_the_rule():
    assert Largest().at(0.4) == Largest(threshold=0.4)
    assert Extreme().at(0.4) == Extreme(threshold=0.4)
    assert Components(overlap=0.3).at(0.4) == Components(thresholds=(0.4,), overlap=0.3)


@settings(deadline=None)
@given(hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(-50, 50, width=32)))
def test_relative_maps_run_from_0_to_1(placed):
    heat = relative(placed)
    for before, after in zip(placed, heat, strict=True):
        if before.max() > before.min():
            assert (after.min(), after.max()) == (0, 1)
            wanted = (before.astype(float) - before.min()) / (float(before.max()) - float(before.min()))
            np.testing.assert_allclose(after, wanted, atol=1e-6)
        else:
            assert not after.any()
    assert Largest().find(np.zeros((4, 5))) == []


@settings(deadline=None)
@given(hnp.arrays(np.float32, (2, 3), elements=st.floats(-200, 200, width=32)))
def test_the_fixed_scale_is_the_sigmoid(values):
    found = fixed(values)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-values.astype(np.longdouble))), rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(fixed(-values), 1 - found, atol=1e-6)


def test_an_unknown_rule_names_the_known_ones():
    with pytest.raises(UserError, match=r"unknown box rule 'larges' in --boxes.*Did you mean 'largest'"):
        box_rules.build({"name": "larges"})
    with pytest.raises(UserError, match="threshold"):
        box_rules.build({"name": "largest", "threshold": 0})


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(0, 1, width=16)),
    st.sampled_from([0.01, 0.1, 0.3, 0.45]),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_the_mass_rule_leaves_its_share_beyond_each_side(heat, tail, power):
    found = Mass(threshold=tail, power=power).find(heat)
    mass = heat.astype(np.float64) ** power
    if not mass.any():
        assert found == []
        return
    ((x0, y0, x1, y1), mean) = found[0]
    assert 0 <= x0 < x1 <= heat.shape[1]
    assert 0 <= y0 < y1 <= heat.shape[0]
    total, slack = mass.sum(), 1e-9 * mass.sum()
    outside = [mass[:, :x0], mass[:, x1:], mass[:y0], mass[y1:]]
    assert all(part.sum() <= tail * total + slack for part in outside)
    one_less = [mass[:, : x0 + 1], mass[:, x1 - 1 :], mass[: y0 + 1], mass[y1 - 1 :]]
    assert all(part.sum() >= tail * total - slack for part in one_less)  # and no narrower box would
    assert mean == pytest.approx(float(heat[y0:y1, x0:x1].mean()), abs=1e-6)


def test_one_far_pixel_moves_the_mass_rule_little():
    heat = np.zeros((60, 80), np.float32)
    heat[20:40, 30:50] = 1
    heat[0, 79] = 1
    assert Extreme(threshold=0.5).find(heat)[0].corners == (30, 0, 80, 40)
    assert iou(np.array([Mass().find(heat)[0].corners]), np.array([[30, 20, 50, 40]]))[0, 0] > 0.8


def test_half_of_the_mass_beyond_each_side_is_refused():
    with pytest.raises(UserError, match="leaves no box"):
        Mass().at(0.5)
