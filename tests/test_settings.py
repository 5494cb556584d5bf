"""Bounds say what they mean."""

import pytest

from compress.settings import Bound


@pytest.mark.parametrize(
    ("bound", "text", "inside", "outside"),
    [
        (Bound(gt=0, le=1), "in (0, 1]", [0.5, 1], [0, 1.01]),
        (Bound(ge=0, lt=1), "in [0, 1)", [0, 0.99], [-0.1, 1]),
        (Bound(gt=0), "> 0", [0.1], [0, -1]),
        (Bound(ge=1), ">= 1", [1, 2], [0]),
        (Bound(le=3), "<= 3", [3], [3.5]),
        (Bound(lt=3), "< 3", [2.9], [3]),
    ],
)
def test_bound_reads_as_it_acts(bound: Bound, text: str, inside: list[float], outside: list[float]) -> None:
    assert str(bound) == text
    assert all(bound.allows(value) for value in inside)
    assert not any(bound.allows(value) for value in outside)
