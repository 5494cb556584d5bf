"""Laws of the searches `sample`, `evolution` and `greedy`, on a small network with a scorer of widths alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import zoo

from compress.errors import SettingError
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import Score
from compress.prune.budget import ceilings_of, prices
from compress.prune.cost import cost_model
from compress.schema.settings import Budget
from compress.search.candidates import Candidates, is_better
from compress.search.evolution import Evolution
from compress.search.feasible import Feasible, feasible
from compress.search.greedy import Greedy
from compress.search.proposals import crossovers, mutants
from compress.search.sample import Sample
from compress.search.space import multiples_space

SHAPE = (3, 32, 32)
EVOLUTION = Evolution(
    generations=6,
    population=12,
    select=8,
    parents=5,
    mutation=5,
    mutation_prob=0.2,
    crossover=5,
    random=2,
    critic="none",
    proposals=32,
    optimism=0.5,
)
GUIDED = replace(EVOLUTION, critic="gp")


class Wide:
    """A scorer whose top-1 is a smooth function of the widths with one optimum, in steps of half a percent."""

    name = "wide"
    refit = None

    def __init__(self, full: np.ndarray, steps: float = 0.5) -> None:
        self.full, self.steps = full, steps
        self.asked: list[tuple[int, ...]] = []
        self.given_up = 0

    def score(self, widths: tuple[int, ...], least_top1: float = 0.0) -> Score | None:
        self.asked.append(widths)
        aim = np.linspace(0.2, 0.9, len(widths))
        exact = 100 - 100 * float(((np.array(widths) / self.full - aim) ** 2).mean())
        top1 = round(exact / self.steps) * self.steps
        if top1 < least_top1:
            self.given_up += 1
            return None
        return Score(top1, 100.0, 100 - exact)

    def realise(self, widths: tuple[int, ...]) -> tuple[Plan, dict[str, Any]]:
        return Plan(), {}

    def report(self) -> dict[str, Any]:
        return {"scorer": self.name}


def small(share: float = 0.5) -> Feasible:
    model = zoo("resnet20")
    graph = channel_graph(model, SHAPE)
    cost = cost_model(model, graph, SHAPE)
    space = multiples_space(graph, 2, 0.1)
    return feasible(space, ceilings_of(Budget("preserve_ratio", share), cost.full_widths, prices(cost)), 0.2)


@pytest.fixture(scope="module")
def within() -> Feasible:
    return small()


def scorer_of(within: Feasible) -> Wide:
    return Wide(within.space.widths(within.space.widest))


def genes_of(found: Candidates) -> list[tuple[int, ...]]:
    return [candidate.gene for candidate in found.best]


@pytest.mark.parametrize("search", [EVOLUTION, GUIDED, Sample(draws=60)])
def test_every_candidate_is_within_the_budget_and_scored_once(within: Feasible, search: Any) -> None:
    scorer = scorer_of(within)
    found = search(within, scorer, 0, 5)
    genes = np.array(list(found.tested))
    assert within.holds(genes).all()
    assert len(scorer.asked) == len(set(map(tuple, genes.tolist()))) == len(genes)
    assert found.best == sorted(found.best, key=is_better)
    assert len(found.best) == max(5, getattr(search, "select", 5))


def test_evolution_scores_as_many_as_it_says(within: Feasible) -> None:
    found = EVOLUTION(within, scorer_of(within), 0, 5)
    assert found.evaluations == 12 + 6 * 12


def test_giving_up_leaves_the_selection_unchanged(within: Feasible) -> None:
    """Against a scorer that scores everything to its end."""
    eager = scorer_of(within)
    lazy = scorer_of(within)
    lazy.score = lambda widths, least_top1=0.0: Wide.score(lazy, widths)  # type: ignore[method-assign]
    first, second = EVOLUTION(within, eager, 1, 5), EVOLUTION(within, lazy, 1, 5)
    assert first.best == second.best
    assert first.tested == second.tested
    assert eager.given_up > 0
    every = [lazy.score(widths) for widths in first.tested.values()]
    best = sorted((-score.top1, score.loss) for score in every if score is not None)[: len(first.best)]
    assert [is_better(candidate) for candidate in first.best] == best


def test_equal_accuracies_are_told_apart_by_the_loss(within: Feasible) -> None:
    scorer = scorer_of(within)
    scorer.steps = 50.0
    found = Sample(draws=30)(within, scorer, 0, 30)
    assert len({candidate.score.top1 for candidate in found.best}) == 1
    losses = [candidate.score.loss for candidate in found.best]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


@pytest.mark.parametrize("search", [EVOLUTION, GUIDED, Sample(draws=40), Greedy(step=0.08, decay=0.9)])
@pytest.mark.parametrize("after", [1, 3])
def test_resumed_it_is_the_uninterrupted_search(within: Feasible, search: Any, after: int, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    class Work(StageFolder):
        left = after

        def progress(self, state: Any, every_seconds: float = 0) -> None:
            super().progress(state)
            self.left -= 1
            if self.left == 0:
                raise KilledError

    rows: list[dict[str, Any]] = []
    whole = search(within, scorer_of(within), 3, 5, StageFolder(_made(tmp_path / "whole"), rows.append))
    with pytest.raises(KilledError):
        search(within, scorer_of(within), 3, 5, Work(_made(tmp_path / "killed")))
    again: list[dict[str, Any]] = []
    scorer = scorer_of(within)
    resumed = search(within, scorer, 3, 5, StageFolder(tmp_path / "killed", again.append))
    assert resumed.best == whole.best
    assert resumed.tested == whole.tested
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in rows]
    assert 0 < len(scorer.asked) < len(whole.tested)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_rows_count_the_candidates_so_far(within: Feasible, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    EVOLUTION(within, scorer_of(within), 0, 5, StageFolder(tmp_path, rows.append))
    assert [row["evaluations"] for row in rows] == [12 + 12 * at for at in range(7)]
    assert all(row["mutants"] + row["crossovers"] + row["drawn"] == 12 for row in rows)
    best = [row["best_top1"] for row in rows]
    assert best == sorted(best)


def test_a_set_that_is_exhausted_ends_the_search() -> None:
    """With two options per group and a narrow band there are fewer genes than the search would score."""
    model = zoo("resnet20")
    graph = channel_graph(model, SHAPE)
    space = multiples_space(graph, 16, 0.1)
    cost = cost_model(model, graph, SHAPE)
    within = feasible(space, ceilings_of(Budget("preserve_ratio", 0.9), cost.full_widths, prices(cost)), 0.02)
    every = np.array(np.meshgrid(*[range(n) for n in space.sizes])).reshape(len(graph), -1).T
    fitting = int(within.holds(every).sum())
    assert 0 < fitting < 200
    long = {"generations": 100}
    for search in (replace(EVOLUTION, **long), replace(GUIDED, **long), Sample(draws=500)):
        found = search(within, scorer_of(within), 0, 5)
        assert len(found.tested) == fitting


def test_mutants_change_entries_at_the_given_rate_to_other_options() -> None:
    sizes = np.array([31, 2, 1, 7])
    parents = np.tile(np.array([30, 1, 0, 3]), (40_000, 1))
    made = mutants(parents, sizes, 0.25, np.random.default_rng(0))
    assert ((made >= 0) & (made < sizes)).all()
    rates = (made != parents).mean(0)
    assert rates[2] == 0
    assert np.abs(rates[[0, 1, 3]] - 0.25).max() < 0.01
    counts = np.bincount(made[made[:, 3] != 3, 3], minlength=7)
    assert counts[3] == 0
    assert np.abs(counts[[0, 1, 2, 4, 5, 6]] / counts.sum() - 1 / 6).max() < 0.015


def test_crossovers_take_every_entry_from_one_of_two_different_parents() -> None:
    parents = np.arange(4)[:, None].repeat(6, 1)
    made = crossovers(parents, 20_000, np.random.default_rng(0))
    kinds = [len(set(gene)) for gene in made.tolist()]
    assert max(kinds) == 2
    assert np.abs(np.array(kinds).mean() - (2 - 2 / 2**6)) < 0.02  # both parents but for 2 of 64 masks


def test_evolution_beats_draws_at_equal_evaluations_where_widths_matter(within: Feasible) -> None:
    """On a smooth function, over 3 seeds; that it does on a real network is a figure of the benchmark, not a law."""
    long = replace(EVOLUTION, generations=20)
    for seed in range(3):
        first = long(within, scorer_of(within), seed, 1).best[0]
        second = Sample(draws=12 + 20 * 12)(within, scorer_of(within), seed, 1).best[0]
        assert is_better(first) < is_better(second)


def test_a_critic_finds_better_widths_in_as_many_evaluations(within: Feasible) -> None:
    for seed in range(3):
        scorers = scorer_of(within), scorer_of(within)
        plain, guided = (
            search(within, one, seed, 1) for search, one in zip((EVOLUTION, GUIDED), scorers, strict=True)
        )
        assert is_better(guided.best[0]) < is_better(plain.best[0])
        assert guided.evaluations == plain.evaluations
        assert scorers[0].given_up > scorers[1].given_up == 0  # a critic learns from bad candidates too


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"parents": 9}, "parents=9: must be <= select=8"),
        ({"parents": 1}, "crossover=5: needs parents >= 2"),
        ({"mutation": 0, "crossover": 0, "random": 0}, "mutation, crossover and random are 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, int], told: str) -> None:
    with pytest.raises(SettingError, match=told.replace("(", r"\(")):
        replace(EVOLUTION, **settings)
