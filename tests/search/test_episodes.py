"""What an episode leaves in the replay, when learning begins, and who is remembered as the best."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import zoo

from compress.agents.ddpg import DDPG, DDPGSettings
from compress.agents.replay import Transitions
from compress.graph.build import channel_graph
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import Accuracy
from compress.prune.cost import cost_model
from compress.prune.widths import all_choices
from compress.search.agent.action_bounds import BudgetMode, RoundedBounds
from compress.search.agent.environment import ChannelEnv
from compress.search.agent.episodes import Search, SearchSettings, is_random, replay_size, sigma_of
from compress.search.agent.observations import CleanObserver
from compress.search.agent.rewards import acc

SETTINGS = SearchSettings(
    episodes=8,
    warmup=3,
    warmup_inclusive=False,
    warmup_sigma=None,
    sampling="cycle",
    sigma=0.5,
    sigma_decay=0.95,
    decay_per_target=True,
    replay_episodes=3,
    replay_per_target=True,
    replay_skips_first=False,
    baseline_per_target=True,
    store_action="raw",
    wall_first_episode=True,
    uniform_first=False,
)
UPSTREAM = replace(SETTINGS, warmup=100, warmup_inclusive=True, replay_episodes=100)
SEED = replace(UPSTREAM, sigma=0.001, sigma_decay=1.0, decay_per_target=False, replay_per_target=False)
AGENT = DDPGSettings(
    hidden=16, actor_lr=1e-3, critic_lr=1e-2, discount=1.0, tau=0.01, batch_size=8, baseline_rate=0.5
)
TARGETS = [0.3, 0.5, 0.7]


def make_search(settings: SearchSettings = SETTINGS, mode: BudgetMode = "exact", **changes: Any) -> Search:
    model = zoo("resnet20", (1, 8, 8))
    graph = channel_graph(model, (1, 8, 8))
    cost = cost_model(model, graph, (1, 8, 8))
    choices = all_choices(graph, 4, 0.2)

    def score(widths: tuple[int, ...]) -> Accuracy:
        share = 100 * float(np.mean(np.array(widths) / cost.full_widths))
        return Accuracy(share, share)

    state = CleanObserver(model, graph, cost, choices, "scalar", TARGETS)
    env = ChannelEnv(cost, choices, state, RoundedBounds(cost, choices, mode), score, acc)
    settings = replace(settings, **changes)
    shapes = env.observation_size, 1
    return Search(env, DDPG(*shapes, AGENT, 0), TARGETS, settings, 0)


def test_every_transition_of_an_episode_carries_its_final_reward(tmp_path: Path) -> None:
    search = make_search(episodes=3)
    rows: list[Any] = []
    search.run(StageFolder(tmp_path, rows.append))
    ring, steps = search.memory._ring, search.env.steps
    assert len(search.memory) == 3 * steps
    for episode, row in enumerate(rows):
        mine = slice(episode * steps, (episode + 1) * steps)
        assert torch.allclose(ring.reward[mine], torch.tensor(row["reward"]).expand(steps), atol=1e-6)
        assert ring.end[mine].tolist() == [0.0] * (steps - 1) + [1.0]
        assert torch.equal(ring.next_state[mine][:-1], ring.state[mine][1:])
        assert torch.equal(ring.next_state[mine][-1], ring.state[mine][-1])  # the last state is repeated
        assert set(ring.task[mine].tolist()) == {episode % 3}
    assert [row["target"] for row in rows] == TARGETS


def test_stored_actions_are_raw_or_as_they_were_carried_out(tmp_path: Path) -> None:
    for kind, folder in (("raw", tmp_path / "a"), ("executed", tmp_path / "b")):
        folder.mkdir()
        search, rows = make_search(episodes=1, store_action=kind), list[Any]()
        search.run(StageFolder(folder, rows.append))
        stored = search.memory._ring.action[: search.env.steps, 0]
        executed = torch.tensor(search.env.executed(tuple(rows[0]["widths"])))
        assert torch.allclose(stored, executed) == (kind == "executed")


def test_the_ring_holds_so_many_episodes() -> None:
    assert replay_size(15, 1, UPSTREAM) == 1500
    assert replay_size(15, 3, replace(UPSTREAM, replay_per_target=True)) == 4500
    assert replay_size(15, 3, SEED) == 1500


def test_warm_up_and_noise_follow_the_published_schedules() -> None:
    assert [is_random(episode, UPSTREAM) for episode in (0, 99, 100, 101)] == [True, True, True, False]
    assert [is_random(episode, replace(UPSTREAM, warmup_inclusive=False)) for episode in (99, 100)] == [True, False]
    assert sigma_of(101, UPSTREAM, 1) == pytest.approx(0.475)
    assert sigma_of(178, UPSTREAM, 1) < 0.01 < sigma_of(176, UPSTREAM, 1)  # below 0.01 after 77 trained episodes
    assert sigma_of(101, UPSTREAM, 3) == pytest.approx(0.5 * 0.95 ** (1 / 3))
    assert sigma_of(101, SEED, 3) == sigma_of(399, SEED, 3) == 0.001


def counted(search: Search, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Episodes whose actions the agent gave, and in which it learned."""
    acted, learned = list[int](), list[int]()
    act, update = DDPG.act, DDPG.update

    def spy_act(self: DDPG, *args: Any) -> torch.Tensor:
        acted.append(search.done)
        return act(self, *args)

    def spy_update(self: DDPG, batch: Transitions) -> float:
        learned.append(search.done)
        return update(self, batch)

    monkeypatch.setattr(DDPG, "act", spy_act)
    monkeypatch.setattr(DDPG, "update", spy_update)
    return acted, learned


def test_one_update_per_transition_once_warm_up_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = make_search()
    acted, learned = counted(search, monkeypatch)
    search.run(StageFolder(tmp_path))
    assert sorted(set(learned)) == sorted(set(acted)) == [3, 4, 5, 6, 7]
    assert len(learned) == len(acted) == 5 * search.env.steps


def test_baselines_are_per_target_or_shared(tmp_path: Path) -> None:
    for per_target, folder in ((True, tmp_path / "a"), (False, tmp_path / "b")):
        folder.mkdir()
        search = make_search(baseline_per_target=per_target)
        search.run(StageFolder(folder))
        assert len(search.agent.baselines) == (3 if per_target else 1)


def test_the_best_of_every_target_is_the_row_with_the_largest_reward(tmp_path: Path) -> None:
    rows: list[Any] = []
    best = make_search(episodes=12).run(StageFolder(tmp_path, rows.append))
    assert list(best) == TARGETS
    for target, outcome in best.items():
        mine = [row for row in rows if row["target"] == target]
        top = max(mine, key=lambda row: row["reward"])
        assert outcome["reward"] == pytest.approx(top["reward"], abs=1e-6)
        assert list(outcome["widths"]) == top["widths"]
        assert top["best_reward"] == top["reward"] == mine[-1]["best_reward"]


def test_uniform_widths_can_be_the_first_to_beat(tmp_path: Path) -> None:
    search = make_search(episodes=1, uniform_first=True)
    search.run(StageFolder(tmp_path))
    for task, target in enumerate(TARGETS):
        uniform = search.env.uniform_widths(target)
        if task:  # no episode has been played for it yet
            assert search.best[task]["widths"] == uniform


def test_the_seeds_first_episode_has_no_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[float | None] = []
    play = ChannelEnv.play

    def spy(self: ChannelEnv, target: float, policy: Callable[..., float], budget: float | None = None) -> Any:
        budgets.append(budget)
        return play(self, target, policy, budget)

    monkeypatch.setattr(ChannelEnv, "play", spy)
    make_search(episodes=3, wall_first_episode=False).run(StageFolder(tmp_path))
    assert budgets == [1.0, None, None]


def test_every_episode_draws_actions_of_its_own_and_the_seed_decides_them(tmp_path: Path) -> None:
    """In warm-up, where nothing is learned, and after it."""
    played = []
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        (tmp_path / name).mkdir()
        search, rows = make_search(episodes=7, warmup=4, sampling="cycle", mode="upper"), list[Any]()
        search.seed = seed
        search.run(StageFolder(tmp_path / name, rows.append))
        played.append([tuple(row["widths"]) for row in rows])
        assert [row["target"] for row in rows[:4]] == [*TARGETS, TARGETS[0]]
    assert played[0] == played[1] != played[2]
    assert all(len({episodes[0], episodes[3], episodes[6]}) == 3 for episodes in played)  # of one target


def test_the_agent_explores_with_the_noise_that_a_row_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search, rows, sigmas = make_search(episodes=5, warmup=2), list[Any](), dict[int, set[float]]()
    act = DDPG.act

    def spy(self: DDPG, state: torch.Tensor, sigma: float = 0.0, *args: Any) -> torch.Tensor:
        sigmas.setdefault(search.done + 1, set()).add(sigma)
        return act(self, state, sigma, *args)

    monkeypatch.setattr(DDPG, "act", spy)
    search.run(StageFolder(tmp_path, rows.append))
    assert {row["episode"]: row["sigma"] for row in rows[2:]} == pytest.approx(
        {episode: sigma for episode, (sigma,) in sigmas.items()}, abs=1e-6
    )
    assert list(sigmas) == [3, 4, 5]
    assert rows[2]["sigma"] == SETTINGS.sigma > rows[-1]["sigma"] > 0


def test_targets_come_in_turn_or_are_drawn() -> None:
    turns = make_search()
    assert [turns._task(episode) for episode in range(5)] == [0, 1, 2, 0, 1]
    drawn = make_search(sampling="uniform")
    tasks = [drawn._task(episode) for episode in range(300)]
    assert tasks == [drawn._task(episode) for episode in range(300)]
    assert all(70 < tasks.count(task) < 130 for task in range(3))


@pytest.mark.parametrize("target", [0.3, 0.5, 0.7])
def test_the_exact_mode_spends_the_budget_in_warm_up_too(target: float) -> None:
    random = np.random.default_rng(0)
    ratios = {}
    for mode in ("upper", "exact"):
        env = make_search(mode=mode).env
        played = [env.play(target, lambda step, seen: random.random()) for _ in range(20)]
        ratios[mode] = np.array([outcome["ratio"] for outcome in played])
    assert ratios["exact"].min() > target - 0.02 > ratios["upper"].mean() - 0.02
    assert max(ratios["exact"].max(), ratios["upper"].max()) <= target


@pytest.mark.slow
def test_the_search_learns_what_is_worth_keeping(tmp_path: Path) -> None:
    """A network whose accuracy is known: it lives by its first groups alone, which chance halves."""
    search = make_search(episodes=150, warmup=40, replay_episodes=100)
    full = search.env._cost.full_widths

    def score(widths: tuple[int, ...]) -> Accuracy:
        share = 100 * float(np.mean(np.array(widths)[:4] / full[:4]))
        return Accuracy(share, share)

    search.env._score = score
    fast = replace(AGENT, hidden=64, tau=0.05, batch_size=64)
    search.agent = DDPG(search.env.observation_size, 1, fast, 1)
    search.run(StageFolder(tmp_path))
    random = np.random.default_rng(0)
    for target in (0.3, 0.5, 0.7):
        policy = search.env.play(target, lambda step, seen: float(search.agent.act(torch.from_numpy(seen))))
        chance = [search.env.play(target, lambda step, seen: random.random())["reward"] for _ in range(60)]
        assert policy["reward"] >= np.quantile(chance, 0.95) > np.mean(chance)


def test_warm_up_explores_around_uniform_widths_if_asked_to(tmp_path: Path) -> None:
    for sigma, folder in ((1e-6, tmp_path / "a"), (0.2, tmp_path / "b")):
        folder.mkdir()
        search, rows = make_search(mode="upper", episodes=3, warmup_sigma=sigma), list[Any]()
        search.run(StageFolder(folder, rows.append))
        played = [tuple(row["widths"]) == search.env.uniform_widths(row["target"]) for row in rows]
        assert played == [sigma < 1e-3] * 3
