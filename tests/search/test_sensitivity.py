"""Widths from a table of sensitivities: hand numbers on two groups, and laws on random tables of a real network."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from conftest import zoo

from compress.graph.build import channel_graph
from compress.measure.accuracy import Score
from compress.prune.budget import ceilings_of, prices
from compress.prune.cost import cost_model
from compress.schema.settings import Budget
from compress.search.feasible import Feasible, feasible
from compress.search.sensitivity import (
    RULES,
    Curve,
    Drops,
    Rule,
    Table,
    by_greedy,
    by_threshold,
    filled,
    monotone,
    one_narrower,
    walked,
    widths_to_score,
)
from compress.search.space import WidthSpace, multiples_space

SHAPE = (3, 32, 32)

# -- two groups by hand: a of 1, 2 or 4 channels at 1 each, b of 2 or 4 at 3 each ----------------------------------

HAND = WidthSpace(("a", "b"), [np.array([1, 2, 4]), np.array([2, 4])], (0, 1))
DROPS = [np.array([3.0, 1.0, 0.0]), np.array([2.0, 0.0])]


def by_hand(high: float) -> Feasible:
    return Feasible(HAND, lambda widths: np.atleast_2d(widths) @ np.array([1.0, 3.0]), -np.inf, high)


@pytest.mark.parametrize(
    ("rule", "high", "widths"),
    [
        ("threshold", 16, [4, 4]),
        ("threshold", 15, [2, 4]),  # t = 1 costs 14
        ("threshold", 13, [4, 2]),  # t = 2 costs 8, and of the 5 that are left 2 make a whole again
        ("threshold", 9, [2, 2]),
        ("threshold", 7, [1, 2]),  # t = 3
        ("greedy", 15, [4, 2]),  # a loses 1 for 2, b 2 for 6
        ("greedy", 9, [2, 2]),
        ("greedy", 7, [1, 2]),
    ],
)
def test_two_groups_by_hand(rule: Rule, high: float, widths: list[int]) -> None:
    """At 13 the first group is wider than at 15: spending what is left may turn the order of two budgets around."""
    assert HAND.widths(RULES[rule](by_hand(high), DROPS)).tolist() == widths


def test_steps_of_one_threshold_are_taken_by_the_least_drop_per_price() -> None:
    drops = [np.array([2.0, 2.0, 0.0]), np.array([2.0, 0.0])]
    assert HAND.widths(walked(by_hand(15), drops, by_level=True)).tolist() == [4, 2]  # 2 for 6 before 2 for 2
    free = [np.array([0.0, 0.0, 0.0]), np.array([0.0, 0.0])]
    assert HAND.widths(walked(by_hand(15), free, by_level=True)).tolist() == [4, 2]  # the larger saving first


def test_drops_are_a_running_maximum_from_the_widest() -> None:
    assert monotone(np.array([5.0, -1.0, 2.0, -3.0, 1.0])).tolist() == [5, 2, 2, 1, 1]
    assert monotone(np.array([-2.0, -1.0])).tolist() == [0, 0]
    assert monotone(np.array([])).tolist() == []


def test_a_table_tells_drops_of_widths_that_were_not_scored() -> None:
    scores = (Score(80.0, 100.0, 1.5), Score(94.0, 100.0, 0.2), Score(92.0, 100.0, 0.4))
    table = Table(Score(96.0, 100.0, 0.1), (Curve("a", 16, (2, 8, 12), scores), Curve("b", 4, (), ())))
    options = [np.array([2, 5, 8, 10, 12, 14, 16]), np.array([4])]
    top1, loss = table.drops_of(options), table.drops_of(options, "loss")
    assert top1[0].tolist() == [16, 10, 4, 4, 4, 2, 0]  # 94 % at 8 channels counts as 92 %
    assert loss[0] == pytest.approx([1.4, 0.85, 0.3, 0.3, 0.3, 0.15, 0.0])
    assert top1[1].tolist() == loss[1].tolist() == [0]


def test_the_widths_to_score_are_bounded_and_hold_both_ends() -> None:
    space = WidthSpace(("a", "b", "c"), [np.arange(1, 17), np.array([4, 4, 8]), np.array([6])], (0, 1, 2))
    full = (16, 8, 6)
    assert widths_to_score(space, full, 100) == [tuple(range(1, 16)), (4,), ()]
    assert widths_to_score(space, full, 3) == [(1, 8, 15), (4,), ()]
    assert widths_to_score(space, full, 1) == [(1,), (4,), ()]
    assert one_narrower(space, full, 1, 4) == (16, 4, 6)


def test_one_place_narrows_all_of_its_groups() -> None:
    space = WidthSpace(("a", "b", "c"), [np.array([2, 4]), np.array([2, 4])], (0, 1), (0, 1, 0))
    assert one_narrower(space, (4, 4, 4), 0, 2) == (2, 4, 2)


# -- laws, on resnet20 with random tables --------------------------------------------------------------------------

BUDGETS = [
    *(Budget("preserve_ratio", share) for share in (1.0, 0.8, 0.61, 0.6, 0.5, 0.33, 0.2, 0.1)),
    Budget("percent", 0.4),
    Budget("flops_limit", 20.0),
]


@cache
def within(budget: Budget) -> Feasible:
    model = zoo("resnet20", SHAPE)
    graph = channel_graph(model, SHAPE)
    cost = cost_model(model, graph, SHAPE)
    return feasible(multiples_space(graph, 4, 0.1), ceilings_of(budget, cost.full_widths, prices(cost)), 0.01)


def random_drops(seed: int) -> Drops:
    """In steps of half a point, so that many are equal, as on few images."""
    random = np.random.default_rng(seed)
    space = within(BUDGETS[0]).space
    return [monotone(np.append(random.integers(0, 8, len(options) - 1) / 2, 0.0)) for options in space.options]


@pytest.mark.parametrize("choose", [by_threshold, by_greedy])
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_a_budget_is_met_from_below_and_no_group_could_be_a_step_wider(budget: Budget, choose: object) -> None:
    allowed = within(budget)
    for seed in range(3):
        gene = choose(allowed, random_drops(seed))  # type: ignore[operator]
        assert allowed.prices(gene)[0] <= allowed.high
        growing = np.flatnonzero(gene < allowed.space.widest)
        wider = gene + np.eye(len(gene), dtype=np.int64)[growing]
        assert (allowed.prices(wider) > allowed.high).all()
        assert len(growing) or budget.value == 1


@pytest.mark.parametrize("by_level", [True, False])
def test_on_the_walk_a_larger_budget_never_gives_a_narrower_group(by_level: bool) -> None:
    """What is left over is spent after it: no group loses by that."""
    allowed = within(BUDGETS[0])
    for seed in range(5):
        drops, last = random_drops(seed), allowed.space.narrowest
        for share in np.linspace(0.1, 1.0, 25):
            smaller = replace(allowed, high=share * allowed.high)
            gene = walked(smaller, drops, by_level)
            assert (gene >= last).all()
            assert (filled(smaller, drops, gene) >= gene).all()
            last = gene
        assert (last == allowed.space.widest).all()


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_the_walk_ends_between_two_thresholds(budget: Budget) -> None:
    """w(t) by its definition, at the least t that fits and at the one before."""
    allowed = within(budget)
    for seed in range(5):
        drops = random_drops(seed)
        thresholds = np.unique(np.concatenate(drops))
        by_definition = [np.array([np.flatnonzero(curve <= t)[0] for curve in drops]) for t in thresholds]
        fits = [allowed.prices(gene)[0] <= allowed.high for gene in by_definition]
        first = fits.index(True)
        gene = walked(allowed, drops, by_level=True)
        assert (by_definition[first] <= gene).all()
        before = by_definition[first - 1] if first else allowed.space.widest
        assert (gene <= before).all()
