"""Regions as evidence weighed by its extent, and the components of maps, against slow or independent ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhot.errors import UserError
from manyhot.models.backbones import create_backbone
from manyhot.models.detectors import create_detector
from manyhot.models.geometry import Geometry
from manyhot.models.receptive import _symmetric
from manyhot.models.region_pooling import (
    GAIN,
    LEAST_SHARE,
    Components,
    Evidence,
    Moments,
    box_sums,
    pool_evidence,
    to_cells,
)
from manyhot.recipe import Model

GEOMETRY = Geometry(stride=4.0, offset=2.5)
corner = st.floats(-3, 9, allow_nan=False)


def slow_sum(cells_HW: np.ndarray, box: list[float]) -> float:
    """Every cell times the area that it shares with the box."""
    total = 0.0
    for y in range(cells_HW.shape[0]):
        for x in range(cells_HW.shape[1]):
            wide = max(0.0, min(box[2], x + 1) - max(box[0], x))
            high = max(0.0, min(box[3], y + 1) - max(box[1], y))
            total += cells_HW[y, x] * wide * high
    return total


@settings(max_examples=60)
@given(st.lists(st.tuples(corner, corner, corner, corner), min_size=1, max_size=4), st.integers(0, 99))
def test_sums_over_boxes_are_those_of_a_slow_loop(corners: list[tuple[float, ...]], seed: int) -> None:
    map_DHW = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    boxes = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners]
    found = box_sums(map_DHW, torch.tensor(boxes, dtype=torch.float64))
    expected = [[slow_sum(channel, box) for channel in map_DHW.numpy()] for box in boxes]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("context", [None, 1.5])
@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_evidence_is_that_of_a_slow_loop(power: float, context: float | None) -> None:
    map_DHW = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = torch.tensor([[3.0, 4, 20, 21], [0, 0, 34, 26], [10.5, 8, 11, 9]], dtype=torch.float64)
    found = pool_evidence(map_DHW, boxes, GEOMETRY, power, context)
    whole = np.concatenate([map_DHW.numpy(), np.ones((1, 6, 8))])
    for row, box in zip(found, boxes.tolist(), strict=True):
        # pixel p reaches from p to p + 1, and cell i from (2.5 + .5 + 4 i) - 2 to the next
        cells = [(value - 1.0) / 4 for value in box]
        inner = np.array([slow_sum(channel, cells) for channel in whole]) / 48
        parts = [inner]
        if context is not None:
            middle = [(cells[0] + cells[2]) / 2, (cells[1] + cells[3]) / 2]
            half = [(cells[2] - cells[0]) / 2 * context, (cells[3] - cells[1]) / 2 * context]
            wider = [middle[0] - half[0], middle[1] - half[1], middle[0] + half[0], middle[1] + half[1]]
            parts.append(np.array([slow_sum(channel, wider) for channel in whole]) / 48 - inner)
        share = max(inner[-1], LEAST_SHARE)
        np.testing.assert_allclose(row, GAIN * np.concatenate(parts) / share * share**power, atol=1e-9)
    assert Evidence(GEOMETRY, power, context).width(3) == found.shape[1]


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_0", "resnet18"])
def test_the_mean_of_a_ramp_over_a_box_is_its_centre(name: str) -> None:
    backbone = create_backbone(name, "none")
    network = _symmetric(backbone)
    side = 416
    ramp = torch.arange(side, dtype=torch.float64)[None, None, None, :].expand(1, 3, 128, side) * 1e-6
    with torch.no_grad():
        map_DHW = (network(ramp) / network(torch.full_like(ramp, 1e-6))).nanmean(dim=1)
    stride, edge = backbone.geometry.stride, backbone.geometry.offset + 0.5 - backbone.geometry.stride / 2
    sides = [(edge + stride * a, edge + stride * b) for a, b in ((5, 8), (6, 7), (4, 9))]  # whole cells: no rounding
    boxes = torch.tensor([[x0, 20.0, x1, 101] for x0, x1 in sides], dtype=torch.float64)
    found = pool_evidence(map_DHW, boxes, backbone.geometry, 0.0)
    assert (to_cells(boxes, backbone.geometry)[:, 2] < map_DHW.shape[2]).all()
    torch.testing.assert_close(found[:, 0] / found[:, 1], (boxes[:, 0] + boxes[:, 2] - 1) / 2, atol=0.5, rtol=0)


def test_more_power_favours_the_box_that_holds_all_evidence() -> None:
    map_DHW = torch.zeros(1, 10, 10)
    map_DHW[0, 2:8, 2:8] = 1.0  # the body
    map_DHW[0, 2:4, 2:4] = 2.0  # the face
    boxes = torch.tensor([[8.0, 8, 16, 16], [8, 8, 32, 32], [0, 0, 40, 40]])
    flat = Geometry(stride=4.0, offset=1.5)
    best = [int(pool_evidence(map_DHW, boxes, flat, power)[:, 0].argmax()) for power in (0.0, 0.5, 1.0)]
    assert best[:2] == [0, 1]
    sums = pool_evidence(map_DHW, boxes, flat, 1.0)[:, 0]
    torch.testing.assert_close(sums[1], sums[2])


def test_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    maps = [torch.einsum("de,ehw->dhw", mixing, torch.randn(6, 9, 7, generator=generator, dtype=torch.float64)) + 3
            for _ in range(4)]  # fmt: skip
    moments = Moments(6)
    for one in maps:
        moments.add(one)
    components = Components(6, 3).double()
    components.fit(moments)
    cells = torch.cat([one.flatten(1).T for one in maps]).numpy()
    scaled = StandardScaler().fit_transform(cells)
    expected = PCA(3).fit(scaled)
    projected = expected.transform(scaled) / np.sqrt(expected.explained_variance_ * (len(cells) - 1) / len(cells))
    found = torch.cat([components(one[None])[0].flatten(1).T for one in maps]).numpy()
    signs = np.sign((found * projected).sum(axis=0))
    np.testing.assert_allclose(found, projected * signs, atol=1e-9)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-9)
    assert not list(components.parameters())  # nothing learns
    assert set(components.state_dict()) == {"weight", "bias"}


def test_a_channel_that_never_changes_counts_nothing() -> None:
    moments = Moments(3)
    cells = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    cells[1] = 5.0
    moments.add(cells)
    components = Components(3, 2)
    components.fit(moments)
    assert torch.isfinite(components.weight).all()
    assert (components.weight[:, 1] == 0).all()


def test_what_does_not_go_together() -> None:
    def build(*, frozen: bool = True, **settings: object) -> None:
        create_detector(
            Model(backbone="alexnet", weights="none", frozen=frozen, detector={"name": "wsddn", **settings}), 2
        )

    build(squeeze=8, squeeze_by="components", kept="regions", width=None, region_pooling="evidence")
    with pytest.raises(UserError, match=r"needs model\.frozen"):
        build(frozen=False, squeeze=8, squeeze_by="components")
    with pytest.raises(UserError, match="at most 256"):
        build(squeeze=300, squeeze_by="components")
    with pytest.raises(UserError, match="squeeze learns"):
        build(squeeze=8, kept="regions")
    with pytest.raises(UserError, match="needs bins"):
        build(head="alexnet", region_pooling="evidence")
