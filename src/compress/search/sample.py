"""Search by uniform draws: score N genes of the feasible set, keep the best.

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020, arXiv:2007.02491,
draws widths in this way and picks by accuracy with recalibrated batch norms. The control of every learned search: at
equal evaluations it tells what the search itself contributes.
"""

import logging
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from compress.io.progress import Progress
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.schema.bounds import Bound
from compress.search.candidates import Candidate, Candidates, figures
from compress.search.feasible import Feasible
from compress.search.sampling import draw
from compress.search.scorers.scorer import Scorer
from compress.search.space import Genes

log = logging.getLogger(__name__)

SAVE_EVERY_SECONDS = 1.0  # not after every candidate, which may take milliseconds
ROUNDS = 20  # of drawing anew what was drawn twice, before a set counts as exhausted


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The search `sample`; conf/search/sample.yaml explains the setting."""

    draws: Annotated[int, Bound(ge=1, most=10**6)]

    name: ClassVar = "sample"

    def __call__(
        self, feasible: Feasible, scorer: Scorer, seed: int, keep: int, work: StageFolder | None = None
    ) -> Candidates:
        """The best `keep` of `draws` different genes, or of all there are; resumes from `work`."""
        candidates = Candidates(feasible, scorer, keep)
        if work is not None and work.resumed is not None:
            candidates.restore(work.resumed["candidates"])
        genes = different_genes(feasible, self.draws, seed)
        done = len(candidates.tested)
        with Progress("prune", "candidate", len(genes), done) as shown:
            for number, candidate in enumerate(candidates.test(genes[done:]), done + 1):
                shown.advance(f"best held-out top-1 {candidates.best[0].score.top1:.2f} %")
                if work is not None:
                    _note(number, candidate, candidates, work)
                    last = number == len(genes)
                    work.progress(lambda: {"candidates": candidates.state()}, 0 if last else SAVE_EVERY_SECONDS)
        return candidates


def different_genes(feasible: Feasible, count: int, seed: int) -> Genes:
    """`count` different genes drawn uniformly, (n, places); all of them where a small set has fewer."""
    found = np.zeros((0, len(feasible.space.options)), dtype=np.int64)
    for attempt in range(ROUNDS):
        generator = np.random.default_rng(derive_seed(seed, "sample", attempt))
        found = np.concatenate([found, draw(feasible, count - len(found), generator)])
        found = found[np.sort(np.unique(found, axis=0, return_index=True)[1])]
        if len(found) == count:
            break
    return found


def _note(number: int, candidate: Candidate | None, candidates: Candidates, work: StageFolder) -> None:
    """A row of metrics for every candidate, and a line of the log for one that is the best."""
    top1 = None if candidate is None else round(candidate.score.top1, 4)
    work.row(stage="prune", draw=number, top1=top1, **figures(candidates), seconds=round(work.seconds(), 3))
    if candidate is not None and candidates.best[0] is candidate:
        log.info("prune: draw %d: held-out top-1 %.2f %%, the best yet", number, candidate.score.top1)
