import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manyhot.errors import UserError
from manyhot.models.pooling import poolings

SLOW = {
    "average": lambda cells, _: sum(cells) / len(cells),
    "max": lambda cells, _: max(cells),
    "lse": lambda cells, setting: math.log(sum(math.exp(setting["r"] * c) for c in cells) / len(cells)) / setting["r"],
    "topk": lambda cells, setting: sum(sorted(cells)[-setting["k"] :]) / min(setting["k"], len(cells)),
}


@pytest.mark.parametrize(
    "setting",
    [{"name": "average"}, {"name": "max"}]
    + [{"name": "lse", "r": r} for r in (0.5, 4.0)]
    + [{"name": "topk", "k": k} for k in (1, 3, 12, 100)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pooling_equals_a_loop(setting, dtype):
    maps = torch.randn(2, 5, 3, 4, dtype=dtype, generator=torch.Generator().manual_seed(1))
    pooling = poolings.build(setting)
    pooled = pooling.pool(maps)
    assert pooled.dtype == dtype
    assert pooled.shape == (2, pooling.width(5)) == (2, 5)
    for n in range(2):
        for d in range(5):
            expected = SLOW[setting["name"]]([float(value) for value in maps[n, d].flatten()], setting)
            assert float(pooled[n, d]) == pytest.approx(expected, abs=1e-5)


def test_average_and_max_side_by_side():
    maps = torch.randn(2, 5, 3, 4)
    both = poolings.build({"name": "average+max"})
    parts = [poolings.build({"name": name}).pool(maps) for name in ("average", "max")]
    assert both.width(5) == 10
    assert torch.equal(both.pool(maps), torch.cat(parts, dim=1))


@given(st.floats(0.01, 50), st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20))
def test_log_sum_exp_lies_between_mean_and_max(r, cells):
    maps = torch.tensor(cells, dtype=torch.float64).view(1, 1, 1, -1)
    pooled = float(poolings.build({"name": "lse", "r": r}).pool(maps))
    assert float(maps.mean()) - 1e-6 <= pooled <= float(maps.max()) + 1e-6


@pytest.mark.parametrize("name", [name for name, _ in poolings])
def test_every_pooling_has_a_gradient_at_equal_cells(name):
    maps = torch.zeros(1, 2, 4, 4, requires_grad=True)
    poolings.build({"name": name}).pool(maps).sum().backward()
    assert torch.isfinite(maps.grad).all()
    assert maps.grad.sum() > 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"name": "averge"}, "Did you mean 'average'"),
        ({"name": "lse", "R": 3}, "unknown key 'R'"),
        ({"name": "topk", "k": 0}, "k: input should be greater"),
    ],
)
def test_faults_in_the_recipe_are_named(setting, message):
    with pytest.raises(UserError, match=message):
        poolings.build(setting)
