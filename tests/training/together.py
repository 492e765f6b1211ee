"""What test_processes.py starts in several processes: python together.py FOLDER TABLE RECIPE CHANGES_AS_JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from manyhot.processor import prepare_processor

prepare_processor()

import torch  # noqa: E402
from torch import nn  # noqa: E402

import manyhot  # noqa: E402
from manyhot import processes  # noqa: E402
from manyhot.models.global_batch import GlobalBatch  # noqa: E402
from manyhot.models.weight_standardization.layers import ChannelEpsBatchNorm2d  # noqa: E402


def compare_norm(norm: nn.Module) -> None:
    """A BatchNorm over the processes against one over the whole batch: outputs, statistics and all gradients.

    Seven pictures: process 0 has three, process 1 two, process 2 none and so a stand-in, the rest has nobody.
    """
    place = processes.place()
    shares = [[0, 2, 4], [1, 3], []]
    together = sum(map(len, shares))
    x = torch.randn(7, 4, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    factors = torch.randn(7, 4, 3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    alone = norm.double()
    ours = (
        type(norm).from_norm(nn.BatchNorm2d(4).double(), torch.full((4,), 0.1, dtype=torch.float64))
        if isinstance(norm, ChannelEpsBatchNorm2d)
        else nn.BatchNorm2d(4).double()
    )
    ours.load_state_dict(alone.state_dict())
    whole = x[:together].requires_grad_()
    wanted = alone(whole)
    (wanted * factors[:together]).sum().backward()
    rows = shares[place.rank]
    mine = x.detach()[rows or [6]].requires_grad_()
    with GlobalBatch(7, torch.tensor(rows or [6]), together, synchronise=True, counts=bool(rows)):
        found = ours(mine)
    (found * factors[rows]).sum().backward() if rows else (found * 0).sum().backward()
    close = torch.testing.assert_close
    if rows:
        close(found, wanted[rows])
        close(mine.grad, whole.grad[rows])
    else:
        assert not mine.grad.any()
    close(ours.running_mean, alone.running_mean)
    close(ours.running_var, alone.running_var)
    for one, other in zip(ours.parameters(), alone.parameters(), strict=True):
        close(processes.summed(one.grad), other.grad)


def main() -> None:
    folder, table, recipe = map(Path, sys.argv[1:4])
    with processes.joined():
        compare_norm(nn.BatchNorm2d(4))
        compare_norm(ChannelEpsBatchNorm2d.from_norm(nn.BatchNorm2d(4), torch.full((4,), 0.1)))
        for name, changes in json.loads(sys.argv[4]).items():
            manyhot.train(manyhot.load_recipe(str(recipe), changes), manyhot.open_source(str(table)), folder / name)
        manyhot.evaluate(folder / "plain", "test")


if __name__ == "__main__":
    main()
