"""Asked and achieved by hand: a network whose share of MACs is its share of channels, a hundredth each."""

from typing import Any

import pytest
import torch
from torch import nn

from compress.graph.plan import Plan
from compress.prune.budget import achieved
from compress.prune.method import Decision, Evidence, Problem
from compress.run.job import make_problem
from compress.run.stages.prune import _budget_json
from compress.schema.settings import Budget

CPU = torch.device("cpu")


class Shaped:
    """All that a budget asks of a data set."""

    shape = (1, 10, 10)


def problem(kind: Any, value: float) -> Problem:
    model = nn.Sequential(nn.Conv2d(1, 100, 1), nn.ReLU(), nn.Conv2d(100, 2, 1), nn.Flatten())
    return make_problem(model, Shaped(), Budget(kind, value), CPU, 0, lambda: model)  # type: ignore[arg-type]


def keeping(count: int) -> Plan:
    return Plan({"0": range(count)})


def test_what_a_plan_comes_to_in_the_terms_of_every_budget() -> None:
    asked = problem("preserve_ratio", 0.5)
    assert asked.cost.full_macs == 100 * 100 * 3
    assert achieved(asked.graph, asked.cost, keeping(60)) == {
        "preserve_ratio": pytest.approx(0.6), "percent": pytest.approx(0.4), "macs": 18_000, "params": 242,
        "flops_limit": 0.018, "params_limit": 0.000242,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "value", "high", "full"),
    [
        ("preserve_ratio", 0.3, 9_000, 30_000),
        ("flops_limit", 0.012, 12_000, 30_000),
        ("flops_limit", 0.06, 30_000, 30_000),  # which the dense network meets
        ("percent", 0.305, 70, 100),
        ("params_limit", 0.0002, 200, 402),
        ("params_limit", 1, 402, 402),
    ],
)
def test_a_budget_is_the_upper_end_of_a_price(kind: str, value: float, high: float, full: float) -> None:
    aim = problem(kind, value).ceilings().aim
    assert (aim.high, aim.full) == (pytest.approx(high), full)
    assert aim.fits([[100]])[0] == (high == full)


@pytest.mark.parametrize(
    ("kind", "value", "step", "met"),
    [
        ("preserve_ratio", 0.5, 0.0, [50]),  # 1 % of 0.5 is half a channel
        ("preserve_ratio", 0.5, 0.01, [49, 50, 51]),
        ("preserve_ratio", 1.0, 0.0, [99, 100]),
        ("flops_limit", 0.015, 0.0, [50]),
        ("flops_limit", 0.015, 0.02, [48, 49, 50, 51, 52]),
        ("percent", 0.5, 0.0, [49, 50, 51]),  # 1 % of all channels
        ("percent", 0.5, 0.03, [47, 48, 49, 50, 51, 52, 53]),
    ],
)
def test_a_budget_is_met_within_one_percent_or_one_rounding_step(
    kind: str, value: float, step: float, met: list[int]
) -> None:
    asked = problem(kind, value)
    told = {
        count: _budget_json(asked, Decision(keeping(count), evidence=Evidence(rounding_step=step)), asked.budget)
        for count in range(40, 101)
    }
    assert [count for count, budget in told.items() if budget["met"]] == met
    assert told[60]["asked"] == {kind: value}
    assert told[60]["achieved"]["percent"] == pytest.approx(0.4)


def test_a_share_removed_is_as_the_method_counts_it() -> None:
    asked = problem("percent", 0.5)
    told = _budget_json(asked, Decision(keeping(100), evidence=Evidence(percent=0.5)), asked.budget)
    assert told["met"]
    assert told["achieved"]["percent"] == 0.5
