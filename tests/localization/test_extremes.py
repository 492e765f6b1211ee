"""Of many pictures the best and the worst placed are kept, by a sort of them all."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manyhot.localization.extremes import SIDE, Extremes, Placed, reduced


def placed(row, overlap):
    return Placed(row, (10, 10), 0.5, overlap, True, None, np.zeros((1, 4)), np.zeros((2, 2), np.uint8))


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9]), max_size=20), st.integers(1, 4), st.randoms())
def test_the_ends_are_those_of_a_sort(overlaps, number, random):
    rows = list(enumerate(overlaps))
    random.shuffle(rows)
    kept = Extremes(number)
    for row, overlap in rows:
        kept.take(3, placed(row, overlap))
    every = [row for _, row in sorted((-overlap, row) for row, overlap in rows)]
    found = [[one.row for one in end] for end in kept.ends(3)]
    if len(every) < 2 * number:
        assert found[0] + found[1][::-1] == every
        assert 0 <= len(found[0]) - len(found[1]) <= 1
    else:
        assert found[0] == every[:number]
        assert found[1] == every[::-1][:number]
    assert kept.ends(0) == ([], [])


def test_maps_are_kept_small():
    heat = np.zeros((300, 600), np.float32)
    heat[:, 300:] = 1
    small = reduced(heat)
    assert small.shape == (SIDE // 2, SIDE)
    assert small[:, : SIDE // 2 - 1].max() == 0
    assert small[:, SIDE // 2 + 1 :].min() == 255
    assert reduced(heat[:4, :6]).shape == (4, 6)
