"""Search by evolution: of each generation the best become parents of mutants and crossovers.

Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV 2019, arXiv:1903.10258,
section 3.3 and algorithm 1. Where we differ: no gene is proposed twice or scored beyond the budget, proposals are
priced in batches without building a network, genes beyond what mutation and crossover find are drawn uniformly from
the feasible set (rather than from a capped range of options), and the search always ends.

Every generation seeds its random numbers by (seed, generation), so that a resumed search equals an uninterrupted one.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from compress.errors import OWN, SettingError
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.schema.bounds import Bound, Natural, Share
from compress.search.candidates import Candidate, Candidates, as_genes, figures
from compress.search.feasible import Feasible
from compress.search.sampling import draw
from compress.search.scorers.scorer import Scorer
from compress.search.space import Genes

log = logging.getLogger(__name__)

ROUNDS = 50  # of proposing; a parent's neighbourhood may hold fewer feasible genes than are asked for
PROPOSALS = 16  # per round and gene that is still missing: about one in ten fits a tight budget

Random = np.random.Generator
Propose = Callable[[int, Random], Genes]  # how many -> that many genes, feasible or not


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """The search `evolution`; conf/search/evolution.yaml explains each setting."""

    generations: Annotated[int, Bound(ge=0, most=10**5)]
    population: Annotated[int, Bound(ge=2, most=10**5)]
    select: Annotated[int, Bound(ge=1, most=10**5)]
    parents: Annotated[int, Bound(ge=1, most=10**5)]
    mutation: Natural
    mutation_prob: Share
    crossover: Natural
    random: Natural

    name: ClassVar = "evolution"

    def __post_init__(self) -> None:
        problems = []
        if self.parents > self.select:
            problems.append(f"{OWN}parents={self.parents}: must be <= {OWN}select={self.select}, who survive")
        if self.crossover and self.parents < 2:
            problems.append(f"{OWN}crossover={self.crossover}: needs {OWN}parents >= 2")
        if not self.mutation + self.crossover + self.random and self.generations:
            problems.append(f"{OWN}mutation, {OWN}crossover and {OWN}random are 0: a generation would be empty")
        if problems:
            raise SettingError(*problems)

    def __call__(
        self, feasible: Feasible, scorer: Scorer, seed: int, keep: int, work: StageFolder | None = None
    ) -> Candidates:
        """The best `select` (or `keep`, if more) of all candidates; resumes from `work`, after a whole generation."""
        candidates, first = Candidates(feasible, scorer, max(keep, self.select)), 0
        if work is not None and work.resumed is not None:
            first = work.resumed["generation"] + 1
            candidates.restore(work.resumed["candidates"])
        with tqdm(
            total=self.generations + 1, initial=first, desc="search", unit="generation", disable=None, leave=False
        ) as bar:
            for generation in range(first, self.generations + 1):
                genes, kinds = self._generation(generation, candidates, feasible, seed)
                if not len(genes):
                    log.info("prune: every gene within the budget was scored; the search ends")
                    break
                scored = [candidate for candidate in candidates.test(genes) if candidate is not None]
                bar.update()
                bar.set_postfix(best_error=f"{candidates.best[0].error:.2f} %")
                if work is not None:
                    _note(generation, kinds, scored, candidates, work)
                    work.progress(partial(_state, generation, candidates))
        return candidates

    def _generation(
        self, generation: int, candidates: Candidates, feasible: Feasible, seed: int
    ) -> tuple[Genes, dict[str, int]]:
        """New genes (n, places), and how many came from where."""
        random = np.random.default_rng(derive_seed(seed, "evolution", generation))
        if generation == 0:
            genes = _drawn(feasible, candidates, self.population, random)
            return genes, {"mutants": 0, "crossovers": 0, "drawn": len(genes)}
        parents = as_genes([one.gene for one in candidates.best[: self.parents]], len(feasible.space.options))
        sizes = feasible.space.sizes

        def mutated(count: int, random: Random) -> Genes:
            return mutants(parents[random.integers(0, len(parents), count)], sizes, self.mutation_prob, random)

        def crossed(count: int, random: Random) -> Genes:
            return crossovers(parents, count, random)

        made: list[Genes] = []
        for propose, wanted in ((mutated, self.mutation), (crossed, self.crossover if len(parents) > 1 else 0)):
            made.append(_proposed(propose, wanted, feasible, candidates, made, random))
        missing = self.mutation + self.crossover + self.random - sum(map(len, made))
        made.append(_drawn(feasible, candidates, missing, random, made))
        counts = dict(zip(("mutants", "crossovers", "drawn"), map(len, made), strict=True))
        return np.concatenate(made), counts


def mutants(parents: Genes, sizes: NDArray[np.int64], probability: float, random: Random) -> Genes:
    """Copies of genes (n, places) in which every entry, with this probability, became another of its `sizes`
    options, all of them equally likely."""
    change = (random.random(parents.shape) < probability) & (sizes > 1)
    step = 1 + random.integers(0, np.maximum(sizes - 1, 1), parents.shape)
    return np.where(change, (parents + step) % sizes, parents)


def crossovers(parents: Genes, count: int, random: Random) -> Genes:
    """(count, places): each entry from one of two different parents, by a coin."""
    first = random.integers(0, len(parents), count)
    second = (first + random.integers(1, len(parents), count)) % len(parents)
    return np.where(random.random((count, parents.shape[1])) < 0.5, parents[first], parents[second])


def _proposed(
    propose: Propose, wanted: int, feasible: Feasible, candidates: Candidates, made: Sequence[Genes], random: Random
) -> Genes:
    """Up to `wanted` new feasible genes; fewer where `ROUNDS` rounds of proposals have no more."""
    found = np.zeros((0, len(feasible.space.options)), dtype=np.int64)
    for _ in range(ROUNDS):
        if len(found) >= wanted:
            break
        proposals = propose(PROPOSALS * (wanted - len(found)), random)
        found = _new(np.concatenate([found, proposals[feasible.holds(proposals)]]), candidates, made)[:wanted]
    return found[:wanted]


def _drawn(
    feasible: Feasible, candidates: Candidates, wanted: int, random: Random, made: Sequence[Genes] = ()
) -> Genes:
    """Up to `wanted` new genes, uniformly; fewer where the feasible set is exhausted."""
    found = np.zeros((0, len(feasible.space.options)), dtype=np.int64)
    for _ in range(ROUNDS):
        if len(found) >= wanted:
            break
        found = _new(np.concatenate([found, draw(feasible, wanted - len(found), random)]), candidates, made)
    return found


def _new(genes: Genes, candidates: Candidates, made: Sequence[Genes]) -> Genes:
    """Those of genes that were neither tested nor made for this generation, each once."""
    new = candidates.without_tested(genes)
    taken = {tuple(gene) for part in made for gene in part.tolist()}
    return new[[at for at, gene in enumerate(map(tuple, new.tolist())) if gene not in taken]]


def _state(generation: int, candidates: Candidates) -> JSON:
    return {"generation": generation, "candidates": candidates.state()}


def _note(
    generation: int, kinds: dict[str, int], scored: Sequence[Candidate], candidates: Candidates, work: StageFolder
) -> None:
    best = candidates.best[0]
    top1 = [candidate.score.top1 for candidate in scored]
    work.row(
        stage="prune",
        generation=generation,
        **kinds,
        given_up=sum(kinds.values()) - len(scored),
        mean_top1=round(float(np.mean(top1)), 4) if top1 else None,
        **figures(candidates),
        seconds=round(work.seconds(), 3),
    )
    log.info(
        "prune: generation %d: best held-out error %.2f %% of %d candidates (%s)",
        generation, best.error, candidates.evaluations,
        ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count),
    )  # fmt: skip
