"""`Candidates`: what a search has scored so far, and the best of it; the same for every search and scorer."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from compress.io.files import JSON
from compress.measure.accuracy import Score
from compress.search.feasible import Feasible
from compress.search.scorers.scorer import Scorer, Widths
from compress.search.space import Genes

Gene = tuple[int, ...]  # options by index, one per place of the space


class Candidate(NamedTuple):
    """A gene that was scored; `price` is in the unit of the budget's price."""

    gene: Gene
    widths: Widths
    score: Score
    price: float

    @property
    def error(self) -> float:
        """Top-1 error in percent."""
        return 100 - self.score.top1


def is_better(candidate: Candidate) -> tuple[float, float]:
    """Sort key, best first: by top-1, among equals by the cross entropy (accuracy on few images comes in steps)."""
    return (-candidate.score.top1, candidate.score.loss)


class Candidates:
    """Scores genes and keeps the `most` best, best first.

    A gene whose top-1 falls below that of the last of them is given up: it could not become one of them, so that the
    selection is the same as if it had been scored to the end.
    """

    def __init__(self, feasible: Feasible, scorer: Scorer, most: int) -> None:
        self._feasible, self._scorer, self._most = feasible, scorer, most
        self.best: list[Candidate] = []
        self.tested: dict[Gene, Widths] = {}

    @property
    def evaluations(self) -> int:
        """Candidates with different widths that were scored or given up, remembered ones included."""
        return len(set(self.tested.values()))

    def test(self, genes: Genes) -> Iterator[Candidate | None]:
        """Score genes (n, places) of the feasible set, one by one; None for one that was given up."""
        for gene, widths, price in self._priced(genes):
            yield self._test(gene, widths, price)

    def _test(self, gene: Gene, widths: Widths, price: float) -> Candidate | None:
        self.tested[gene] = widths
        least = self.best[-1].score.top1 if len(self.best) == self._most else 0.0
        score = self._scorer.score(widths, least)
        if score is None or score.top1 < least:  # the latter of one that is remembered from another search
            return None
        candidate = Candidate(gene, widths, score, price)
        self.keep(candidate)
        return candidate

    def score(self, genes: Genes) -> list[Candidate]:
        """Score genes (n, places) to the end, whatever they cost: a search may pass through what the budget
        forbids, or learn from what is bad. All are counted, and those of the feasible set kept as by `test`."""
        scored = []
        for gene, widths, price in self._priced(genes):
            self.tested[gene] = widths
            score = self._scorer.score(widths)
            assert score is not None, "nothing is below a top-1 of 0"
            scored.append(Candidate(gene, widths, score, price))
            if self._feasible.low <= price <= self._feasible.high:
                self.keep(scored[-1])
        return scored

    def keep(self, candidate: Candidate) -> None:
        """Among the `most` best, if it is one of them."""
        if candidate not in self.best:
            self.best = sorted([*self.best, candidate], key=is_better)[: self._most]

    def _priced(self, genes: Genes) -> Iterator[tuple[Gene, Widths, float]]:
        """Genes (n, places) with their widths and prices."""
        widths, prices = self._feasible.space.widths(genes), self._feasible.prices(genes)
        for gene, kept, price in zip(genes.tolist(), widths.tolist(), prices.tolist(), strict=True):
            yield tuple(gene), tuple(kept), price

    def without_tested(self, genes: Genes) -> Genes:
        """Those of genes (n, places) that were not tested yet, each once, in order."""
        seen, new = set(self.tested), []
        for at, gene in enumerate(map(tuple, genes.tolist())):
            if gene not in seen:
                seen.add(gene)
                new.append(at)
        return genes[new]

    def state(self) -> JSON:
        return {
            "best": [_to_state(one) for one in self.best],
            "tested": [list(map(list, one)) for one in self.tested.items()],
        }

    def restore(self, state: JSON) -> None:
        self.best = [_from_state(one) for one in state["best"]]
        self.tested = {tuple(gene): tuple(widths) for gene, widths in state["tested"]}


def _to_state(candidate: Candidate) -> JSON:
    return {**candidate._asdict(), "score": list(candidate.score)}


def _from_state(state: JSON) -> Candidate:
    return Candidate(tuple(state["gene"]), tuple(state["widths"]), Score(*state["score"]), state["price"])


def figures(candidates: Candidates) -> JSON:
    """What a row tells of the search so far."""
    best = candidates.best[0] if candidates.best else None
    return {
        "evaluations": candidates.evaluations,
        "best_top1": None if best is None else round(best.score.top1, 4),
        "best_price": None if best is None else best.price,
        "best_widths": [] if best is None else list(best.widths),
    }


def all_tie(candidates: Candidates) -> bool:
    """Whether several candidates were scored and all have one accuracy: they answer one class for every image."""
    top1 = {candidate.score.top1 for candidate in candidates.best}
    return len(candidates.best) >= 5 and len(top1) == 1 and not math.isclose(next(iter(top1)), 100.0)


def as_genes(genes: list[Gene], places: int) -> Genes:
    return np.array(genes, dtype=np.int64).reshape(len(genes), places)
