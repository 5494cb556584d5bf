"""Greedy search: in every iteration each group proposes to save a step of the price alone; the best one is taken.

Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications", ECCV 2018,
arXiv:1804.03230, algorithm 1: a proposal has the largest width of its group that saves the step, which may shrink
from iteration to iteration (in the authors' code it begins at 0.025 of the dense latency and shrinks by 0.96). Where
we differ: proposals are scored by the scorer as they are, without a short training of each; the price is that of the
budget; where no group can save the whole step, each saves what it can; and what the last step left over is spent by
the same rule upwards: each group proposes to be a step wider, while any fits.

Nothing is drawn: a resumed search equals an uninterrupted one without seeds.
"""

import logging
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from compress.io.files import JSON
from compress.io.progress import Progress
from compress.io.stage_folder import StageFolder
from compress.schema.bounds import Share
from compress.search.candidates import Candidate, Candidates, figures, is_better
from compress.search.feasible import Feasible
from compress.search.scorers.scorer import Scorer
from compress.search.space import Genes

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """The search `greedy`; conf/search/greedy.yaml explains both settings."""

    step: Share
    decay: Share

    name: ClassVar = "greedy"

    def __call__(
        self, feasible: Feasible, scorer: Scorer, seed: int, keep: int, work: StageFolder | None = None
    ) -> Candidates:
        """The best `keep` of the proposals within the budget, and of the gene that the walk ends at: that one may be
        below the band, but no group of it could be a step wider. Resumes from `work`, after a whole iteration."""
        candidates, gene, iteration = Candidates(feasible, scorer, keep), feasible.space.widest, 0
        if work is not None and work.resumed is not None:
            candidates.restore(work.resumed["candidates"])
            gene, iteration = np.array(work.resumed["gene"]), work.resumed["iteration"]
        genes = self._proposals(iteration, gene, feasible)
        with Progress("prune", "iteration", None, iteration) as shown:
            while proposals := len(genes):
                best = min(candidates.score(genes), key=is_better)
                before, gene, iteration = gene, np.array(best.gene), iteration + 1
                genes = self._proposals(iteration, gene, feasible)
                if not len(genes):
                    candidates.keep(best)
                shown.advance(f"held-out top-1 {best.score.top1:.2f} %")
                if work is not None:
                    _note(iteration, proposals, before, best, feasible, candidates, work)
                    work.progress(partial(_state, iteration, best, candidates))
        if not iteration:
            candidates.keep(*candidates.score(gene[None]))
        return candidates

    def _proposals(self, iteration: int, gene: Genes, feasible: Feasible) -> Genes:
        """(n, places): genes that differ from `gene` in one place; none when the budget is met and spent."""
        now = float(feasible.prices(gene)[0])
        if now <= feasible.high:
            return wider(feasible, gene)
        saved = self.step * self.decay**iteration * float(feasible.prices(feasible.space.widest)[0])
        return narrower(feasible, gene, max(feasible.high, now - saved))


def narrower(feasible: Feasible, gene: Genes, target: float) -> Genes:
    """(n, places): `gene` (places,) with one place at its largest narrower option whose price is at most `target`,
    for every place that has one; where none has, with one place at its narrowest option, if that saves anything, as
    it does of every price but a latency: there, with one place a step narrower."""
    now = float(feasible.prices(gene)[0])
    reaching, saving, others = [], [], []
    for place in range(len(gene)):
        genes = _with_options(gene, place, np.arange(gene[place]))
        prices = feasible.prices(genes)
        reaching += list(genes[prices <= target][-1:])
        saving += list(genes[prices < now][:1])
        others += list(genes[-1:])
    return _as_rows(reaching or saving or others, len(gene))


def wider(feasible: Feasible, gene: Genes) -> Genes:
    """(n, places): `gene` (places,) with one place at its next wider option, for every place where that fits."""
    now = float(feasible.prices(gene)[0])
    found = []
    for place, most in enumerate(feasible.space.widest):
        genes = _with_options(gene, place, np.arange(gene[place] + 1, most + 1))
        prices = feasible.prices(genes)
        found += list(genes[(now < prices) & (prices <= feasible.high)][:1])
    return _as_rows(found, len(gene))


def _with_options(gene: Genes, place: int, options: Genes) -> Genes:
    """(n, places): `gene` with each of `options` (n,) at one place."""
    genes = np.tile(gene, (len(options), 1))
    genes[:, place] = options
    return genes


def _as_rows(genes: list[Genes], places: int) -> Genes:
    return np.array(genes, dtype=np.int64).reshape(len(genes), places)


def _state(iteration: int, best: Candidate, candidates: Candidates) -> JSON:
    return {"iteration": iteration, "gene": list(best.gene), "candidates": candidates.state()}


def _note(
    iteration: int, proposals: int, before: Genes, best: Candidate, feasible: Feasible, candidates: Candidates,
    work: StageFolder,
) -> None:  # fmt: skip
    """A row of metrics and a line of the log per iteration: which place changed, and what the gene scores now."""
    (place,) = np.flatnonzero(before != np.array(best.gene))
    name, width = feasible.space.names[place], int(feasible.space.chosen(np.array(best.gene))[place])
    work.row(
        stage="prune",
        step="iteration",
        iteration=iteration,
        proposals=proposals,
        group=name,
        width=width,
        price=best.price,
        top1=round(best.score.top1, 4),
        **figures(candidates),
        seconds=round(work.seconds(), 3),
    )
    log.info(
        "prune: iteration %d: %s to %d channels, the best of %d proposals: held-out top-1 %.2f %%",
        iteration, name, width, proposals, best.score.top1,
    )  # fmt: skip
