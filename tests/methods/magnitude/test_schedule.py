"""The formulas, by hand."""

from itertools import pairwise

import pytest

from compress.prune.schedule import sparsities


def test_the_steps_by_hand() -> None:
    assert sparsities("linear", 4, 0.8) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert sparsities("geometric", 2, 0.75) == pytest.approx([0.5, 0.75])  # half stays, then half of that
    assert sparsities("geometric", 3, 0.875) == pytest.approx([0.5, 0.75, 0.875])
    assert sparsities("cubic", 2, 0.8) == pytest.approx([0.7, 0.8])  # 0.8 * (1 - 1/8)
    assert sparsities("one-shot", 1, 0.8) == [0.8]


@pytest.mark.parametrize("schedule", ["linear", "geometric", "cubic"])
def test_they_grow_and_end_at_exactly_the_share_asked_for(schedule: str) -> None:
    for steps in range(1, 12):
        for percent in (0.1, 0.3, 0.55, 0.9, 0.99):
            shares = sparsities(schedule, steps, percent)  # type: ignore[arg-type]
            assert len(shares) == steps
            assert all(one < other for one, other in pairwise(shares))
            assert shares[0] > 0
            assert shares[-1] == percent  # to the last bit: 1 - (1 - p) is not p


def test_nothing_asked_for_is_nothing_at_every_step() -> None:
    assert sparsities("geometric", 3, 0.0) == [0, 0, 0]
