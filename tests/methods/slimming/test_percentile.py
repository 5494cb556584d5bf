"""How many channels a percent takes, against the published tables: kept = N - int(N p) - 1, without ties."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import CPU, ORACLES, compose_config, livened, zoo
from torch import nn

from compress.config.build import make
from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.measure.counts import counts
from compress.methods.slimming.slimming import Slimming
from compress.prune.cost import cost_model
from compress.prune.method import Decision, Problem
from compress.prune.scales import norms_of
from compress.prune.scores import kept_counts
from compress.prune.surgery import cut
from compress.schema.settings import Budget

SHAPE = (3, 32, 32)
ORACLE = json.loads((ORACLES / "slimming.json").read_text())["oracle_A"]
TABLES = ORACLE["vgg19_cfg_tables"]
KNOWN = ORACLE["seed002"]["known_cfg"]
PERCENTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.6, 0.7)
SLIMMING: Slimming = make(compose_config("method=slimming")["method"])
RANK = replace(SLIMMING, select="rank")


def problem_of(model: nn.Module, percent: float = 0.5) -> Problem:
    graph = channel_graph(model, SHAPE)
    data: Any = SimpleNamespace(shape=SHAPE)
    return Problem(model, graph, cost_model(model, graph, SHAPE), data, Budget("percent", percent), CPU, 0)


def at(problem: Problem, percent: float, method: Slimming = SLIMMING) -> Decision:
    problem = replace(problem, budget=Budget("percent", percent))
    assert method.check(problem) == problem.budget
    return method.plan(problem, None)


def scatter(model: nn.Module, seed: int = 0) -> nn.Module:
    """Scales of both signs, all different, the same distribution in every layer."""
    random = torch.Generator().manual_seed(seed)
    norms = list(norms_of(model).values())
    values = (1 + torch.randperm(sum(len(norm.weight) for norm in norms), generator=random)) / 1e4
    for norm, part in zip(norms, values.split([len(norm.weight) for norm in norms]), strict=True):
        norm.weight.data.copy_(part * torch.randn(len(part), generator=random).sign())
    return model


@pytest.fixture(scope="module")
def vgg19() -> Problem:
    return problem_of(scatter(livened(zoo("vgg19_bn", SHAPE))))


@pytest.fixture(scope="module")
def resnet20_cs() -> Problem:
    return problem_of(scatter(livened(zoo("resnet20_cs", SHAPE))))


@pytest.mark.parametrize("name", ["vgg19", "resnet20_cs"])
def test_as_many_stay_as_the_formula_says(name: str, request: pytest.FixtureRequest) -> None:
    problem: Problem = request.getfixturevalue(name)
    count = sum(group.width for group in problem.graph)
    for percent in PERCENTS:
        by_threshold, by_rank = at(problem, percent), at(problem, percent, RANK)
        assert by_threshold.own["kept_channels"] == count - int(count * percent) - 1
        assert by_rank.own["kept_channels"] == count - int(count * percent)
        assert sum(problem.graph.widths(by_threshold.plan)) == by_threshold.own["kept_channels"]
        assert by_threshold.own["channels"] == count
        assert by_threshold.evidence.percent == pytest.approx((int(count * percent) + 1) / count)
        assert by_threshold.own["emptied"] == by_rank.own["emptied"] == []
        # what stays lies above the threshold, the rest does not
        threshold, scores = by_threshold.own["thresholds"]["all"], by_threshold.evidence.scores
        assert scores is not None
        for group in problem.graph:
            above = (scores[group.name] > threshold).nonzero().flatten().tolist()
            assert list(by_threshold.plan.kept[group.name]) == above


def test_the_published_float_product_is_kept() -> None:
    """5504 * 0.7 is 3852.7999..., 100 * 0.29 is 28.999...: one channel less goes than by fractions."""
    pool = {"a": torch.arange(1.0, 101.0)}
    assert kept_counts(pool, 0.29, "threshold") == ({"a": 71}, 29.0)
    assert kept_counts(pool, 0.29, "rank") == ({"a": 72}, 28.0)


@pytest.mark.parametrize("method", [SLIMMING, RANK], ids=["threshold", "rank"])
def test_a_larger_percent_keeps_a_part_of_what_a_smaller_one_keeps(method: Slimming, resnet20_cs: Problem) -> None:
    decisions = [at(resnet20_cs, percent, method).plan for percent in (0.0, *PERCENTS)]
    for wide, narrow in pairwise(decisions):
        assert all(set(narrow.kept[name]) <= set(channels) for name, channels in wide.kept.items())
        assert resnet20_cs.cost.params(narrow) < resnet20_cs.cost.params(wide)
        assert resnet20_cs.cost.macs(narrow) < resnet20_cs.cost.macs(wide)


def above(model: nn.Module, cfg: Sequence[int], seed: int = 0) -> None:
    """As many scales of each norm above one half as `cfg` says, at random places; no two are equal."""
    random = torch.Generator().manual_seed(seed)
    for norm, kept in zip(norms_of(model).values(), cfg, strict=True):
        width = len(norm.weight)
        high = torch.zeros(width, dtype=torch.bool)
        high[torch.randperm(width, generator=random)[:kept]] = True
        low_or_high = 0.1 + 0.3 * torch.rand(width, generator=random, dtype=torch.float64) + 0.5 * high
        norm.weight.data.copy_(low_or_high * torch.randn(width, generator=random).sign())


@pytest.mark.parametrize("name", TABLES)
def test_every_published_vgg19(name: str, vgg19: Problem) -> None:
    row, percent = TABLES[name], float(name.rpartition("_")[2])
    above(vgg19.model, [width for width in row["cfg"] if width != "M"])
    assert row["kept_equals_N_minus_int_Np_minus_1"]
    decision = at(vgg19, percent)
    assert decision.own["cfg"] == row["cfg"]
    assert decision.own["kept_channels"] == row["kept"]
    assert vgg19.cost.params(decision.plan) == row["params"]
    assert vgg19.cost.macs(decision.plan) == row["conv_linear_macs"]
    biases = sum(vgg19.graph.widths(decision.plan))  # one per kept filter
    assert vgg19.cost.params(decision.plan) + biases == row["with_conv_bias"]["params"]
    if percent:
        assert {name: norm["kept"] for name, norm in decision.own["norms"].items()} == dict(
            zip(norms_of(vgg19.model), (width for width in row["cfg"] if width != "M"), strict=True)
        )


@pytest.mark.parametrize("bias", [False, True])
def test_a_published_vgg19_really_cut_has_every_count(bias: bool) -> None:
    row = TABLES["seed004_0.7"]
    problem = problem_of(zoo("vgg19_bn", SHAPE, conv_bias=bias))
    above(problem.model, [width for width in row["cfg"] if width != "M"])
    decision = at(problem, 0.7)
    found = counts(cut(problem.model, problem.graph, decision.plan), SHAPE)
    expected = row | row["with_conv_bias"] if bias else row
    assert found.params == found.params_with_selection == expected["params"]
    assert found.macs == row["conv_linear_macs"]
    assert found.fvcore == row["fvcore_total"]
    assert found.ptflops == expected["ptflops06"]


@pytest.mark.parametrize("name", KNOWN)
def test_the_known_resnet8x4_whose_params_count_the_selections(name: str) -> None:
    row = KNOWN[name]
    problem = problem_of(zoo("resnet8x4_cs", SHAPE, 100))
    above(problem.model, row["cfg"])
    decision = at(problem, 0.2)
    assert decision.own["cfg"] == row["cfg"]
    assert decision.own["kept_channels"] == 742
    assert problem.cost.macs(decision.plan) == row["conv_linear_macs"]
    found = counts(cut(problem.model, problem.graph, decision.plan), SHAPE)
    assert found.params_with_selection == row["params"]
    assert found.params == row["params"] - 480 == problem.cost.params(decision.plan)
    assert (found.macs, found.fvcore) == (row["conv_linear_macs"], row["fvcore_total"])


@pytest.mark.parametrize("method", [SLIMMING, RANK], ids=["threshold", "rank"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_percent_zero_prunes_nothing(method: Slimming, scope: Any) -> None:
    problem = problem_of(zoo("resnet20_cs", SHAPE))  # untrained: all scales are equal
    decision = at(problem, 0.0, replace(method, scope=scope))
    assert problem.graph.widths(decision.plan) == [group.width for group in problem.graph]
    assert problem.cost.macs(decision.plan) == problem.cost.full_macs
    assert decision.evidence.percent == 0
    assert decision.warnings == []


@pytest.mark.parametrize("name", ["vgg16_bn", "resnet20_cs", "resnet20"])
def test_equal_scales_are_no_ranking(name: str) -> None:
    problem = problem_of(zoo(name, SHAPE))
    refused = r"^percent=0.5: \d+ of \d+ scores equal the threshold \d, so it tells nothing apart \(an untrained"
    with pytest.raises(InputError, match=refused) as error:
        at(problem, 0.5)
    assert "use select=rank" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="scores equal the threshold"):
        at(problem, 0.5, replace(SLIMMING, scope="layer"))
    for budget in (Budget("preserve_ratio", 0.5), Budget("flops_limit", problem.cost.full_macs / 2e6)):
        with pytest.raises(InputError, match=rf"^{budget}: \d+ of \d+ scores equal the threshold \d, so it tells"):
            SLIMMING.plan(replace(problem, budget=budget), None)
    whole = replace(problem, budget=Budget("preserve_ratio", 1.0))
    assert problem.cost.macs(SLIMMING.plan(whole, None).plan) == problem.cost.full_macs
    decision = at(problem, 0.5, replace(RANK, scope="layer"))
    assert problem.graph.widths(decision.plan) == [group.width - group.width // 2 for group in problem.graph]


def test_by_rank_equal_scales_go_in_order_of_layers_and_channels() -> None:
    problem = problem_of(zoo("vgg11_bn", SHAPE))
    decision = at(problem, 0.1, RANK)  # 275 of 2752: the first channels, and one of every layer stays
    assert decision.warnings[-1] == (
        "no scale is above the threshold 1, not even one of those that stay; expect a collapse before fine-tuning"
    )
    gone = 275
    for group in problem.graph:
        kept = problem.graph.kept(decision.plan)[group.name]
        assert kept.tolist() == list(range(group.width - len(kept), group.width))
        took = group.width - len(kept)
        assert took == min(group.width - 1, gone)
        gone -= took
    assert gone == 0


def test_a_few_equal_scales_are_no_reason_to_refuse() -> None:
    scores = torch.arange(1.0, 1001.0)
    scores[495:505] = 500.0
    kept, threshold = kept_counts({"a": scores}, 0.5, "threshold")
    assert (kept["a"], threshold) == (495, 500.0)  # strictly above: all ten go
    scores[490:510] = 500.0
    with pytest.raises(InputError, match="20 of 1000 scores equal the threshold 500"):
        kept_counts({"a": scores}, 0.5, "threshold")
    assert kept_counts({"a": scores}, 0.5, "rank")[0] == {"a": 500}


def test_scales_that_are_zero_may_be_equal() -> None:
    """What the L1 term brought to nothing goes, and is no tie to refuse."""
    scores = torch.cat([torch.zeros(600), torch.arange(1.0, 401.0)])
    assert kept_counts({"a": scores}, 0.5, "threshold") == ({"a": 400}, 0.0)


def test_scope_layer_takes_the_same_share_of_every_layer(resnet20_cs: Problem) -> None:
    layered = replace(SLIMMING, scope="layer")
    for percent in (0.2, 0.5):
        decision = at(resnet20_cs, percent, layered)
        widths = [group.width for group in resnet20_cs.graph]
        assert resnet20_cs.graph.widths(decision.plan) == [w - int(w * percent) - 1 for w in widths]
        by_rank = at(resnet20_cs, percent, replace(layered, select="rank"))
        assert resnet20_cs.graph.widths(by_rank.plan) == [w - int(w * percent) for w in widths]
        thresholds, scores = decision.own["thresholds"], decision.evidence.scores
        assert scores is not None
        assert list(thresholds) == [group.name for group in resnet20_cs.graph]
        for group in resnet20_cs.graph:
            above = (scores[group.name] > thresholds[group.name]).nonzero().flatten()
            assert list(decision.plan.kept[group.name]) == above.tolist()
