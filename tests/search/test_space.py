"""Genes are the published ones: their widths, their order, their prices; what is no gene is told."""

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from conftest import ORACLES, zoo
from torch import nn

from compress.errors import SettingError, placed
from compress.graph.build import channel_graph
from compress.graph.types import ChannelGraph
from compress.measure.counts import counts
from compress.measure.macs import count_macs, count_params
from compress.prune.cost import CostModel, cost_model
from compress.prune.counters import Counter, counted_price
from compress.prune.widths import all_choices
from compress.search.space import Genes, WidthSpace, multiples_space, shares_space

ORACLE = json.loads((ORACLES / "metaprune.json").read_text())
GENES = {f"{row['net']} {row['name']}": row for row in ORACLE["genes"]}
IMAGENET = (3, 224, 224)
COLUMNS: dict[Counter, str] = {
    "macs": "conv_fc", "fvcore": "fvcore_total", "search": "search", "ptflops": "ptflops_052",
}  # fmt: skip


def net(kind: str, shape: tuple[int, int, int] = IMAGENET, gene: list[int] | None = None) -> nn.Module:
    if kind == "resnet50":
        return zoo("resnet50", shape, 1000, gene=gene)
    return zoo("mobilenetv2", shape, 1000, variant=kind, gene=gene)


@cache
def looked_at(kind: str) -> tuple[nn.Module, ChannelGraph, CostModel, WidthSpace]:
    model = net(kind)
    graph = channel_graph(model, IMAGENET)
    return model, graph, cost_model(model, graph, IMAGENET), shares_space(model, graph)


def chosen(space: WidthSpace, gene: Genes) -> list[int]:
    """The widths of all groups, in the order of the published entries."""
    widths = space.widths(gene)
    found = [{int(width) for width, at in zip(widths, space.places, strict=True) if at == e} for e in space.entries]
    assert all(len(each) == 1 for each in found)
    return [each.pop() for each in found]


def kind_of(row: dict[str, Any]) -> str:
    return "resnet50" if row["net"] == "resnet50" else "seed"


@pytest.mark.parametrize("name", GENES)
def test_published_genes_have_their_published_widths(name: str) -> None:
    row = GENES[name]
    space = looked_at(kind_of(row))[3]
    gene = space.read(row["gene"])
    assert chosen(space, gene) == [*row["out_channels"], *row["mid_channels"]]
    full = len(row["out_channels"]) - 1
    assert space.written(gene) == [-1 if at == full else entry % 31 for at, entry in enumerate(row["gene"])]
    assert np.array_equal(space.read(space.written(gene)), gene)


@pytest.mark.parametrize("kind", [pytest.param("resnet50", marks=pytest.mark.slow), "seed"])
def test_prices_of_published_genes_are_those_of_the_networks_built_with_them(kind: str) -> None:
    model, graph, cost, space = looked_at(kind)
    rows = [row for row in ORACLE["genes"] if kind_of(row) == kind]
    widths = space.widths(np.stack([space.read(row["gene"]) for row in rows]))
    assert cost.params(widths).tolist() == [row["counts"]["params"] for row in rows]
    for counter, column in COLUMNS.items():
        price = counted_price(counter, model, graph, cost, IMAGENET)
        assert price(widths).tolist() == [row["counts"][column] for row in rows]
    built = net(kind, IMAGENET, rows[-1]["gene"])
    assert (count_params(built), count_macs(built, IMAGENET)) == (cost.params(widths)[-1], cost.macs(widths)[-1])


@pytest.mark.parametrize(
    "kind", ["paper", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("resnet50", "seed"))]
)
def test_random_genes_name_the_network_that_is_built_with_them(kind: str) -> None:
    shape = (3, 64, 64)
    model = net(kind, shape)
    graph = channel_graph(model, shape)
    cost, space = cost_model(model, graph, shape), shares_space(model, graph)
    price = counted_price("fvcore", model, graph, cost, shape)
    for gene in space.random(3, np.random.default_rng(0)):
        found = counts(net(kind, shape, space.written(gene)), shape)
        widths = space.widths(gene)
        assert found.params == cost.params(widths)[0]
        assert (found.macs, found.fvcore) == (cost.macs(widths)[0], price(widths)[0])


@pytest.mark.parametrize("kind", ["resnet50", "seed", "paper"])
def test_the_authors_shorter_or_longer_form_is_read(kind: str) -> None:
    space = looked_at(kind)[3]
    gene = space.random(1, np.random.default_rng(1))[0]
    whole = space.written(gene)
    if kind == "resnet50":
        theirs = [*whole[:4], *whole[5:]]
        assert len(theirs) == 20
    else:
        blocks = [1, 2, 3, 4, 3, 3, 1]
        outs = [entry for entry, count in zip(whole[1:8], blocks, strict=True) for _ in range(count)]
        theirs = [whole[0], *outs, *whole[9:]]
        assert len(theirs) == 35
    assert np.array_equal(space.read(theirs), gene)


def test_both_inner_widths_of_a_bottleneck_are_one_entry() -> None:
    _, graph, _, space = looked_at("resnet50")
    assert (len(graph), len(space.options), len(space.entries)) == (37, 21, 21)
    widths = dict(zip(space.groups, space.widths(space.random(50, np.random.default_rng(0))).T, strict=True))
    assert np.array_equal(widths["layer2.1.conv1"], widths["layer2.1.conv2"])
    assert not np.array_equal(widths["layer2.1.conv1"], widths["layer2.2.conv1"])
    assert space.names[space.entries[9]] == "layer2.1.conv1"


def test_the_classifiers_inputs_stay_whole_also_when_read() -> None:
    _, graph, _, space = looked_at("seed")
    at = space.entries[8]
    assert graph[space.places.index(at)].width == 1280
    assert space.options[at].tolist() == [1280]
    assert (space.widths(space.random(50, np.random.default_rng(0)))[:, space.places.index(at)] == 1280).all()
    written = space.written(space.widest)
    for entry in (-1, 30):
        assert space.widths(space.read([*written[:8], entry, *written[9:]]))[space.places.index(at)] == 1280
    with pytest.raises(SettingError, match="entry 8 must be -1"):
        space.read([*written[:8], 29, *written[9:]])


def test_what_is_no_gene_of_the_paper_is_told_under_its_own_name() -> None:
    space = looked_at("seed")[3]
    with pytest.raises(SettingError, match=r"^gene=\[1,2,3\]: must be 26 whole numbers in \[-1, 30\]"):
        space.read([1, 2, 3])
    with pytest.raises(SettingError) as caught:
        space.read([31] * 26)
    assert next(placed(line, "method") for line in caught.value.lines).startswith("method.gene=[31,31")


@cache
def small() -> tuple[nn.Module, ChannelGraph]:
    model = zoo("resnet20", (3, 32, 32))
    return model, channel_graph(model, (3, 32, 32))


def test_other_networks_are_free_in_the_order_of_their_graph() -> None:
    model, graph = small()
    space = shares_space(model, graph)
    assert space.groups == tuple(group.name for group in graph)
    assert space.entries == tuple(range(len(graph)))
    assert space.sizes.tolist() == [31] * len(graph)
    first = space.options[0].tolist()
    assert (first[0], first[-1], first[15]) == (1, 16, 8)  # floor(16 * .1), 16, floor(16 * .55)
    assert len(set(first)) < 31  # narrow groups have options of equal width; they stay
    gene = space.random(1, np.random.default_rng(0))[0]
    assert space.written(gene) == gene.tolist()
    assert np.array_equal(space.read([-1] * len(graph)), space.widest)
    assert np.array_equal(space.widths(space.widest), [group.width for group in graph])


def test_no_share_leaves_a_group_empty() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1))
    space = shares_space(model, channel_graph(model, (1, 4, 4)))
    assert space.options[0].tolist() == [1] * 19 + [2] * 11 + [3]


def test_what_is_no_gene_of_another_network_is_told() -> None:
    _, graph = small()
    space = multiples_space(graph, 8)
    with pytest.raises(SettingError, match=rf"^gene=\[0,0\]: has 2 entries; must have {len(graph)}, one per group"):
        space.read([0, 0])
    wrong: list[Any]
    for wrong in (2, -2, True, 1.0):
        with pytest.raises(
            SettingError, match=r"entry 0, of conv1, must be .* \[-1, 1\], an option of 8, 16 channels"
        ):
            space.read([wrong, *[0] * (len(graph) - 1)])


def test_multiples_are_those_of_all_choices() -> None:
    _, graph = small()
    space = multiples_space(graph, 4, 0.3, 0.9)
    for options, expected in zip(space.options, all_choices(graph, 4, 0.3, 0.9), strict=True):
        assert np.array_equal(options, expected)


def test_a_network_built_with_a_gene_keeps_the_order_and_narrows_what_it_has() -> None:
    row = GENES["mobilenetv2 flops44"]
    model = net("seed", (3, 64, 64), row["gene"])
    space = shares_space(model, channel_graph(model, (3, 64, 64)))
    assert chosen(space, space.read([-1] * 26)) == [*row["out_channels"], *row["mid_channels"]]


def test_random_genes_are_uniform_over_options_not_over_widths() -> None:
    model, graph = small()
    genes = shares_space(model, graph).random(20_000, np.random.default_rng(0))
    share = np.bincount(genes[:, 0], minlength=31) / len(genes)
    assert genes.dtype == np.int64
    assert abs(share - 1 / 31).max() < 5 * (1 / 31 / len(genes)) ** 0.5
