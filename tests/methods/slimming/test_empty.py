"""A layer that would lose all of its channels: what is kept, what is told, and when it is dropped with its block."""

import copy
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from conftest import CPU, compose_config, livened, make_recipe, zoo
from torch import Tensor, nn
from torch.nn import functional as F

from compress.config.build import make
from compress.config.zoo import zoo_spec
from compress.data.memory import MemoryData
from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.io.stage_folder import StageFolder
from compress.measure.macs import count_macs
from compress.methods.slimming.slimming import Slimming
from compress.models.preresnet import Block, preresnet
from compress.prune.cost import cost_model
from compress.prune.method import Decision, Problem
from compress.prune.saved_network import load_network, save_network
from compress.prune.scales import norms_of, scales_of
from compress.prune.scores import largest_share_without_empty
from compress.prune.surgery import cut, difference
from compress.schema.settings import Budget
from compress.train.loop import Training, train
from compress.train.objective import cross_entropy

SHAPE = (3, 32, 32)
SLIMMING: Slimming = make(compose_config("method=slimming")["method"])
STRICT = replace(SLIMMING, on_empty="error")
DROPPING = replace(SLIMMING, on_empty="drop_block")
OnEmpty = Literal["keep_max", "error", "drop_block"]


def problem_of(model: nn.Module, percent: float = 0.5, shape: tuple[int, int, int] = SHAPE) -> Problem:
    graph = channel_graph(model, shape)
    data: Any = SimpleNamespace(shape=shape)
    return Problem(model, graph, cost_model(model, graph, shape), data, Budget("percent", percent), CPU, 0)


def at(problem: Problem, percent: float, method: Slimming = SLIMMING) -> Decision:
    return method.plan(replace(problem, budget=Budget("percent", percent)), None)


def with_scales(model: nn.Module, small: Sequence[str] = (), factor: float = 1e-3, seed: int = 0) -> nn.Module:
    """Scales in (0.5, 1.5) at random; those of the norms in `small` a thousandth of it."""
    random = torch.Generator().manual_seed(seed)
    for name, norm in norms_of(livened(model, seed)).items():
        norm.weight.data.copy_(0.5 + torch.rand(len(norm.weight), generator=random))
        if name in small:
            norm.weight.data.mul_(factor)
    return model


# -- keep_max --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [1, 3])
@pytest.mark.parametrize("select", ["threshold", "rank"])
def test_keep_max_keeps_the_largest_and_says_so(select: Any, least: int) -> None:
    problem = problem_of(with_scales(zoo("vgg11_bn"), ["features.5", "features.26"]))
    method = replace(SLIMMING, select=select, min_channels=least)
    decision = at(problem, 0.3, method)
    widths = dict(zip([group.name for group in problem.graph], problem.graph.widths(decision.plan), strict=True))
    for name, norm in (("features.4", "features.5"), ("features.25", "features.26")):
        assert widths[name] == least
        gamma = problem.model.get_parameter(f"{norm}.weight").detach().abs()
        assert sorted(decision.plan.kept[name]) == sorted(gamma.topk(least).indices.tolist())
    assert decision.own["emptied"] == ["features.4", "features.25"]
    assert decision.own["cfg"].count(least) >= 2
    first, *_ = decision.warnings
    assert re.match(
        rf"percent=0.3: 2 of 8 groups would lose all of their channels, features.4 first; {least} stay; up to "
        rf"percent={decision.own['largest_percent_without_empty']:.4f} none is emptied$",
        first,
    )
    total = decision.own["channels"]
    wanted = int(total * 0.3) + (select == "threshold")
    gone = total - decision.own["kept_channels"]
    assert decision.evidence.percent == pytest.approx(gone / total)
    if select == "threshold":  # achieved is not what was asked, and the report has what was achieved
        assert gone == wanted - 2 * least
    else:  # by rank the next ones go instead
        assert gone == wanted


def test_keep_max_holds_with_every_scope_and_budget() -> None:
    problem = problem_of(with_scales(zoo("vgg11_bn"), ["features.5"]))
    for budget in (Budget("percent", 0.999), Budget("preserve_ratio", 0.02), Budget("flops_limit", 3)):
        for scope in ("global", "layer"):
            asked = replace(problem, budget=budget)
            decision = replace(SLIMMING, scope=scope, min_channels=2).plan(asked, None)
            assert min(problem.graph.widths(decision.plan)) >= 2
            small = cut(problem.model, problem.graph, decision.plan)
            assert bool(small.eval()(torch.randn(1, *SHAPE)).isfinite().all())


@pytest.mark.parametrize("on_empty", ["keep_max", "drop_block", "error"])
def test_min_channels_hold_for_every_layer_that_stays(on_empty: OnEmpty) -> None:
    """A layer of which the threshold leaves one channel keeps `min_channels`, whatever happens to those of none."""
    model = with_scales(zoo("resnet20_cs"), ["layer1.1.bn2"])
    model.get_parameter("layer1.1.bn2.weight").data[3] = 2.0
    problem = problem_of(model)
    decision = at(problem, 0.2, replace(SLIMMING, on_empty=on_empty, min_channels=4))
    assert decision.own["emptied"] == []
    assert len(decision.plan.kept["layer1.1.conv1"]) == 4


# -- error, and the largest percent ----------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_error_names_layer_threshold_score_and_what_is_possible(scope: Any) -> None:
    problem = problem_of(with_scales(zoo("vgg11_bn"), ["features.9"]))
    strict = replace(STRICT, scope=scope)
    percent = 0.3 if scope == "global" else 0.999
    pool = torch.cat([norm.weight.detach().abs() for norm in norms_of(problem.model).values()])
    layer = (
        problem.model.get_parameter(("features.9" if scope == "global" else "features.1") + ".weight").detach().abs()
    )
    ranked = (pool if scope == "global" else layer).sort().values
    threshold = float(ranked[int(len(ranked) * percent)])
    largest = at(problem, 0.01, strict).own["largest_percent_without_empty"]
    with pytest.raises(InputError) as error:
        at(problem, percent, strict)
    name = "features.8" if scope == "global" else "features.0"
    assert str(error.value) == (
        f"percent={percent:g}: {name} would lose all of its channels (threshold {threshold:.4g}, its largest score "
        f"{float(layer.max()):.4g}); up to percent={largest:.4f} no layer does; or use on_empty=keep_max"
    )


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_more_than_can_go_is_for_on_empty_to_say(scope: Any) -> None:
    """One of each of 8 layers stays, so at most 2744 of 2752 channels go."""
    problem = replace(problem_of(with_scales(zoo("vgg11_bn"))), budget=Budget("percent", 0.9999))
    keeping, strict = replace(SLIMMING, scope=scope), replace(STRICT, scope=scope)
    assert keeping.check(problem) == strict.check(problem) == problem.budget
    decision = keeping.plan(problem, None)
    assert set(problem.graph.widths(decision.plan)) == {1}
    assert decision.evidence.percent == pytest.approx(1 - 8 / 2752)
    assert "groups would lose all of their channels" in decision.warnings[0]
    with pytest.raises(InputError, match=r"^percent=0.9999: features.* would lose all of its channels \(threshold"):
        strict.plan(problem, None)


@pytest.mark.parametrize("budget", [Budget("preserve_ratio", 0.3), Budget("flops_limit", 40)])
def test_error_holds_with_shares_of_macs_too(budget: Budget) -> None:
    problem = replace(problem_of(with_scales(zoo("vgg11_bn"), ["features.9"])), budget=budget)
    STRICT.check(problem)
    with pytest.raises(InputError, match=rf"^{budget.kind}=.*: features.8 would lose all of its channels \(thr"):
        STRICT.plan(problem, None)
    assert replace(STRICT, on_empty="keep_max").plan(problem, None).own["emptied"] == ["features.8"]


def test_error_is_quiet_where_nothing_is_emptied() -> None:
    problem = problem_of(with_scales(zoo("resnet20_cs")))
    assert at(problem, 0.5, STRICT).plan == at(problem, 0.5).plan
    layered = replace(problem, budget=Budget("preserve_ratio", 0.5))
    assert STRICT.plan(layered, None).plan == SLIMMING.plan(layered, None).plan


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", ["vgg11_bn", "resnet20_cs", "resnet20"])
def test_the_largest_percent_is_the_largest(name: str, scope: Any) -> None:
    for seed, small in enumerate((["features.9", "layer2.1.bn2"], [])):
        # so little smaller that its largest lies among the others
        problem = problem_of(with_scales(zoo(name), small, factor=0.6, seed=seed))
        strict = replace(STRICT, scope=scope)
        largest = at(problem, 0.0, strict).own["largest_percent_without_empty"]
        assert at(problem, largest, strict).own["emptied"] == []
        scores = at(problem, 0.0).evidence.scores
        assert scores is not None
        pools = [scores] if scope == "global" else [{name: score} for name, score in scores.items()]
        binding = min(pools, key=largest_share_without_empty)
        above = min(largest + 1e-4 + 1 / sum(map(len, binding.values())), 0.9999)
        with pytest.raises(InputError, match="would lose all of its channels"):
            at(problem, above, strict)
        assert at(problem, above, replace(SLIMMING, scope=scope)).own["emptied"]


def test_the_largest_percent_by_hand() -> None:
    """Sorted 1 2 3 | 4 5 ...: `a` is empty once the threshold is 3, at int(10 p) = 2, and by rank at 3."""
    pool = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([2.0, 4, 5, 6, 7, 8, 9, 10])}
    assert largest_share_without_empty(pool) == 0.1999
    assert largest_share_without_empty(pool, "rank") == 0.2999
    assert largest_share_without_empty({"a": torch.tensor([1.0]), "b": torch.tensor([2.0, 3.0])}) == 0.0
    assert largest_share_without_empty({"a": torch.ones(4), "b": torch.ones(4)}) == 0.0


@pytest.mark.parametrize("name", ["mobilenetv1", "mobilenetv2"])
def test_depthwise_norms_do_not_make_a_layer_the_last_to_go(name: str) -> None:
    """Counted twice, channels that a depthwise convolution passes on stay, and layers with one norm go below 0.3."""
    for seed in range(3):
        problem = problem_of(with_scales(zoo(name), seed=seed))
        largest = at(problem, 0.0).own["largest_percent_without_empty"]
        assert largest > 0.5
        assert at(problem, largest, STRICT).own["emptied"] == []


# -- drop_block ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dead", [["layer2.1.bn2"], ["layer1.0.bn2", "layer2.0.bn2", "layer3.2.bn2"]])
def test_a_block_of_nothing_is_dropped_and_the_network_is_the_masked_one(dead: list[str]) -> None:
    problem = problem_of(with_scales(zoo("resnet20_cs"), dead))
    model, graph = problem.model.eval(), problem.graph
    decision = at(problem, 0.3, DROPPING)
    names = [name.replace("bn2", "conv1") for name in dead]
    assert [name for name, kept in decision.plan.kept.items() if not kept] == names
    assert decision.own["emptied"] == names
    assert re.match(
        rf"percent=0.3: {len(dead)} of 19 groups would lose all of their channels, {names[0]} first; {len(dead)} of "
        rf"them go with their block, of the others 1 stay; up to percent=",
        decision.warnings[0],
    )
    # nothing was filled up: as many go as the formula says
    assert decision.own["kept_channels"] == 1696 - int(1696 * 0.3) - 1
    masked = copy.deepcopy(model)
    for group, (scale,) in zip(graph, scales_of(model, graph).values(), strict=True):
        mask = torch.zeros(group.width)
        mask[list(decision.plan.kept[group.name])] = 1
        masked.get_parameter(f"{scale.norm}.weight").data *= mask
        masked.get_parameter(f"{scale.norm}.bias").data *= mask
    small, images = cut(model, graph, decision.plan).eval(), torch.randn(4, *SHAPE)
    with torch.no_grad():
        assert torch.allclose(masked(images), small(images), atol=1e-5)
    assert difference(model, small, graph, decision.plan, images) < 1e-10
    assert count_macs(small, SHAPE) == problem.cost.macs(decision.plan)
    for name in dead:
        block = small.get_submodule(name.rpartition(".")[0])
        assert isinstance(block, Block)
        x = torch.randn(2, block.bn1.num_features, 8, 8)
        assert torch.equal(block(x), block.shortcut(x))


def test_where_it_is_not_exact_the_largest_stays() -> None:
    """The entry norm of a block reads the stream: without it the branch is a constant, not nothing."""
    problem = problem_of(with_scales(zoo("resnet20_cs"), ["layer2.1.bn1", "layer2.1.bn2"]))
    decision = at(problem, 0.3, DROPPING)
    assert len(decision.plan.kept["layer2.1.select"]) == 1
    assert len(decision.plan.kept["layer2.1.conv1"]) == 0
    assert "2 of 19 groups would lose all of their channels, layer2.1.select first" in decision.warnings[0]
    assert "1 of them go with their block, of the others 1 stay" in decision.warnings[0]
    chain = problem_of(with_scales(zoo("vgg11_bn"), ["features.9"]))
    assert at(chain, 0.3, DROPPING).plan == at(chain, 0.3).plan


@pytest.mark.parametrize("budget", [Budget("preserve_ratio", 0.5), Budget("flops_limit", 60)])
def test_blocks_are_dropped_for_shares_of_macs_too(budget: Budget) -> None:
    problem = replace(problem_of(with_scales(zoo("resnet20_cs"), ["layer3.1.bn2"])), budget=budget)
    decision = DROPPING.plan(problem, None)
    assert [name for name, kept in decision.plan.kept.items() if not kept] == ["layer3.1.conv1"]
    share = budget.value if budget.kind == "preserve_ratio" else budget.value * 1e6 / problem.cost.full_macs
    got = problem.cost.macs(decision.plan) / problem.cost.full_macs
    assert share - decision.evidence.rounding_step <= got <= share


class TwoBranches(nn.Module):
    """Two branches and nothing beside them: each may go, both may not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.a, self.norm_a, self.b = nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1)
        self.c, self.norm_c, self.d = nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1)
        self.last, self.head = nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        both = self.b(F.relu(self.norm_a(self.a(x)))) + self.d(F.relu(self.norm_c(self.c(x))))
        return self.head(self.last(both).mean((2, 3)))  # type: ignore[no-any-return]


def test_blocks_that_may_not_all_go_do_not() -> None:
    model = with_scales(TwoBranches(), ["norm_a", "norm_c"])
    problem = problem_of(model, shape=(3, 8, 8))
    assert problem.graph.emptiable >= {"a", "c"}
    decision = at(problem, 0.6, DROPPING)
    small = cut(model, problem.graph, decision.plan)  # whatever stays, it can be cut
    assert difference(model, small, problem.graph, decision.plan, torch.randn(2, 3, 8, 8)) < 1e-10


# -- one channel -----------------------------------------------------------------------------------------------


def test_layers_of_one_channel_run_train_save_and_load(tmp_path: Path) -> None:
    spec = zoo_spec("vgg11_bn", SHAPE, 10)
    problem = problem_of(with_scales(spec.build()))
    decision = at(problem, 0.9999)
    assert decision.own["cfg"] == [1, "M", 1, "M", 1, 1, "M", 1, 1, "M", 1, 1]
    small = cut(problem.model, problem.graph, decision.plan)
    images = torch.randn(4, *SHAPE)
    assert difference(problem.model, small, problem.graph, decision.plan, images) < 1e-10
    assert all(conv.weight.shape[0] == 1 for conv in small.modules() if isinstance(conv, nn.Conv2d))
    before = small.get_parameter("classifier.weight").detach().clone()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    F.cross_entropy(small.train()(images), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    assert not torch.equal(small.get_parameter("classifier.weight"), before)
    save_network(tmp_path / "model.safetensors", small, spec, decision.plan)
    loaded, plan = load_network(tmp_path / "model.safetensors")
    assert plan == decision.plan
    assert torch.equal(loaded(images), small.eval()(images))


def test_a_selection_network_of_one_channel_everywhere_trains(digit_data: MemoryData, tmp_path: Path) -> None:
    model = with_scales(preresnet(depth=20, selection=True, cfg=None, in_channels=1, num_classes=10))
    problem = problem_of(model, shape=digit_data.shape)
    decision = at(problem, 0.9999)
    assert set(problem.graph.widths(decision.plan)) == {1}
    small = cut(model, problem.graph, decision.plan)
    recipe = make_recipe(epochs=1)
    what = {"model": small, "data": digit_data, "recipe": recipe, "objective": cross_entropy(recipe)}
    train(Training(**what, stage="x", seed=0, device=CPU, work=StageFolder(tmp_path)))
    assert all(bool(p.isfinite().all()) for p in small.parameters())
    assert [m.indices.numel() for m in small.modules() if hasattr(m, "indices")] == [1] * 7


def test_a_plan_that_keeps_one_is_no_plan_that_keeps_none() -> None:
    problem = problem_of(with_scales(zoo("vgg11_bn")))
    with pytest.raises(ValueError, match="plan empties group"):
        cut(problem.model, problem.graph, Plan({"features.0": []}))
