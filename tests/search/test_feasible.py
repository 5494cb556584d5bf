"""A budget is an upper end in its own unit, and a lower one on demand; out of reach is told with what is within."""

import re
from functools import cache

import numpy as np
import pytest
from conftest import zoo
from torch import nn

from compress.errors import SettingError
from compress.graph.build import channel_graph
from compress.graph.types import ChannelGraph
from compress.prune.budget import ceilings_of, kept_channels, prices, removed_share
from compress.prune.cost import CostModel, cost_model
from compress.prune.counters import CountedPrice, counted_price
from compress.prune.widths import uniform_widths
from compress.schema.settings import Budget
from compress.search.feasible import Feasible, feasible, uniform_gene
from compress.search.space import WidthSpace, multiples_space, shares_space

SHAPE = (3, 32, 32)


@cache
def network() -> tuple[nn.Module, ChannelGraph, CostModel]:
    model = zoo("resnet20", SHAPE)
    graph = channel_graph(model, SHAPE)
    return model, graph, cost_model(model, graph, SHAPE)


@cache
def price(counter: str = "macs") -> CountedPrice:
    model, graph, cost = network()
    return counted_price(counter, model, graph, cost, SHAPE)  # type: ignore[arg-type]


def shares() -> WidthSpace:
    return shares_space(*network()[:2])


def allowed(
    budget: Budget, space: WidthSpace | None = None, counter: str = "macs", band: float | None = None
) -> Feasible:
    _, _, cost = network()
    return feasible(space or shares(), ceilings_of(budget, cost.full_widths, prices(cost, price(counter))), band)


def full(counter: str) -> float:
    return float(price(counter)(network()[2].full_widths)[0])


@pytest.mark.parametrize("counter", ["macs", "fvcore", "search", "ptflops"])
def test_a_share_and_a_limit_are_of_the_counter(counter: str) -> None:
    genes = shares().random(2000, np.random.default_rng(0))
    by_share = allowed(Budget("preserve_ratio", 0.4), counter=counter)
    by_limit = allowed(Budget("flops_limit", 0.4 * full(counter) / 1e6), counter=counter)
    fits = price(counter)(shares().widths(genes)) <= 0.4 * full(counter)
    assert 0 < fits.sum() < len(genes)
    assert np.array_equal(by_share.holds(genes), fits)
    assert np.array_equal(by_limit.holds(genes), fits)
    assert np.array_equal(by_share.holds(genes[0]), fits[:1])


def test_percent_counts_channels_over_all_groups() -> None:
    _, _, cost = network()
    genes = shares().random(2000, np.random.default_rng(0))
    found = allowed(Budget("percent", 0.501))
    widths = shares().widths(genes)
    removed = np.array([removed_share(row.tolist(), cost.full_widths.tolist()) for row in widths])
    total = int(cost.full_widths.sum())
    assert np.array_equal(found.holds(genes), np.rint(removed * total) >= int(0.501 * total))
    assert 0 < found.holds(genes).sum() < len(genes)


def test_a_band_is_a_share_of_the_upper_end() -> None:
    found = allowed(Budget("preserve_ratio", 0.3), band=0.05)
    assert (found.low, found.high) == (0.95 * found.high, 0.3 * full("macs"))
    genes = shares().random(5000, np.random.default_rng(0))
    prices = price()(shares().widths(genes))
    assert np.array_equal(found.holds(genes), (prices >= found.low) & (prices <= found.high))
    assert allowed(Budget("preserve_ratio", 0.3)).low == -np.inf


@pytest.mark.parametrize("target", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("round_to", [4, 8, 16])
def test_the_uniform_widths_are_never_below_the_band(round_to: int, target: float) -> None:
    space = multiples_space(network()[1], round_to)
    try:
        found = allowed(Budget("preserve_ratio", target), space, band=1e-6)
    except SettingError:
        assert price()(space.widths(space.narrowest)[None])[0] > target * full("macs")
        return
    uniform = found.uniform()
    assert found.holds(uniform).all()
    assert tuple(space.widths(uniform)) == uniform_widths(network()[2], space.options, target)
    assert found.low == found.prices(uniform)[0] < (1 - 1e-6) * found.high


def test_uniform_widths_of_another_price_are_the_largest_that_fit() -> None:
    space, half = shares(), kept_channels(np.array([network()[2].full_widths]))[0] / 2
    gene = uniform_gene(space, kept_channels, half)
    kept = space.widths(gene)
    assert half - 32 <= kept.sum() <= half
    assert abs(kept / network()[2].full_widths - 0.5).max() < 0.07


@pytest.mark.parametrize("kind", ["preserve_ratio", "flops_limit", "percent"])
def test_out_of_reach_is_told_with_what_is_within(kind: str) -> None:
    space = multiples_space(network()[1], 8)
    value = {"preserve_ratio": 0.01, "flops_limit": 0.3, "percent": 0.99}[kind]
    with pytest.raises(SettingError, match=f"^{kind}=.*: out of reach; the narrowest allowed widths") as caught:
        allowed(Budget(kind, value), space)  # type: ignore[arg-type]
    told = float(re.search(r"(?:have|leave off) ([\d.]+)", str(caught.value)).group(1))  # type: ignore[union-attr]
    found = allowed(Budget(kind, told), space)  # type: ignore[arg-type]
    assert found.holds(space.narrowest).all()
    further = told + (0.01 if kind == "percent" else -0.01)
    with pytest.raises(SettingError, match="ask for at most that" if kind == "percent" else "ask for at least that"):
        allowed(Budget(kind, further), space)  # type: ignore[arg-type]


def test_a_limit_that_the_dense_network_meets_is_no_error() -> None:
    found = allowed(Budget("flops_limit", 50), band=0.01)
    assert found.holds(found.space.widest).all()
    assert not found.holds(found.space.narrowest).any()


def test_too_large_a_budget_is_told() -> None:
    space = multiples_space(network()[1], 1, highest=0.5)
    for kind, value, rule in (
        ("preserve_ratio", 0.9, "widest allowed widths have ([\\d.]+) of the 40.\\d+ MMACs; ask for at most that"),
        ("flops_limit", 30, "widest allowed widths have ([\\d.]+) MMACs; ask for at most that"),
        ("percent", 0.1, "widest allowed widths leave off ([\\d.]+) of the \\d+ channels; ask for at least that"),
    ):
        assert allowed(Budget(kind, value), space).holds(space.widest).all()  # type: ignore[arg-type]
        with pytest.raises(SettingError, match=rule) as caught:
            allowed(Budget(kind, value), space, band=0.01)  # type: ignore[arg-type]
        told = float(re.search(rule, str(caught.value)).group(1))  # type: ignore[union-attr]
        found = allowed(Budget(kind, told), space, band=0.01)  # type: ignore[arg-type]
        assert found.holds(found.uniform()).all()


def test_the_whole_network_is_within_a_budget_of_all() -> None:
    for budget in (Budget("preserve_ratio", 1.0), Budget("percent", 0.0), Budget("flops_limit", full("macs") / 1e6)):
        assert np.array_equal(allowed(budget, band=0.01).uniform(), shares().widest)


def test_many_genes_are_priced_as_one_is() -> None:
    found = allowed(Budget("preserve_ratio", 0.3))
    genes = shares().random(20_000, np.random.default_rng(0))
    prices = found.prices(genes)
    assert prices.shape == (20_000,)
    for at in (0, 2047, 2048, 19_999):
        assert prices[at] == found.prices(genes[at])[0]
    assert found.prices(genes[:0]).shape == (0,)
