"""Bounds say what they mean."""

import typing

import pytest

from compress.schema.bounds import Bound, Count, Fraction, Natural, NonNegative, Positive, Share
from compress.schema.check import check_value
from compress.schema.settings import Recipe


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


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (Share, [0.001, 1.0], [0.0, 1.001]),
        (Fraction, [0.0, 0.999], [-0.001, 1.0]),
        (Count, [1], [0, True, 1.0]),
        (Natural, [0], [-1, False, "0"]),
        (Positive, [1e-9, 1], [0.0, True, float("inf"), float("nan")]),
        (NonNegative, [0.0], [-1e-9]),
        (typing.get_type_hints(Recipe, include_extras=True)["batch_size"], [2], [1]),
        (typing.get_type_hints(Recipe, include_extras=True)["step_factor"], [0.999], [0.0, 1.0]),
    ],
)
def test_where_the_kinds_of_numbers_end(kind: object, inside: list[float], outside: list[float]) -> None:
    assert all(check_value("x", value, kind) == [] for value in inside)
    assert all(len(check_value("x", value, kind)) == 1 for value in outside)
