"""Predicted latencies: tables by hand, the fit, what is kept, and that no width is free."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU
from torch import nn

from compress.errors import SettingError
from compress.graph.build import channel_graph
from compress.measure.latency import Latency
from compress.prune.cost import cost_model
from compress.prune.latency import prediction, tables
from compress.prune.latency.blocks import Block, uses
from compress.prune.latency.prediction import LatencyModel, Table, drawn_widths, fit, latency_model
from compress.prune.latency.runtime import Where, pairs_of, runnable

SHAPE = (3, 8, 8)
WHERE = Where(CPU, "torch", 1, 1)


def network(width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 5),
    )  # fmt: skip


def modelled(model: nn.Module, folder: Path | None = None, where: Where = WHERE) -> LatencyModel:
    graph = channel_graph(model, SHAPE)
    return latency_model(model, graph, cost_model(model, graph, SHAPE), SHAPE, where, folder, 0.005)


@pytest.fixture
def by_macs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every block takes 1 us per product of its channels, every network 1 ms and twice that; what was measured."""
    asked: list[str] = []

    def of_blocks(passes: Any, device: Any, **how: Any) -> dict[str, Latency]:
        asked.extend(passes)
        sizes = {name: [int(size) for size in name.split("x")] for name in passes}
        return {name: Latency(1e-3 * i * o, 0.0, 1) for name, (i, o) in sizes.items()}

    monkeypatch.setattr(tables, "interleaved", of_blocks)

    def of_networks(model: nn.Module, graph: Any, shape: Any, where: Any, plans: Any, seconds: float) -> list[float]:
        asked.append("networks")
        cost = cost_model(model, graph, shape)
        inputs, outputs = cost.layer_inputs(plans), cost.layer_outputs(plans)
        inputs[:, 1] = outputs[:, 1]  # depthwise: as many as it makes
        found = 1 + 2e-3 * (inputs * outputs).sum(1)
        return [99.0, *found.tolist()]

    monkeypatch.setattr(prediction, "_measured", of_networks)
    return asked


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_between_measured_points_a_table_is_bilinear_and_outside_it_stays() -> None:
    table = Table(np.array([8, 16]), np.array([8, 16, 32]), np.array([[1.0, 2, 4], [3, 4, 8]]), (1, 1))
    widths = np.array([[0, 8], [0, 12], [0, 16], [0, 4], [0, 0]])
    outputs = np.array([[0, 8], [0, 12], [0, 24], [0, 64], [0, 8]])
    assert table(widths, outputs).tolist() == [2, 5, 12, 8, 0]  # two calls of layer 1; nothing takes no time


def test_a_table_never_falls() -> None:
    times = {(8, 8): 2.0, (8, 16): 1.0, (16, 8): 1.5, (16, 16): 1.8}
    table = prediction._table(Block((8, 8), (1, 1)), times, np.array([8, 16]), np.array([8, 16]), (0,))
    assert table.ms.tolist() == [[2, 2], [2, 2]]


def test_the_fit_is_exact_where_there_is_one_and_never_falls() -> None:
    sums = np.array([1.0, 2, 5])
    assert fit(sums, 0.5 + 3 * sums) == pytest.approx((0.5, 3))
    fixed, scale = fit(sums, np.array([5.0, 2, 1]))
    assert fixed == 0
    assert scale > 0


def test_what_a_layer_is_measured_as_follows_from_the_layer() -> None:
    model = network()
    found = uses(model, channel_graph(model, SHAPE), SHAPE)
    assert [use.layer for use in found] == [0, 1, 2, 3]
    assert [use.block for use in found] == [
        Block((8, 8), (3, 3), padding=(1, 1)),
        Block((8, 8), (3, 3), padding=(1, 1), per_group=(1, 1)),
        Block((8, 8), (1, 1), stride=(2, 2)),
        Block((), None),
    ]
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_every_block_runs_in_every_runtime_and_gives_what_its_layer_does(runtime: Any) -> None:
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
    for block, inputs, outputs, shape in (
        (Block((8, 6), (3, 3), (2, 2), (1, 1)), 5, 7, (2, 7, 4, 3)),
        (Block((8, 8), (3, 3), padding=(1, 1), per_group=(1, 1)), 6, 6, (2, 6, 8, 8)),
        (Block((8, 8), (1, 1), per_group=(4, 2)), 12, 6, (2, 6, 8, 8)),
        (Block(()), 5, 7, (2, 7)),
        (Block((3,)), 5, 7, (2, 3, 7)),
    ):
        with torch.inference_mode():
            given: Any = block.run(inputs, outputs, Where(CPU, runtime, 1, 2))()
        assert tuple((given[0] if runtime == "onnxruntime" else given).shape) == shape


def test_a_network_that_is_measured_gives_what_it_gave_and_is_left_alone() -> None:
    model = nn.Sequential(*network(), nn.Dropout())
    for tensor in model.buffers():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        given: Any = runnable(model, SHAPE, Where(CPU, "torch", 1, 3), pairs_of(model, SHAPE))()
        assert given.shape == (3, 5)
        assert model.training
        assert torch.allclose(given, model.eval()(torch.zeros(3, *SHAPE)), atol=1e-5)
    assert pairs_of(model, SHAPE) == [("0", "1")]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# -- the model -------------------------------------------------------------------------------------------------------


def test_a_network_that_is_a_sum_of_its_layers_is_predicted_to_the_point(by_macs: list[str]) -> None:
    model = network()
    found = modelled(model)
    assert (found.fixed_ms, found.scale) == (pytest.approx(1), pytest.approx(2))
    assert found.worst_error < 1e-9
    graph = channel_graph(model, SHAPE)
    plans = drawn_widths(graph, 50, 7)
    assert (plans % 8 == 0).all()
    assert len(np.unique(plans, axis=0)) > 3
    ends = found.ms(np.array([[8, 8], [16, 32]]))
    a, b = 8, 8
    assert ends[0] == pytest.approx(1 + 2e-3 * (3 * a + a * a + a * b + b * 5))
    whole = found(plans)
    assert (whole == np.rint(whole)).all()
    assert found.dense_ms == 99


def test_what_was_measured_is_kept_and_shared_by_networks(by_macs: list[str], tmp_path: Path) -> None:
    first = modelled(network(), tmp_path)
    assert by_macs.count("networks") == 1
    by_macs.clear()
    again = modelled(network(), tmp_path)
    assert by_macs == []
    assert (again.fixed_ms, again.scale) == (first.fixed_ms, first.scale)
    other = nn.Sequential(*list(network())[:-1], nn.Linear(32, 7))  # only its last layer is another
    modelled(other, tmp_path)
    assert set(by_macs) == {"networks", *(f"{width}x7" for width in (8, 16, 24, 32))}
    by_macs.clear()
    modelled(network(), tmp_path, replace(WHERE, threads=2))
    assert len(by_macs) > 10  # other threads, other times
    by_macs.clear()
    for file in (tmp_path / "latency").glob("*.json"):
        file.write_text(json.dumps({"ms": {"8x8": -1}}))
    assert modelled(network(), tmp_path).scale == first.scale
    assert len(by_macs) > 10


@pytest.mark.parametrize(("median", "worst", "accept", "fine"), [
    (0.05, 0.1, False, True), (0.051, 0.06, False, False), (0.02, 0.11, False, False), (0.5, 0.9, True, True),
])  # fmt: skip
def test_a_bad_prediction_is_taken_on_demand_only(median: float, worst: float, accept: bool, fine: bool) -> None:
    model: Any = LatencyModel(None, (), WHERE, median_error=median, worst_error=worst)  # type: ignore[arg-type]
    if fine:
        model.check(accept)
        return
    with pytest.raises(SettingError, match=r"accept=false: .*accept=true$"):
        model.check(accept)


def test_a_real_network_is_measured_and_wider_is_never_predicted_faster(tmp_path: Path) -> None:
    model = network(24)
    found = modelled(model, tmp_path)
    assert 0 < found.dense_ms < 1000
    assert 0 <= found.median_error <= found.worst_error
    random = np.random.default_rng(0)
    narrow = random.integers(1, found.cost.full_widths, (200, 2))
    wide = np.minimum(narrow + random.integers(0, 9, narrow.shape), found.cost.full_widths)
    assert (found(narrow) <= found(wide)).all()
