"""Deep descriptor transforming: its axes are principal components, its maps what lies along them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import uniform_filter

from manyhot import recipe
from manyhot.localization.fitting import AXES, read_axes, write_axes
from manyhot.localization.heatmaps import heat_maps
from manyhot.localization.transforming import Axes, AxesFit, DescriptorTransform
from manyhot.localization.views import Views
from manyhot.models.classifier import create_classifier

SHOWN = [[0], [0, 2], [2], [], [0]]


@pytest.fixture(scope="module")
def views() -> list[Views]:
    """Five pictures of two views each, the second view wider, through a network with random weights; then two more."""
    torch.manual_seed(4)
    model = create_classifier(recipe.Model(backbone="squeezenet1_1", weights="none", pooling="average+max"), 4, 1)
    model.head.linear.weight.data.normal_(mean=0.2, std=0.5)
    model.eval()
    stacks = [torch.randn(5, 1, 3, 96, 96), torch.randn(5, 1, 3, 96, 128)]
    return [Views(model, stacks), Views(model, [torch.randn(2, 2, 3, 96, 96)])]


def slow_descriptors(map_DHW: np.ndarray, power: float, reach: int) -> np.ndarray:
    """[h · w, D], in float64."""
    raised = np.sign(map_DHW) * np.abs(map_DHW.astype(np.float64)) ** power
    side = 2 * reach + 1
    return uniform_filter(raised, (0, side, side), mode="nearest").reshape(len(map_DHW), -1).T


def slow_attention(views: Views, class_: int, stack: int, picture: int, view: int) -> np.ndarray:
    heat = heat_maps.build({"name": "gradcam"}).cells(views, [class_])[stack][picture, view, 0].numpy()
    return heat / heat.max() if heat.max() > 0 else heat


def fitted(views: list[Views], part: DescriptorTransform) -> Axes:
    fit = AxesFit(part, 4)
    fit.take(views[0], SHOWN)
    fit.take(views[1], [[], [2, 0]])
    return fit.axes()


@pytest.mark.parametrize(("power", "reach"), [(0.25, 1), (1.0, 0), (0.5, 2)])
def test_an_axis_is_the_first_principal_component_of_all_cells_of_a_class(views, power: float, reach: int) -> None:
    axes = fitted(views, DescriptorTransform(power=power, reach=reach))
    assert not axes.axes[[1, 3]].any()
    for c in (0, 2):
        rows, heats = [], []
        for some, shown in zip(views, (SHOWN, [[], [2, 0]]), strict=True):
            for picture, own in enumerate(shown):
                for stack, maps in enumerate(some.maps):
                    for view in range(maps.shape[1]):
                        if c in own:
                            rows.append(slow_descriptors(maps[picture, view].numpy(), power, reach))
                            heats.append(slow_attention(some, c, stack, picture, view).ravel())
        rows, heats = np.concatenate(rows), np.concatenate(heats)
        mean = rows.mean(axis=0)
        first = np.linalg.svd(rows - mean, full_matrices=False)[2][0]
        first *= np.sign(np.cov((rows - mean) @ first, heats)[0, 1])
        np.testing.assert_allclose(axes.means[c].numpy(), mean, atol=1e-5)
        np.testing.assert_allclose(axes.axes[c].numpy(), first, atol=2e-4)


def test_a_map_is_what_lies_beyond_the_mean_along_the_axis_times_one_plus_attention(views) -> None:
    part = DescriptorTransform(attention=1.5)
    axes = fitted(views, part)
    classes = [2, 1, 0]
    for stack, heat in enumerate(part.fitted(axes).cells(views[0], classes)):
        maps = views[0].maps[stack]
        assert heat.shape == (*maps.shape[:2], 3, *maps.shape[-2:])
        for picture in range(5):
            rows = slow_descriptors(maps[picture, 0].numpy(), 0.25, 1)
            for place, c in enumerate(classes):
                seen = slow_attention(views[0], c, stack, picture, 0)
                along = (rows - axes.means[c].numpy()) @ axes.axes[c].numpy()
                wanted = along.clip(min=0).reshape(seen.shape) * (1 + 1.5 * seen) if c != 1 else seen
                np.testing.assert_allclose(heat[picture, 0, place].numpy(), wanted, atol=1e-5)


def test_without_axes_there_is_no_map(views) -> None:
    with pytest.raises(ValueError, match="not fitted"):
        heat_maps.build({"name": "ddt"}).cells(views[0], [0])


def test_an_object_in_changing_places_is_found_though_the_head_sees_only_a_part_of_it(views) -> None:
    """Object cells have three channels in common; the head was given the first of them alone."""
    torch.manual_seed(0)
    maps = torch.rand(8, 1, 512, 12, 12) * 0.2
    true = torch.zeros(8, 12, 12, dtype=torch.bool)
    for picture in range(8):
        y, x = torch.randint(0, 6, (2,)).tolist()
        true[picture, y : y + 6, x : x + 6] = True
        maps[picture, 0, 1:3, y : y + 6, x : x + 6] += 1
        maps[picture, 0, 0, y : y + 2, x : x + 2] += 1
    model = views[0].model
    before = model.head.linear.weight.data.clone()
    model.head.linear.weight.data.zero_()[0, 0] = 1
    some = Views(model, [torch.randn(8, 1, 3, 96, 96)])
    some.maps = [maps]
    part = DescriptorTransform(reach=0)
    fit = AxesFit(part, 4)
    fit.take(some, [[0]] * 8)
    (heat,) = part.fitted(fit.axes()).cells(some, [0])
    (grad,) = heat_maps.build({"name": "gradcam"}).cells(some, [0])
    model.head.linear.weight.data = before
    assert torch.equal(heat[:, 0, 0] > 0.2 * heat.amax(), true)
    assert not torch.equal(grad[:, 0, 0] > 0.2 * grad.amax(), true)


finite = st.floats(-50, 50, width=32)


@given(arrays.arrays(np.float32, (1, 1, 2, 4, 5), elements=finite), st.sampled_from([0.25, 0.5, 1.0]))
def test_descriptors_keep_their_sign_and_a_flat_map_stays_flat(values: np.ndarray, power: float) -> None:
    maps = torch.from_numpy(values)
    plain = DescriptorTransform(power=power, reach=0).descriptors(maps)
    assert torch.equal(plain.sign(), maps.sign())
    if power == 1:
        torch.testing.assert_close(plain, maps)
    flat = maps[..., :1, :1].expand_as(maps)
    torch.testing.assert_close(
        DescriptorTransform(power=power, reach=1).descriptors(flat),
        DescriptorTransform(power=power, reach=0).descriptors(flat),
    )


def test_axes_are_kept_under_a_key_and_damage_is_seen(tmp_path: Path) -> None:
    axes = Axes(torch.randn(3, 7), torch.randn(3, 7))
    assert read_axes(tmp_path, "a") is None
    write_axes(tmp_path, "a", axes)
    again = read_axes(tmp_path, "a")
    assert again is not None
    assert torch.equal(again.means, axes.means)
    assert torch.equal(again.axes, axes.axes)
    assert read_axes(tmp_path, "b") is None
    content = bytearray((tmp_path / AXES).read_bytes())
    content[-3] ^= 1
    (tmp_path / AXES).write_bytes(content)
    assert read_axes(tmp_path, "a") is None
    (tmp_path / AXES).write_bytes(b"nothing")
    assert read_axes(tmp_path, "a") is None
