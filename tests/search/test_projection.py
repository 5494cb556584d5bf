"""Laws of the projection of preferences on a budget, on networks whose groups differ in kind and in options."""

from itertools import pairwise

import numpy as np
import pytest
from conftest import zoo

from compress.graph.build import channel_graph
from compress.prune.budget import Price, kept_channels
from compress.prune.cost import cost_model
from compress.search.feasible import uniform_gene
from compress.search.projection import preferences_of, projected
from compress.search.space import WidthSpace, multiples_space, shares_space

SHAPE = (3, 32, 32)


def spaces() -> list[tuple[WidthSpace, Price]]:
    found: list[tuple[WidthSpace, Price]] = []
    for name in ("resnet20", "mobilenetv2"):
        model = zoo(name)
        graph = channel_graph(model, SHAPE)
        price = cost_model(model, graph, SHAPE).macs
        found += [
            (multiples_space(graph, 4, 0.2), price),
            (shares_space(model, graph), price),
            (multiples_space(graph, 4), kept_channels),
        ]
    return found


SPACES = spaces()
everywhere = pytest.mark.parametrize(("space", "price"), SPACES)


def limits(space: WidthSpace, price: Price) -> np.ndarray:
    least, most = price(space.widths(np.stack([space.narrowest, space.widest])))
    return np.linspace(least, most, 12)


def drawn(space: WidthSpace, count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.7, (count, len(space.options)))


@everywhere
def test_what_is_left_of_the_budget_pays_no_step_of_some_place(space: WidthSpace, price: Price) -> None:
    for high in limits(space, price):
        genes = projected(space, price, high, drawn(space))
        prices = price(space.widths(genes))
        assert (prices <= high).all()
        for gene, cost in zip(genes, prices, strict=True):
            wider = np.minimum(gene + np.eye(len(gene), dtype=np.int64), space.widest)
            steps = price(space.widths(wider)) - cost
            assert high - cost < steps.max() or (gene == space.widest).all()


@everywhere
def test_a_larger_budget_narrows_no_place(space: WidthSpace, price: Price) -> None:
    genes = [projected(space, price, high, drawn(space)) for high in limits(space, price)]
    assert all((wide >= narrow).all() for narrow, wide in pairwise(genes))


@everywhere
def test_a_larger_preference_does_not_narrow_its_place(space: WidthSpace, price: Price) -> None:
    high, random = limits(space, price)[5], np.random.default_rng(1)
    for wishes in drawn(space, 5):
        place = int(random.integers(len(wishes)))
        raised = wishes + np.linspace(0, 2, 15)[:, None] * (np.arange(len(wishes)) == place)
        assert (np.diff(projected(space, price, high, raised)[:, place]) >= 0).all()


@everywhere
def test_of_equal_places_the_preferred_one_is_at_least_as_wide(space: WidthSpace, price: Price) -> None:
    wishes = drawn(space)
    genes = projected(space, price, limits(space, price)[5], wishes)
    alike = [
        (one, other)
        for one in range(len(space.options))
        for other in range(len(space.options))
        if np.array_equal(space.options[one], space.options[other])
    ]
    assert len(alike) > len(space.options)
    for one, other in alike:
        preferred = wishes[:, one] > wishes[:, other]
        assert (genes[preferred, one] >= genes[preferred, other]).all()


@everywhere
def test_equal_preferences_are_uniform_widths_and_a_constant_changes_nothing(space: WidthSpace, price: Price) -> None:
    for high in limits(space, price):
        equal = projected(space, price, high, np.full((2, len(space.options)), 0.25))
        assert (equal == uniform_gene(space, price, high)).all()
        wishes = drawn(space, 3)
        assert np.array_equal(projected(space, price, high, wishes + 3), projected(space, price, high, wishes))


def test_the_preferences_of_a_gene_give_it_again_on_its_price() -> None:
    space, price = SPACES[0]
    genes = space.random(50, np.random.default_rng(0))
    again = [projected(space, price, price(space.widths(gene))[0], preferences_of(space, gene)) for gene in genes]
    assert np.abs(np.stack(again) - genes).max() <= 1
    assert np.abs(np.stack(again) - genes).mean() < 0.2


def test_by_hand() -> None:
    """Two groups of 1 to 4 channels, a price of w1 + 2 w2; the second wants e times the share of the first."""
    space = WidthSpace(("a", "b"), [np.arange(1, 5), np.arange(1, 5)], (0, 1))

    def price(widths: np.ndarray) -> np.ndarray:
        return widths @ np.array([1.0, 2.0])

    # halfway shares .375, .625, .875 of a, divided by e for b: b takes all its steps (.138, .230, .322) first
    steps = [(3, [1, 1]), (4.9, [1, 1]), (5, [1, 2]), (7, [1, 3]), (9, [1, 4]), (10, [2, 4]), (12, [4, 4])]
    for high, expected in steps:
        gene = projected(space, price, high, np.array([0.0, 1.0]))
        assert space.widths(gene).tolist() == expected
