"""Laws of the search `greedy`: what it proposes, what it takes, and where it ends."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_searches import Wide, scorer_of, small

from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import Score
from compress.search.candidates import is_better
from compress.search.feasible import Feasible
from compress.search.greedy import Greedy, narrower, wider
from compress.search.space import WidthSpace

GREEDY = Greedy(step=0.08, decay=0.9)


@pytest.fixture(scope="module")
def within() -> Feasible:
    return small()


# -- by hand: a of 1, 2 or 4 channels at 1 each, b of 2 or 4 at 3 each ---------------------------------------------

HAND = WidthSpace(("a", "b"), [np.array([1, 2, 4]), np.array([2, 4])], (0, 1))


def by_hand(low: float, high: float) -> Feasible:
    return Feasible(HAND, lambda widths: np.atleast_2d(widths) @ np.array([1.0, 3.0]), low, high)


class Listed(Wide):
    """A scorer of a written list."""

    def __init__(self, top1: dict[tuple[int, ...], float]) -> None:
        super().__init__(np.array([4, 4]))
        self.top1 = top1

    def score(self, widths: tuple[int, ...], least_top1: float = 0.0) -> Score | None:
        self.asked.append(widths)
        return Score(self.top1[widths], 100.0, 0.0)


def test_two_groups_by_hand(tmp_path: Path) -> None:
    """16 to at most 13: a saves the step of 1.6 at 2 channels, b at 2 as well, which scores better and ends it."""
    scorer = Listed({(2, 4): 90.0, (4, 2): 95.0})
    rows: list[dict[str, Any]] = []
    found = Greedy(step=0.1, decay=1.0)(by_hand(9, 13), scorer, 0, 5, StageFolder(tmp_path, rows.append))
    assert scorer.asked == [(2, 4), (4, 2)]
    assert [one.widths for one in found.best] == [(4, 2)]  # (2, 4) costs 14
    assert found.evaluations == 2
    assert [(row["group"], row["width"], row["price"], row["proposals"]) for row in rows] == [("b", 2, 10.0, 2)]


def test_what_the_last_step_left_over_is_spent() -> None:
    """16 to at most 11: a to 2 is 14 and scores best; then a to 1 (13) does not fit, b to 2 (8) does; of the 3 that
    are left, 2 make a whole again."""
    scorer = Listed({(2, 4): 95.0, (4, 2): 90.0, (2, 2): 80.0})
    found = Greedy(step=0.1, decay=1.0)(by_hand(7, 11), scorer, 0, 5)
    assert [one.widths for one in found.best] == [(4, 2), (2, 2)]
    assert scorer.asked == [(2, 4), (4, 2), (2, 2), (4, 2)]
    assert found.evaluations == 3  # (4, 2) was proposed twice


def test_where_no_group_can_save_the_step_each_saves_what_it_can() -> None:
    within = by_hand(0, 7)
    widest = HAND.widest
    assert HAND.widths(narrower(within, widest, 11.0)).tolist() == [[4, 2]]
    assert HAND.widths(narrower(within, widest, 8.0)).tolist() == [[1, 4], [4, 2]]
    every = {(1, 4): 1.0, (4, 2): 2.0, (1, 2): 3.0, (2, 2): 4.0}
    found = Greedy(step=1.0, decay=1.0)(within, Listed(every), 0, 5)
    assert [one.widths for one in found.best] == [(1, 2)]


def test_a_last_gene_below_a_narrow_band_is_kept(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    work = StageFolder(tmp_path, rows.append)
    found = Greedy(step=0.1, decay=1.0)(by_hand(12.5, 13), Listed({(2, 4): 90.0, (4, 2): 95.0}), 0, 5, work)
    assert [one.widths for one in found.best] == [(4, 2)]
    assert rows[-1]["best_top1"] == 95


def test_a_budget_of_everything_is_the_widest_gene() -> None:
    found = GREEDY(by_hand(15, 16), Listed({(4, 4): 99.0}), 0, 5)
    assert [one.widths for one in found.best] == [(4, 4)]
    assert found.evaluations == 1


# -- on a real network ---------------------------------------------------------------------------------------------


def test_a_proposal_has_the_largest_width_of_one_group_that_saves_the_step(within: Feasible) -> None:
    space, gene = within.space, within.space.widest
    target = 0.93 * float(within.prices(gene)[0])
    genes = narrower(within, gene, target)
    changed = genes != gene
    assert (changed.sum(1) == 1).all()
    assert len(set(changed.argmax(1).tolist())) == len(genes) > 3
    assert (within.prices(genes) <= target).all()
    assert (within.prices(genes + changed) > target).all()
    missing = sorted(set(range(len(gene))) - set(changed.argmax(1).tolist()))
    for place in missing:
        gene[place] = 0
        assert within.prices(gene)[0] > target
        gene[place] = space.widest[place]


def test_it_ends_within_the_budget_with_nothing_left_to_spend(within: Feasible, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    scorer = scorer_of(within)
    found = GREEDY(within, scorer, 0, 10, StageFolder(tmp_path, rows.append))
    within_band = within.holds(np.array([one.gene for one in found.best]))
    assert within_band.sum() >= len(within_band) - 1  # the last gene may be below the band
    assert found.best == sorted(found.best, key=is_better)
    assert len({one.gene for one in found.best}) == len(found.best)
    last = [one for one in found.best if one.price == rows[-1]["price"]]
    assert not all(len(wider(within, np.array(one.gene))) for one in last)
    assert all(one.price <= within.high for one in found.best)
    prices = [row["price"] for row in rows]
    fitting = [price <= within.high for price in prices]
    first = fitting.index(True)
    assert first > 3
    assert all(fitting[first:])
    assert prices[:first] == sorted(prices[:first], reverse=True)
    assert prices[first:] == sorted(prices[first:])


def test_every_scored_candidate_is_counted(within: Feasible, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    scorer = scorer_of(within)
    found = GREEDY(within, scorer, 0, 10, StageFolder(tmp_path, rows.append))
    assert found.evaluations == rows[-1]["evaluations"] == len(set(scorer.asked))
    assert found.evaluations > sum(row["proposals"] for row in rows) // 2
    assert [row["iteration"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["best_top1"] is None for row in rows] == [row["price"] > within.high for row in rows]


def test_a_smaller_step_scores_more(within: Feasible) -> None:
    scored = [Greedy(step=step, decay=1.0)(within, scorer_of(within), 0, 1).evaluations for step in (0.2, 0.05)]
    assert scored[0] < scored[1]
    shrinking = Greedy(step=0.2, decay=0.5)(within, scorer_of(within), 0, 1).evaluations
    assert shrinking > scored[0]
