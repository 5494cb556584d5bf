"""Widths from a table of sensitivities: what the held-out top-1 loses when one group alone gets narrower.

FastNAS of NVIDIA's Model-Optimizer, Qualcomm's AIMET and Huawei's AMCT choose widths in this way; none of them has a
paper of its own. The drop of group g at width k is d_g(k) = top-1(dense) - top-1(only g cut to k), made monotone by a
running maximum, as a narrower group that scores better by chance is no reason to cut deeper. A threshold t gives
every group its narrowest width of at most that drop, w_g(t) = min {k : d_g(k) <= t}; the budget decides t. Where we
differ: a budget between two thresholds is met by single steps rather than missed, widths that were not scored get a
drop between those of their neighbours, the rise of the cross entropy may be taken for the drop (accuracy on few
images comes in steps, and many groups lose none at first), and the same table serves a second rule, `greedy`.

Both rules are one walk from the widest gene: its next step is of the least threshold (rule `threshold`) or whichever
(`greedy`), and among these of the least drop per saved price. No budget is part of that order, so the walk of a
smaller budget continues that of a larger one. The walk ends at the first gene within the budget, and `filled` spends
what its last step left over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.measure.accuracy import Score
from compress.search.feasible import Feasible
from compress.search.scorers.scorer import Widths
from compress.search.space import Genes, WidthSpace

Drops = Sequence[NDArray[np.float64]]  # per place the drop of each of its widths, which ascend; drops do not
Rule = Literal["threshold", "greedy"]
Measure = Literal["top1", "loss"]


class Curve(NamedTuple):
    """What a network scores with the groups of one place cut to some widths, and all others whole."""

    name: str
    full: int  # channels
    widths: tuple[int, ...]  # ascending, below `full`
    scores: tuple[Score, ...]  # of each width


@dataclass(frozen=True)
class Table:
    """The curves of all places of a space, in their order, and the score of the dense network."""

    dense: Score
    curves: tuple[Curve, ...]

    def drops(self, measure: Measure = "top1") -> Drops:
        """Of the scored widths of every place, monotone: of the top-1 in points, or the rise of the cross entropy."""
        return [
            monotone(np.array([_drop(self.dense, one, measure) for one in curve.scores])) for curve in self.curves
        ]

    def drops_of(self, options: Sequence[NDArray[np.int64]], measure: Measure = "top1") -> Drops:
        """Of any widths per place (n,), at most the full ones: linear between scored ones, 0 at full width. The
        narrowest width must be among the scored ones."""
        return [
            np.interp(widths, [*curve.widths, curve.full], [*drops, 0.0])
            for widths, curve, drops in zip(options, self.curves, self.drops(measure), strict=True)
        ]


def _drop(dense: Score, score: Score, measure: Measure) -> float:
    return dense.top1 - score.top1 if measure == "top1" else score.loss - dense.loss


def monotone(drops: NDArray[np.float64]) -> NDArray[np.float64]:
    """The running maximum from the widest to the narrowest, at least 0: (n,) by ascending width -> (n,)."""
    raised: NDArray[np.float64] = np.maximum.accumulate(np.maximum(drops, 0.0)[::-1])[::-1]
    return raised


def widths_to_score(space: WidthSpace, full: Sequence[int], most: int) -> list[tuple[int, ...]]:
    """Of every place the allowed widths below the full one, ascending; where they are more than `most`, that many
    evenly chosen ones, the narrowest and (of two or more) the widest among them. `full` are those of the groups."""
    chosen = []
    for place, options in enumerate(space.options):
        below = np.unique(options[options < full[space.places.index(place)]])
        at = np.unique(np.linspace(0, len(below) - 1, min(most, len(below))).round().astype(int))
        chosen.append(tuple(below[at].tolist()))
    return chosen


def one_narrower(space: WidthSpace, full: Sequence[int], place: int, width: int) -> Widths:
    """The full widths of all groups, but `width` for those of one place."""
    return tuple(width if at == place else whole for at, whole in zip(space.places, full, strict=True))


class Choose(Protocol):
    def __call__(self, within: Feasible, drops: Drops) -> Genes: ...


def by_threshold(within: Feasible, drops: Drops) -> Genes:
    """The gene (places,) of the least threshold that meets the budget; steps of that threshold itself are taken one
    by one, and what is left over is spent."""
    return filled(within, drops, walked(within, drops, by_level=True))


def by_greedy(within: Feasible, drops: Drops) -> Genes:
    """The gene (places,) after the steps of the least drop per saved price, and what is left over spent."""
    return filled(within, drops, walked(within, drops, by_level=False))


RULES: Mapping[Rule, Choose] = {"threshold": by_threshold, "greedy": by_greedy}


def walked(within: Feasible, drops: Drops, by_level: bool) -> Genes:
    """The first gene (places,) of the walk that costs at most `within.high`, which the narrowest one must. A larger
    budget never gives a narrower place."""
    gene = within.space.widest
    now = float(within.prices(gene)[0])
    while now > within.high:
        places = np.flatnonzero(gene > 0)
        prices = within.prices(gene - _one_each(places, len(gene)))
        wide, narrow = _at(drops, gene, places), _at(drops, gene - 1, places)
        saved = now - prices
        level = narrow if by_level else np.zeros_like(narrow)
        best = np.lexsort((places, -saved, _per_price(narrow - wide, saved), level))[0]
        gene[places[best]] -= 1
        now = float(prices[best])
    return gene


def filled(within: Feasible, drops: Drops, gene: Genes) -> Genes:
    """`gene` (places,) widened by single steps while any fits, the one that regains the most drop per price first: no
    place of the result could be a step wider.

    With it a larger budget may give one place less, where it affords a larger step of another.
    """
    gene = gene.copy()
    while True:
        now = float(within.prices(gene)[0])
        places = np.flatnonzero(gene < within.space.widest)
        prices = within.prices(gene + _one_each(places, len(gene)))
        places, prices = places[prices <= within.high], prices[prices <= within.high]
        if not len(places):
            return gene
        narrow, wide = _at(drops, gene, places), _at(drops, gene + 1, places)
        added = prices - now
        best = np.lexsort((places, -added, -_per_price(narrow - wide, added)))[0]
        gene[places[best]] += 1


def _at(drops: Drops, gene: Genes, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """The drops of a gene's options at some places: (len(places),)."""
    return np.array([drops[place][gene[place]] for place in places.tolist()])


def _one_each(places: NDArray[np.int64], count: int) -> Genes:
    """(len(places), count): in every row a 1 at one of the places."""
    return np.eye(count, dtype=np.int64)[places]


def _per_price(drops: NDArray[np.float64], prices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drops per price, none of them negative; a drop at no price is endless, no drop is 0 at any price."""
    free = np.where(drops > 0, np.inf, 0.0)
    return np.divide(drops, prices, out=free, where=prices > 0)
