"""amc and camc end to end on the real digits, in seconds."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, make_recipe
from torch import nn

from compress.agents.ddpg import DDPGSettings
from compress.agents.preferences import PreferenceSettings
from compress.data.memory import MemoryData
from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.io.paths import AGENT
from compress.io.stage_folder import StageFolder
from compress.io.tensors import read_state, state_digest, write_state
from compress.methods.amc.amc import Amc
from compress.models.resnet_cifar import resnet
from compress.prune.budget import achieved
from compress.prune.cost import cost_model
from compress.prune.method import Problem
from compress.schema.settings import Budget
from compress.search.agent.around import Moves
from compress.search.agent.episodes import SearchSettings
from compress.search.agent.projected import ProjectedSettings
from compress.search.agent.rewards import acc, acc_normalize
from compress.search.scorers.refit import CalibrationSettings
from compress.train.loop import Training, train
from compress.train.objective import cross_entropy

CAMC = Amc(
    targets=[0.3, 0.6],
    target_encoding="scalar",
    agent_rule="projected",
    agent=None,
    strategy=None,
    lbound=0.2,
    rbound=1.0,
    round_to=2,
    rounding="within",
    budget_mode="exact",
    state="clean",
    acc_metric="top1",
    reward_images=1000,
    candidates=["uniform", "seen", "policy"],
    rollouts=2,
    rollout_sigma=0.05,
    calibration=CalibrationSettings(
        images=256, batch_size=128, points=10, augmented=False, repeats=False, doubles_bias=False
    ),
    search=SearchSettings(
        episodes=16, warmup=6, warmup_inclusive=False, warmup_sigma=0.2, sampling="cycle",
        sigma=0.5, sigma_decay=0.95,
        decay_per_target=True, replay_episodes=10, replay_per_target=True, replay_skips_first=False,
        baseline_per_target=True, store_action="raw", wall_first_episode=True, uniform_first=True,
    ),
    ddpg=DDPGSettings(
        hidden=32, actor_lr=1e-3, critic_lr=1e-2, discount=1.0, tau=0.01, batch_size=16, baseline_rate=0.5
    ),
    projected=ProjectedSettings(
        draws=3, draw_sigmas=[0.35, 0.7], proposals=16, elite=4, moves=Moves(0.4, 0.2, 0.2, 0.2),
        changed=[0.15, 0.4, 1.0], mutation_prob=0.15, first_sigma=0.35, sigma_rate=0.1, least_sigma=0.06,
        critic="gp", optimism=0.5,
    ),
    policy=PreferenceSettings(hidden=32, lr=1e-2, steps=10, bound=1.5),
    reward=partial(acc_normalize, references="measured", published={}),
)  # fmt: skip
AMC = replace(CAMC, targets=None, target_encoding="none", reward=acc)


@pytest.fixture(scope="module")
def problem(digit_data: MemoryData, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    torch.manual_seed(0)
    model = resnet(depth=8, width=8, shortcut="conv", in_channels=1, num_classes=10)
    recipe = make_recipe(epochs=6, lr=0.1)
    work = StageFolder(tmp_path_factory.mktemp("pretrain"))
    how = {"recipe": recipe, "objective": cross_entropy(recipe), "work": work}
    train(Training(model=model, data=digit_data, **how, stage="pretrain", seed=0, device=CPU))
    graph = channel_graph(model, digit_data.shape)
    cost = cost_model(model, graph, digit_data.shape)
    return Problem(model, graph, cost, digit_data, Budget("preserve_ratio", 0.5), CPU, 0)


@pytest.fixture(scope="module", params=["projected", "walls"])
def camc(request: pytest.FixtureRequest) -> Amc:
    return replace(CAMC, agent_rule=request.param)


@pytest.fixture(scope="module")
def learned(problem: Problem, camc: Amc, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent")
    camc.learn(problem, StageFolder(folder))
    return folder


def test_the_search_never_ends_below_uniform_widths(problem: Problem, camc: Amc, learned: Path) -> None:
    best = read_state(learned / AGENT)["best"]
    assert set(best) == {0.3, 0.6}
    for outcome in best.values():
        assert outcome["reward"] >= 1.0  # acc_normalize: uniform widths are worth 1


def test_a_policy_that_became_a_constant_is_told(
    problem: Problem, camc: Amc, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that has learned nothing prefers nothing; one that asks for all everywhere asks for it at any target."""
    untaught = replace(camc, search=replace(camc.search, episodes=2), policy=replace(camc.policy, steps=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compress.methods.amc.by_walls.agent_policy", lambda *_: lambda step, seen: 0.99)
        told = untaught.learn(problem, StageFolder(tmp_path))
    words = {"projected": "that of equal preferences, uniform widths", "walls": "that of a constant action 1.0"}
    assert told["policy"] == told["constant"]
    (line,) = told["warnings"]
    assert line.endswith(words[camc.agent_rule])
    assert f"sparsify: {line}" in caplog.messages
    assert [told["policy"][target]["target"] for target in ("0.3", "0.6")] == [0.3, 0.6]


def test_the_report_has_the_answers_of_the_policy_and_of_a_constant(
    problem: Problem, camc: Amc, tmp_path: Path
) -> None:
    told = camc.learn(problem, StageFolder(tmp_path))
    assert told["warnings"] == []
    assert told["policy"] != told["constant"]
    for target in (0.3, 0.6):
        found = {part: told[part][f"{target:g}"] for part in ("best", "policy", "constant")}
        assert all(one["ratio"] <= target and len(one["strategy"]) == 10 for one in found.values())
        if camc.agent_rule == "projected":
            assert found["constant"]["reward"] == 1.0  # acc_normalize: uniform widths are worth 1


def test_on_real_digits_its_answer_beats_uniform_at_a_target_it_never_saw(problem: Problem, tmp_path: Path) -> None:
    """On the held-out images, on average over budgets between and at the targets; and it is no constant's."""
    longer = replace(CAMC, search=replace(CAMC.search, episodes=60), candidates=["uniform", "policy"], rollouts=0)
    told = longer.learn(problem, StageFolder(tmp_path))
    assert all(told["policy"][target] != told["constant"][target] for target in ("0.3", "0.6"))
    gains = []
    for ratio in (0.4, 0.45, 0.5):
        decision = longer.plan(replace(problem, budget=Budget("preserve_ratio", ratio)), tmp_path)
        uniform, own = (decision.own["candidates"][name]["top1"] for name in ("uniform", "policy's"))
        gains.append(own - uniform)
    assert sum(gains) / len(gains) > 1.0, gains


class KilledError(Exception):
    pass


def test_a_killed_search_goes_on_to_the_same_agent(
    problem: Problem, camc: Amc, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for search in ("episodes", "projected"):
        monkeypatch.setattr(f"compress.search.agent.{search}.SAVE_EVERY_SECONDS", 0.0)

    def die(row: Any) -> None:
        if row["episode"] == 11:
            raise KilledError

    with pytest.raises(KilledError):
        camc.learn(problem, StageFolder(tmp_path, die))
    rows: list[Any] = []
    camc.learn(problem, StageFolder(tmp_path, rows.append))
    assert [row["episode"] for row in rows] == list(range(1, 17))
    expected, got = read_state(learned / AGENT), read_state(tmp_path / AGENT)
    assert got["best"] == expected["best"]
    assert state_digest(got) == state_digest(expected)


@pytest.mark.parametrize("ratio", [0.3, 0.45, 0.6, 0.8])
def test_any_ratio_is_rolled_out_and_met(problem: Problem, camc: Amc, learned: Path, ratio: float) -> None:
    asked = replace(problem, budget=Budget("preserve_ratio", ratio))
    decision = camc.plan(asked, learned)
    got = achieved(problem.graph, problem.cost, decision.plan)["preserve_ratio"]
    assert got <= ratio
    assert ratio - got <= max(0.01 * ratio, decision.evidence.rounding_step)
    assert len(decision.own["widths"]) == len(problem.graph.groups)
    assert decision.evidence.choices is not None
    assert all(w in allowed for w, allowed in zip(decision.own["widths"], decision.evidence.choices, strict=True))
    assert len(decision.own["strategy"]) == len(decision.own["layers"]) == 10
    assert set(decision.own["candidates"]) == {
        "uniform", "best seen for 0.3", "best seen for 0.6", "policy's", "policy's noisy (no. 1)",
        "policy's noisy (no. 2)",
    }  # fmt: skip
    assert decision.own["reward"] == max(found["reward"] for found in decision.own["candidates"].values())


def test_other_budgets_come_to_the_same_thing(problem: Problem, camc: Amc, learned: Path) -> None:
    macs = replace(problem, budget=Budget("flops_limit", 0.5 * problem.cost.full_macs / 1e6))
    assert camc.plan(macs, learned).plan == camc.plan(problem, learned).plan
    share = replace(problem, budget=Budget("percent", 0.4))
    decision = camc.plan(share, learned)
    assert achieved(problem.graph, problem.cost, decision.plan)["percent"] == pytest.approx(0.4, abs=0.01)
    if camc.agent_rule == "projected":  # every candidate meets it
        assert len(decision.own["candidates"]) == 6
        assert achieved(problem.graph, problem.cost, decision.plan)["percent"] >= 0.4 - 1 / sum(
            problem.cost.full_widths
        )


def test_impossible_budgets_name_the_bounds_before_anything_runs(problem: Problem) -> None:
    for budget, words in (
        (Budget("preserve_ratio", 0.01), "smallest share of MACs is"),
        (Budget("percent", 0.95), r"widths leave off 0.\d+ of the \d+ channels; ask for at most that"),
    ):
        with pytest.raises(InputError, match=f"^{budget.kind}=.*{words}"):
            CAMC.check(replace(problem, budget=budget))
    little = replace(CAMC, rbound=0.6, targets=[0.2])
    with pytest.raises(InputError, match=r"^percent=0.1: out of reach; the widest allowed widths leave off 0.4"):
        little.check(replace(problem, budget=Budget("percent", 0.1)))
    with pytest.raises(InputError, match=r"^preserve_ratio=0.9: out of reach; .* largest share of MACs"):
        replace(little, agent_rule="walls", budget_mode="upper").check(
            replace(problem, budget=Budget("preserve_ratio", 0.9))
        )
    with pytest.raises(InputError, match="targets=0.3: out of reach"):
        replace(CAMC, lbound=0.9).check(replace(problem, budget=Budget("preserve_ratio", 0.9)))


def test_an_agent_of_another_network_is_refused(
    problem: Problem, camc: Amc, learned: Path, digit_data: MemoryData
) -> None:
    other = resnet(depth=14, width=8, shortcut="conv", in_channels=1, num_classes=10)
    graph = channel_graph(other, digit_data.shape)
    cost = cost_model(other, graph, digit_data.shape)
    with pytest.raises(
        InputError, match=r"another network \(layer2.0.conv1 of 16 channels where this has layer1.1.conv1"
    ):
        camc.plan(replace(problem, model=other, graph=graph, cost=cost), learned)


def test_the_dense_network_is_left_as_it_was(problem: Problem, camc: Amc, learned: Path) -> None:
    before = {name: value.clone() for name, value in problem.model.state_dict().items()}
    camc.plan(problem, learned)
    assert all(torch.equal(value, before[name]) for name, value in problem.model.state_dict().items())


def test_nothing_reads_the_test_images(problem: Problem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: set[str] = set()
    resident = MemoryData._resident

    def spy(self: MemoryData, part: Any, device: torch.device) -> Any:
        asked.add(part)
        return resident(self, part, device)

    monkeypatch.setattr(MemoryData, "_resident", spy)
    short = replace(CAMC, search=replace(CAMC.search, episodes=2, warmup=1))
    short.learn(problem, StageFolder(tmp_path))
    short.plan(problem, tmp_path)
    assert asked == {"train", "held_out"}
    assert isinstance(problem.model, nn.Module)


# -- amc: one search per budget --------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [Budget("preserve_ratio", 0.4), Budget("percent", 0.3)], ids=str)
def test_amc_searches_for_the_budget_alone(problem: Problem, camc: Amc, tmp_path: Path, budget: Budget) -> None:
    amc = replace(AMC, agent_rule=camc.agent_rule)
    asked, rows = replace(problem, budget=budget), list[Any]()
    told = amc.learn(asked, StageFolder(tmp_path, rows.append))
    assert len({row["target"] for row in rows}) == len(told["best"]) == 1
    decision = amc.plan(asked, tmp_path)
    got = achieved(problem.graph, problem.cost, decision.plan)[budget.kind]
    assert got == pytest.approx(budget.value, abs=max(0.01, decision.evidence.rounding_step))
    assert amc.traits.learns_for_budget
    assert not camc.traits.learns_for_budget
    if budget.kind == "preserve_ratio":
        assert rows[0]["target"] == 0.4


def test_the_original_rules_run_end_to_end_on_a_residual_network(problem: Problem, tmp_path: Path) -> None:
    """Coupled groups, a budget that rounding may overshoot by one step, a state of ten numbers."""
    search = replace(CAMC.search, warmup_inclusive=True, replay_skips_first=True, uniform_first=False)
    calibration = CalibrationSettings(
        images=100, batch_size=50, points=10, augmented=True, repeats=True, doubles_bias=True
    )
    upstream = replace(
        AMC, agent_rule="walls", search=search,
        calibration=calibration, rounding="up", state="original", budget_mode="upper",
        acc_metric="top5", candidates=["same_target"], rollouts=0,
    )  # fmt: skip
    upstream.learn(problem, StageFolder(tmp_path))
    decision = upstream.plan(problem, tmp_path)
    assert list(decision.own["candidates"]) == ["best seen"]
    got = achieved(problem.graph, problem.cost, decision.plan)["preserve_ratio"]
    assert got <= 0.5 + decision.evidence.rounding_step
    first = read_state(tmp_path / AGENT)["agent"]["actor"]["0.weight"]
    assert first.shape[1] == 10


# -- an agent, or a strategy, of another run -------------------------------------------------------------------


def test_an_agent_serves_another_run(problem: Problem, camc: Amc, learned: Path, tmp_path: Path) -> None:
    reused = replace(camc, agent=str(learned))
    told = reused.learn(problem, StageFolder(tmp_path))
    assert told["episodes"] == 0
    assert reused.plan(problem, tmp_path).plan == camc.plan(problem, learned).plan
    assert set(reused.traits.files) == {"agent"}
    assert not camc.traits.files


def test_an_agent_is_refused_where_it_does_not_fit(
    problem: Problem, camc: Amc, learned: Path, tmp_path: Path, digit_data: MemoryData
) -> None:
    reused = replace(camc, agent=str(learned))
    assert reused.check(problem) == problem.budget
    other = resnet(depth=8, width=12, shortcut="conv", in_channels=1, num_classes=10)
    graph = channel_graph(other, digit_data.shape)
    words = r"^agent=.*: its agent was trained on another network \(conv1 of 8 channels where .* conv1 of 12\)"
    with pytest.raises(InputError, match=words):
        reused.check(replace(problem, graph=graph, cost=cost_model(other, graph, digit_data.shape)))
    with pytest.raises(InputError, match=r"was trained with target_encoding=scalar; set the same"):
        replace(AMC, agent_rule=camc.agent_rule, agent=str(learned))
    with pytest.raises(InputError, match=r"holds no whole agent.pt; give the folder of a finished run"):
        replace(camc, agent=str(tmp_path))
    (tmp_path / AGENT).write_bytes((learned / AGENT).read_bytes()[:100])
    with pytest.raises(InputError, match=r"holds no whole agent.pt"):
        replace(camc, agent=str(tmp_path))


def test_an_agent_of_the_other_rule_is_refused_in_a_line(camc: Amc, learned: Path) -> None:
    other: Any = {"projected": "walls", "walls": "projected"}[camc.agent_rule]
    with pytest.raises(InputError, match=rf"^agent=.*: was trained with agent_rule={camc.agent_rule}; set the same$"):
        replace(camc, agent_rule=other, agent=str(learned))


def test_an_agent_file_of_before_there_were_rules_is_of_walls(camc: Amc, learned: Path, tmp_path: Path) -> None:
    saved = read_state(learned / AGENT)
    del saved["made_with"]["agent_rule"], saved["digest"]
    write_state(tmp_path / AGENT, saved)
    if camc.agent_rule == "walls":
        assert replace(camc, agent=str(tmp_path)).traits.files
    else:
        with pytest.raises(InputError, match=r"holds no whole agent.pt"):
            replace(camc, agent=str(tmp_path))


def test_one_target_alone_takes_what_was_seen_for_it_as_it_was(problem: Problem, camc: Amc, learned: Path) -> None:
    alone = replace(camc, candidates=["same_target"])
    decision = alone.plan(replace(problem, budget=Budget("preserve_ratio", 0.6)), learned)
    assert tuple(decision.own["widths"]) == tuple(read_state(learned / AGENT)["best"][0.6]["widths"])
    both = replace(camc, candidates=["same_target", "policy"], agent=str(learned), rollouts=0)
    assert list(both.plan(problem, learned).own["candidates"]) == ["policy's"]


def test_a_damaged_agent_is_told(camc: Amc, learned: Path, tmp_path: Path) -> None:
    saved = read_state(learned / AGENT)
    del saved["network"]
    write_state(tmp_path / AGENT, saved)
    with pytest.raises(InputError, match=r"holds no whole agent.pt"):
        replace(camc, agent=str(tmp_path))


def test_a_strategy_that_is_given_is_cut_without_a_search(problem: Problem, tmp_path: Path) -> None:
    widths = [3, 4, 6, 7, 9, 8, 14][: len(problem.graph)]
    given = replace(AMC, strategy=[float(width) for width in widths])
    default = Budget("preserve_ratio", 0.5, is_default=True)
    own = given.check(replace(problem, budget=default))
    assert own.value == problem.cost.macs(widths)[0] / problem.cost.full_macs
    assert given.check(problem) == problem.budget  # asked for: stands beside it
    told = given.learn(problem, StageFolder(tmp_path))
    assert told["episodes"] == 0
    decision = given.plan(replace(problem, budget=own), tmp_path)
    assert problem.graph.widths(decision.plan) == widths == decision.own["widths"]
    assert decision.own["source"] == "given"
    assert decision.evidence.choices is None
    again = replace(AMC, strategy=[float(d) for d in decision.own["d_primes"]])
    assert again.plan(replace(problem, budget=own), tmp_path).plan == decision.plan
    (tmp_path / "list.json").write_text(json.dumps(decision.own["strategy"]))
    from_file = replace(AMC, strategy=str(tmp_path / "list.json"))
    assert from_file.plan(replace(problem, budget=own), tmp_path).plan == decision.plan
    assert from_file.traits.files == replace(AMC, strategy=decision.own["strategy"]).traits.files


def test_settings_that_contradict_each_other_are_told(camc: Amc, learned: Path) -> None:
    for changes, words in (
        ({"agent": str(learned), "strategy": [0.5]}, "agent and strategy: give only one"),
        ({"targets": None}, "without targets there is nothing to tell"),
        ({"candidates": []}, "must name at least one of uniform, seen, same_target, policy"),
        ({"lbound": 0.9, "rbound": 0.5}, "lbound=0.9: must not be above rbound=0.5"),
        (
            {"agent_rule": "projected", "rounding": "up", "target_encoding": "onehot"},
            "^rounding=up, target_encoding=onehot: only agent_rule=walls reads it; set that, or leave it out",
        ),
    ):
        with pytest.raises(InputError, match=words):
            replace(camc, **changes)  # type: ignore[arg-type]


def test_targets_that_the_agent_or_the_reward_do_not_know_are_told_first(problem: Problem) -> None:
    published = partial(acc_normalize, references="published", published={0.3: 0.09, 0.6: 0.8})
    onehot = replace(CAMC, agent_rule="walls", target_encoding="onehot")
    with pytest.raises(
        InputError, match=r"^preserve_ratio=0.5: reward.references=published: knows the targets 0.3, 0.6, not 0.5"
    ):
        replace(CAMC, reward=published).check(problem)
    with pytest.raises(InputError, match=r"^preserve_ratio=0.5: target_encoding=onehot tells the agent only"):
        onehot.check(problem)
    share = Budget("percent", 0.3)
    for camc in (replace(CAMC, reward=published), onehot):
        with pytest.raises(InputError, match=r"^percent=0.3 comes to about 0\.\d+ of the MACs: "):
            camc.check(replace(problem, budget=share))
    alone = replace(CAMC, candidates=["same_target"])
    assert alone.check(replace(problem, budget=Budget("preserve_ratio", 0.6))).value == 0.6
    with pytest.raises(InputError, match=r"candidates=\[same_target\] knows only \[0.3, 0.6\]; add policy"):
        alone.check(problem)


def test_the_largest_share_is_respected(problem: Problem, tmp_path: Path) -> None:
    little = replace(AMC, rbound=0.75)
    asked = replace(problem, budget=Budget("preserve_ratio", 0.4))
    rows: list[Any] = []
    little.learn(asked, StageFolder(tmp_path, rows.append))
    assert len(rows) == 16
    for row in rows:
        assert all(width <= 0.75 * full for width, full in zip(row["widths"], problem.cost.full_widths, strict=True))
