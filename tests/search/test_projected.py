"""Laws of the search by preferences, on networks whose accuracy is known."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import zoo

from compress.agents.preferences import PreferencePolicy, PreferenceSettings
from compress.errors import SettingError
from compress.graph.build import channel_graph
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import Accuracy
from compress.prune.cost import cost_model
from compress.search.agent.action_bounds import RoundedBounds
from compress.search.agent.around import Moves, around
from compress.search.agent.environment import ChannelEnv
from compress.search.agent.observations import CleanObserver, raw_features, scaled
from compress.search.agent.projected import ProjectedSearch, ProjectedSettings, Projection, critic_of, told
from compress.search.agent.rewards import Reward, acc, acc_normalize
from compress.search.space import multiples_space

SETTINGS = ProjectedSettings(
    draws=6, draw_sigmas=[0.35, 0.7], proposals=32, elite=4, moves=Moves(0.4, 0.2, 0.2, 0.2),
    changed=[0.15, 0.4, 1.0], mutation_prob=0.15, first_sigma=0.35, sigma_rate=0.1, least_sigma=0.06,
    critic="gp", optimism=0.5,
)  # fmt: skip
POLICY = PreferenceSettings(hidden=32, lr=1e-2, steps=10, bound=1.5)
TARGETS = [0.3, 0.5, 0.7]
MODEL = zoo("resnet20", (1, 8, 8))
GRAPH = channel_graph(MODEL, (1, 8, 8))
COST = cost_model(MODEL, GRAPH, (1, 8, 8))
FULL = COST.full_widths
HURTS = np.where(np.arange(len(FULL)) % 3 == 0, 0.3, 0.01)  # narrowing every third group costs accuracy


def accuracy(widths: Any) -> Any:
    """Percent."""
    return 100 * np.exp(-(HURTS * (FULL / np.array(widths) - 1)).sum(-1))


class Counted:
    """Scores by `accuracy`, and counts how often each strategy was asked for."""

    def __init__(self) -> None:
        self.computed: Counter[tuple[int, ...]] = Counter()
        self._memory: dict[tuple[int, ...], Accuracy] = {}

    def __call__(self, widths: tuple[int, ...]) -> Accuracy:
        if widths not in self._memory:
            self.computed[widths] += 1
            top1 = float(accuracy(widths))
            self._memory[widths] = Accuracy(top1, top1)
        return self._memory[widths]


def normalised(outcome: Any) -> float:
    return acc_normalize(outcome, references="measured", published={})


def make_search(
    targets: list[float] = TARGETS,
    reward: Reward = normalised,
    seed: int = 0,
    round_to: int = 4,
    lbound: float = 0.2,
    score: Callable[..., Accuracy] | None = None,
    **changes: Any,
) -> ProjectedSearch:
    space = multiples_space(GRAPH, round_to, lbound)
    state = CleanObserver(MODEL, GRAPH, COST, space.options, "scalar", targets)
    env = ChannelEnv(
        COST, space.options, state, RoundedBounds(COST, space.options, "exact"), score or Counted(), reward
    )
    features = scaled(raw_features(MODEL, GRAPH), constant="zero")
    projections = [Projection(space, env.price, target * env.full_macs) for target in targets]
    policy, settings = PreferencePolicy(features, POLICY, 0), replace(SETTINGS, **changes)
    return ProjectedSearch(env, projections, policy, targets, "scalar", settings, seed)


def run(search: ProjectedSearch, folder: Path, episodes: int, uniform_first: bool = True) -> list[Any]:
    rows: list[Any] = []
    folder.mkdir(parents=True, exist_ok=True)
    search.run(episodes, uniform_first, StageFolder(folder, rows.append))
    return rows


def own_answer(search: ProjectedSearch, target: float) -> tuple[int, ...]:
    projection = replace(search.projections[0], high=target * search.env.full_macs)
    return projection.one(search.policy.preferences(told("scalar", target)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProjectedSearch, list[Any]]:
    search = make_search()
    return search, run(search, tmp_path_factory.mktemp("trained"), 90)


Trained = tuple[ProjectedSearch, list[Any]]


def test_no_widths_are_scored_twice_and_all_meet_their_target(trained: Trained) -> None:
    _, rows = trained
    assert len({tuple(row["widths"]) for row in rows}) == len(rows) == 90
    uniform = {trained[0].env.uniform_widths(target) for target in TARGETS}
    assert not uniform & {tuple(row["widths"]) for row in rows}
    assert rows[-1]["evaluations"] == 90 + len(uniform)
    assert all(row["ratio"] <= row["target"] for row in rows)
    assert np.mean([row["target"] - row["ratio"] for row in rows]) < 0.01
    assert [row["target"] for row in rows[:4]] == [*TARGETS, TARGETS[0]]


def test_its_answer_is_no_constants_and_beats_uniform_at_targets_it_never_saw(trained: Trained) -> None:
    search, _ = trained
    for target in (0.3, 0.4, 0.5, 0.6, 0.7):
        answer, uniform = own_answer(search, target), search.env.uniform_widths(target)
        assert answer != uniform
        assert COST.macs(answer)[0] <= target * COST.full_macs
        gained = accuracy(answer) - accuracy(uniform)
        assert gained > (100 - accuracy(uniform)) / 3, target


def test_its_answer_is_nearly_the_best_it_found(trained: Trained) -> None:
    search, rows = trained
    for task, target in enumerate(TARGETS):
        found, uniform = search.best[task]["accuracy"], accuracy(search.env.uniform_widths(target))
        assert found == pytest.approx(max(row["accuracy"] for row in rows if row["target"] == target), abs=1e-3)
        assert accuracy(own_answer(search, target)) > uniform + 0.7 * (found - uniform)


def test_it_begins_with_uniform_widths(tmp_path: Path) -> None:
    search = make_search()
    assert [own_answer(search, target) for target in TARGETS] == list(map(search.env.uniform_widths, TARGETS))
    run(search, tmp_path, 1)
    assert [search.best[task]["widths"] for task in (1, 2)] == [search.env.uniform_widths(t) for t in TARGETS[1:]]
    assert list(search.scored)[:3] == list(map(search.env.uniform_widths, TARGETS))
    without = make_search()
    run(without, tmp_path / "without", 1, uniform_first=False)
    assert list(without.best) == [0]


def test_the_critic_finds_the_good_ones_earlier(tmp_path: Path) -> None:
    best: dict[str, list[float]] = {"gp": [], "none": []}
    for critic, found in best.items():
        for seed in range(3):
            search = make_search([0.3], seed=seed, critic=critic)
            run(search, tmp_path / critic / str(seed), 30)
            found.append(search.best[0]["reward"])
    assert np.mean(best["gp"]) > np.mean(best["none"]) + 0.01


def test_a_small_space_is_exhausted_and_the_search_ends(tmp_path: Path) -> None:
    """Two widths per group at most: of the few strategies that the projection gives, each is scored once."""
    search = make_search([0.45, 0.5], round_to=8, lbound=0.99, score=Counted())
    search.space = few_choices()
    search.projections = [replace(one, space=search.space) for one in search.projections]
    rows = run(search, tmp_path, 400)
    assert 0 < len(rows) < 100
    assert len({tuple(row["widths"]) for row in rows}) == len(rows)
    assert search.stuck == 2
    score: Any = search.env._score
    assert set(score.computed.values()) == {1}
    again = make_search([0.45, 0.5])
    assert again.run(400, True, StageFolder(tmp_path)).keys() == {0.45, 0.5}  # nothing is left to do
    assert again.done == len(rows)


def few_choices() -> Any:
    """All groups stay whole but three, which have two widths each."""
    space = multiples_space(GRAPH, 4, 0.2)
    options = [
        widths[[0, -1]] if at in (1, 4, 7) else widths[[len(widths) // 2]] for at, widths in enumerate(space.options)
    ]
    return replace(space, options=options)


def test_what_another_target_scored_counts_at_no_cost(tmp_path: Path) -> None:
    """At targets that allow the same widths, each strategy is scored once, and is a result of both."""
    score = Counted()
    search = make_search([0.5, 0.5005], score=score)
    run(search, tmp_path, 40)
    assert set(score.computed.values()) == {1}
    shared = search.rewards[0].keys() & search.rewards[1].keys()
    assert len(shared) > 3
    for task in (0, 1):
        assert search.best[task]["reward"] == max(search.rewards[task].values())
        assert search.best[task]["target"] == search.targets[task]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("at", [4, 25])
def test_resumed_it_is_the_uninterrupted_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr("compress.search.agent.projected.SAVE_EVERY_SECONDS", 0.0)
    whole = make_search()
    expected = run(whole, tmp_path / "whole", 36)

    def die(row: Any) -> None:
        if row["episode"] == at:
            raise KilledError

    (tmp_path / "killed").mkdir()
    with pytest.raises(KilledError):
        make_search().run(36, True, StageFolder(tmp_path / "killed", die))
    resumed = make_search()
    got = run(resumed, tmp_path / "killed", 36)
    assert without_seconds(got) == without_seconds(expected)
    assert resumed.best == whole.best
    for target in (0.3, 0.45):
        assert np.array_equal(resumed.policy.preferences(target), whole.policy.preferences(target))
    assert list(resumed.scored.items()) == list(whole.scored.items())


def without_seconds(rows: list[Any]) -> list[Any]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_the_seed_decides(tmp_path: Path) -> None:
    first, second, third = (run(make_search(seed=s), tmp_path / n, 8) for s, n in ((0, "a"), (0, "b"), (1, "c")))
    assert without_seconds(first) == without_seconds(second)
    assert [row["widths"] for row in first] != [row["widths"] for row in third]


def test_the_critic_is_made_again_from_what_is_saved(trained: Trained) -> None:
    search, rows = trained
    again, asked = critic_of(FULL.tolist(), search.data()), np.array([row["widths"] for row in rows[:9]])
    assert search.critic is not None
    assert np.array_equal(again.promise(asked, 0.5), search.critic.promise(asked, 0.5))
    assert search.data()["accuracies"].tolist() == pytest.approx(accuracy(search.data()["widths"].numpy()))


def test_proposals_keep_to_the_shares_of_groups_that_change(trained: Trained) -> None:
    search, _ = trained
    own = search.policy.preferences(told("scalar", 0.3))
    changed = (proposed(search, Moves(1, 0, 0, 0), changed=[0.15]) != own).sum(1)
    assert changed.min() >= 1
    assert 0.1 < changed.mean() / len(FULL) < 0.35


def proposed(search: ProjectedSearch, moves: Moves, **changes: Any) -> Any:
    """Preferences that are proposed for target 0.3."""
    settings, space = replace(SETTINGS, moves=moves, **changes), search.space
    own, elite = search.policy.preferences(told("scalar", 0.3)), space.genes(search.elite(0))
    return around(settings, space, own, elite, search.sigmas[0], np.random.default_rng(0))


def test_crossovers_have_each_width_from_one_of_the_elite_and_mutants_most(trained: Trained) -> None:
    search, _ = trained
    elite = search.elite(0)
    crossed, mutated = proposed(search, Moves(0, 0, 1, 0)), proposed(search, Moves(0, 0, 0, 1))
    assert len(np.unique(crossed, axis=0)) > 10
    assert all((elite == widths).any(0).all() for widths in map(one_of_elite, crossed, repeat(elite)))
    places_kept = [(elite == widths).sum(1).max() for widths in map(one_of_elite, mutated, repeat(elite))]
    assert len(FULL) / 2 < np.mean(places_kept) < len(FULL)


def one_of_elite(wishes: Any, elite: Any) -> Any:
    """The widths that preferences are of: known up to a factor, which makes most of them the elite's."""
    levels = np.log(elite / FULL) - wishes  # constant along the places that are taken from the elite
    level = np.median(levels[np.abs(levels - np.median(levels, axis=1, keepdims=True)).sum(1).argmin()])
    return np.rint(np.exp(wishes + level) * FULL)


def test_moves_are_made_as_often_as_they_are_asked_for() -> None:
    drawn = Moves(0.4, 0.2, 0.2, 0.0).drawn(10_000, np.random.default_rng(0))
    assert np.bincount(drawn, minlength=4) / 10_000 == pytest.approx([0.5, 0.25, 0.25, 0], abs=0.02)
    with pytest.raises(SettingError, match="nothing is proposed"):
        Moves(0, 0, 0, 0)


def test_the_noise_follows_the_elite_and_never_ends(trained: Trained) -> None:
    search, rows = trained
    assert rows[0]["sigma"] == pytest.approx(np.mean(SETTINGS.draw_sigmas))
    assert SETTINGS.least_sigma <= rows[-1]["sigma"] < rows[20]["sigma"]
    assert search.sigmas.min() >= SETTINGS.least_sigma


def test_a_reward_that_is_negative_is_climbed_too(tmp_path: Path) -> None:
    search = make_search([0.4], reward=lambda outcome: acc(outcome) - 5)
    run(search, tmp_path, 30)
    assert search.best[0]["reward"] == max(search.rewards[0].values()) < 0
    assert search.best[0]["accuracy"] > accuracy(search.env.uniform_widths(0.4))


def test_policies_that_are_not_told_the_target_answer_alike() -> None:
    assert told("none", 0.3) == told("none", 0.7) == 0.0
    assert [told("scalar", target) for target in (0.0, 0.5, 1.0)] == [-1, 0, 1]
