"""The conditional agent end to end on the real digits, in seconds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, make_recipe
from torch import nn

from compress.agents.ddpg import DDPGSettings
from compress.data.memory import MemoryData
from compress.models.resnet_cifar import resnet
from compress.prune.amc.camc import AGENT, Camc
from compress.prune.amc.rewards import acc_normalize
from compress.prune.amc.search import SearchSettings
from compress.prune.budget import achieved
from compress.prune.cost import cost_model
from compress.prune.groups import channel_graph
from compress.prune.method import Problem
from compress.settings import Budget, InputError
from compress.train import cross_entropy, train
from compress.work import Work, read_state

CAMC = Camc(
    targets=[0.3, 0.6],
    lbound=0.2,
    rbound=1.0,
    round_to=2,
    budget_mode="exact",
    acc_metric="top1",
    calibration_images=256,
    calibration_points=10,
    reward_images=1000,
    rollouts=2,
    rollout_sigma=0.05,
    search=SearchSettings(
        episodes=16, warmup=6, sampling="cycle", sigma=0.5, sigma_decay=0.95, replay_episodes=10
    ),
    agent=DDPGSettings(
        hidden=32, actor_lr=1e-3, critic_lr=1e-2, discount=1.0, tau=0.01, batch_size=16, baseline_rate=0.5
    ),
    reward=acc_normalize,
)  # fmt: skip


@pytest.fixture(scope="module")
def problem(digit_data: MemoryData, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    torch.manual_seed(0)
    model = resnet(depth=8, width=8, shortcut="conv", in_channels=1, num_classes=10)
    recipe = make_recipe(epochs=6, lr=0.1)
    work = Work(tmp_path_factory.mktemp("pretrain"))
    train(model, digit_data, recipe, cross_entropy(recipe), stage="pretrain", seed=0, device=CPU, work=work)
    graph = channel_graph(model, digit_data.shape)
    cost = cost_model(model, graph, digit_data.shape)
    return Problem(model, graph, cost, digit_data, Budget("preserve_ratio", 0.5), CPU, 0)


@pytest.fixture(scope="module")
def learned(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent")
    CAMC.sparsify(problem, Work(folder))
    return folder


def test_the_search_never_ends_below_uniform_widths(problem: Problem, learned: Path) -> None:
    best = read_state(learned / AGENT)["best"]
    assert set(best) == {"0.3", "0.6"}
    for outcome in best.values():
        assert outcome["reward"] >= 1.0  # acc_normalize: uniform widths are worth 1


class KilledError(Exception):
    pass


def test_a_killed_search_goes_on_to_the_same_agent(
    problem: Problem, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.prune.amc.search.SAVE_EVERY_SECONDS", 0.0)

    def die(row: Any) -> None:
        if row["episode"] == 11:
            raise KilledError

    with pytest.raises(KilledError):
        CAMC.sparsify(problem, Work(tmp_path, die))
    rows: list[Any] = []
    CAMC.sparsify(problem, Work(tmp_path, rows.append))
    assert [row["episode"] for row in rows] == list(range(1, 17))
    expected, got = read_state(learned / AGENT), read_state(tmp_path / AGENT)
    assert got["best"] == expected["best"]
    for part in ("actor", "critic", "actor_target", "critic_target"):
        for name, tensor in expected["agent"][part].items():
            assert torch.equal(got["agent"][part][name], tensor)


@pytest.mark.parametrize("ratio", [0.3, 0.45, 0.6, 0.8])
def test_any_ratio_is_rolled_out_and_met(problem: Problem, learned: Path, ratio: float) -> None:
    asked = replace(problem, budget=Budget("preserve_ratio", ratio))
    decision = CAMC.plan(asked, learned)
    got = achieved(problem.graph, problem.cost, decision.plan)["preserve_ratio"]
    assert got <= ratio
    assert ratio - got <= max(0.01 * ratio, decision.rounding_step)
    assert len(decision.own["strategy"]) == len(problem.graph.groups)


def test_other_budgets_come_to_the_same_thing(problem: Problem, learned: Path) -> None:
    macs = replace(problem, budget=Budget("flops_limit", 0.5 * problem.cost.full_macs / 1e6))
    assert CAMC.plan(macs, learned).plan == CAMC.plan(problem, learned).plan
    share = replace(problem, budget=Budget("percent", 0.4))
    decision = CAMC.plan(share, learned)
    assert achieved(problem.graph, problem.cost, decision.plan)["percent"] == pytest.approx(0.4, abs=0.01)


def test_impossible_budgets_name_the_bounds_before_anything_runs(problem: Problem) -> None:
    for budget, words in (
        (Budget("preserve_ratio", 0.01), "smallest share of MACs is"),
        (Budget("flops_limit", 1e6), "the dense network needs only"),
        (Budget("percent", 0.95), "of the channels can go"),
    ):
        with pytest.raises(InputError, match=f"^{budget.kind}=.*{words}"):
            CAMC.check(problem.graph, problem.cost, budget)
    little = replace(CAMC, rbound=0.6, targets=[0.2])
    with pytest.raises(InputError, match=r"^percent=0.1: out of reach; .* between 0.4"):
        little.check(problem.graph, problem.cost, Budget("percent", 0.1))
    with pytest.raises(InputError, match=r"^preserve_ratio=0.9: out of reach; .* largest share of MACs"):
        replace(little, budget_mode="upper").check(problem.graph, problem.cost, Budget("preserve_ratio", 0.9))
    with pytest.raises(InputError, match="method.targets=0.3: out of reach"):
        replace(CAMC, lbound=0.9).check(problem.graph, problem.cost, Budget("preserve_ratio", 0.9))


def test_an_agent_of_another_network_is_refused(problem: Problem, learned: Path, digit_data: MemoryData) -> None:
    other = resnet(depth=14, width=8, shortcut="conv", in_channels=1, num_classes=10)
    graph = channel_graph(other, digit_data.shape)
    cost = cost_model(other, graph, digit_data.shape)
    with pytest.raises(InputError, match="trained on another network"):
        CAMC.plan(replace(problem, model=other, graph=graph, cost=cost), learned)


def test_the_dense_network_is_left_as_it_was(problem: Problem, learned: Path) -> None:
    before = {name: value.clone() for name, value in problem.model.state_dict().items()}
    CAMC.plan(problem, learned)
    assert all(torch.equal(value, before[name]) for name, value in problem.model.state_dict().items())


def test_nothing_reads_the_test_images(problem: Problem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: set[str] = set()
    resident = MemoryData._resident

    def spy(self: MemoryData, part: Any, device: torch.device) -> Any:
        asked.add(part)
        return resident(self, part, device)

    monkeypatch.setattr(MemoryData, "_resident", spy)
    short = replace(CAMC, search=replace(CAMC.search, episodes=2, warmup=1))
    short.sparsify(problem, Work(tmp_path))
    short.plan(problem, tmp_path)
    assert asked == {"train", "held_out"}
    assert isinstance(problem.model, nn.Module)
