"""A strategy in the published form and back, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ORACLES, zoo
from torch import nn

from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.graph.types import ChannelGraph
from compress.prune.cost import CostModel, cost_model
from compress.search.strategy import layer_form, read_strategy, widths_of

ROWS = json.loads((ORACLES / "amc_flops.json").read_text())["rows"]


def looked_at(model: nn.Module, shape: tuple[int, int, int]) -> tuple[ChannelGraph, CostModel]:
    graph = channel_graph(model, shape)
    return graph, cost_model(model, graph, shape)


@pytest.fixture(scope="module")
def mobilenet() -> tuple[ChannelGraph, CostModel]:
    return looked_at(zoo("mobilenetv1", (3, 224, 224), 1000), (3, 224, 224))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_published_lists_are_read_and_written_as_they_are(mobilenet: Any, row: dict[str, Any]) -> None:
    graph, cost = mobilenet
    widths = widths_of(graph, cost, row["channels"])
    form = layer_form(graph, cost, widths)
    assert form["d_primes"] == row["channels"]
    assert widths_of(graph, cost, form["strategy"]) == widths == widths_of(graph, cost, widths)
    assert widths == tuple(row["channels"][1:])
    assert cost.macs(widths)[0] + 1000 == row["macs"]  # the published count has the classifier's bias


@pytest.mark.parametrize("name", ["resnet20", "resnet56_cs", "mobilenet_v2", "vgg16_bn", "resnet50", "resnet8x4"])
def test_any_widths_of_a_network_come_back(name: str) -> None:
    graph, cost = looked_at(zoo(name), (3, 32, 32))
    random = np.random.default_rng(0)
    widths = tuple(int(random.integers(1, width + 1)) for width in cost.full_widths)
    form = layer_form(graph, cost, widths)
    assert len(form["d_primes"]) == len(form["layers"]) == len(form["strategy"])
    assert widths_of(graph, cost, form["d_primes"]) == widths
    assert widths_of(graph, cost, form["strategy"]) == widths
    assert widths_of(graph, cost, widths) == widths


def test_a_layer_that_reads_several_groups_wants_one_entry_per_group() -> None:
    class Joins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(10, 8, 1)
            self.fc = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.c(torch.cat([self.a(x), self.b(x)], 1)).mean((2, 3)))

    graph, cost = looked_at(Joins(), (3, 4, 4))
    assert widths_of(graph, cost, [2, 3, 4]) == (2, 3, 4)
    assert layer_form(graph, cost, (2, 3, 4))["d_primes"] == [3, 3, 5, 4]
    with pytest.raises(InputError, match=r"do not tell the width of a; give 3 entries, one for every group"):
        widths_of(graph, cost, [3, 3, 5, 4])


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ([8, 8], r"has 2 entries; must have 4, one for every layer's inputs, or 3, one for every group"),
        ([8, 9, 8], r"9 for 2 must be a share in \(0, 1\] or a whole number in \[1, 8\]"),
        ([8, 0.5, 8], r"0.5 for 2 must be a share"),
        ([0.5, 0.0, 1], r"0 for 2 must be a share in \(0, 1\]"),
        ([2, 8, 8, 8], r"2 for 0; its other entries leave it 3 inputs"),
    ],
)
def test_what_does_not_fit_is_refused(listed: list[float], words: str) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(32, 2)
    )
    graph, cost = looked_at(net, (3, 2, 2))
    with pytest.raises(InputError, match=f"^strategy: {words}"):
        widths_of(graph, cost, listed)


def test_layers_that_read_the_same_channels_must_agree() -> None:
    graph, cost = looked_at(zoo("resnet20"), (3, 32, 32))
    listed = layer_form(graph, cost, cost.full_widths.tolist())["d_primes"]
    listed[1] = 8
    with pytest.raises(InputError, match=r"layer1.0.conv1 and layer1.1.conv1 read the same channels.* got 8 and 16"):
        widths_of(graph, cost, listed)


def test_lists_come_from_files_of_three_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[3, 24, 48]")
    (tmp_path / "b.txt").write_text("3,24,\n48")
    (tmp_path / "plan.json").write_text(json.dumps({"own": {"d_primes": [3, 24, 48]}}))
    for given in ("a.json", "b.txt", "plan.json", ""):
        assert read_strategy(str(tmp_path / given)) == [3, 24, 48]
    assert read_strategy([0.5, 1]) == [0.5, 1]
    for name, content in (("c.json", '{"own": {}}'), ("d.txt", "many"), ("e.json", "[1, [2]]")):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match="must hold a list of numbers"):
            read_strategy(str(tmp_path / name))
    with pytest.raises(InputError, match=r"nowhere: cannot be read \(.*; give a list, a file or a run"):
        read_strategy(str(tmp_path / "nowhere"))
