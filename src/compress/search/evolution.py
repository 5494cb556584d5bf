"""Search by evolution: of each generation the best become parents of mutants and crossovers.

Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV 2019, arXiv:1903.10258,
section 3.3 and algorithm 1. Where we differ: no gene is proposed twice or scored beyond the budget, proposals are
priced in batches without building a network, genes beyond what mutation and crossover find are drawn uniformly from
the feasible set (rather than from a capped range of options), and the search always ends.

With `critic=gp` each mutant and crossover is the one of several proposals that a model of accuracy, taught by all
candidates so far (`compress.search.critic`), promises most of; its parents are the best at that moment. This is ours.

Every generation seeds its random numbers by (seed, generation), so that a resumed search equals an uninterrupted one.
"""

import logging
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np

from compress.errors import OWN, SettingError
from compress.io.files import JSON
from compress.io.progress import Progress
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.schema.bounds import Bound, Natural, NonNegative, Share
from compress.search.candidates import Candidate, Candidates, as_genes, figures
from compress.search.critic import Critic
from compress.search.feasible import Feasible
from compress.search.proposals import Propose, Random, crossovers, drawn, mutants, proposed
from compress.search.scorers.scorer import Scorer
from compress.search.space import Genes

log = logging.getLogger(__name__)

Kinds = dict[str, int]  # how many genes of a generation came from where


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
    critic: Literal["none", "gp"]
    proposals: Annotated[int, Bound(ge=1, most=10**4)]
    optimism: NonNegative

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
        run, first = _Run(self, feasible, scorer, keep), 0
        if work is not None and work.resumed is not None:
            first = work.resumed["generation"] + 1
            run.restore(work.resumed)
        with Progress("prune", "generation", self.generations + 1, first, every_step=True) as shown:
            for generation in range(first, self.generations + 1):
                random = np.random.default_rng(derive_seed(seed, "evolution", generation))
                scored, kinds = run.generation(generation, random)
                if not sum(kinds.values()):
                    log.info("prune: every gene within the budget was scored; the search ends")
                    break
                shown.advance(f"best held-out top-1 {run.candidates.best[0].score.top1:.2f} %")
                if work is not None:
                    _note(generation, kinds, scored, run.candidates, work)
                    work.progress(partial(run.state, generation))
        return run.candidates


class _Run:
    """One search: its candidates so far, and how the next generation follows from them."""

    def __init__(self, settings: Evolution, feasible: Feasible, scorer: Scorer, keep: int) -> None:
        self._settings, self._feasible = settings, feasible
        self._guided = settings.critic == "gp"
        self.candidates = Candidates(feasible, scorer, max(keep, settings.select))
        self._critic = Critic(feasible.space.widths(feasible.space.widest).tolist())
        self._taught: list[tuple[Sequence[int], float]] = []  # to the critic: widths and top-1, in order

    def generation(self, number: int, random: Random) -> tuple[list[Candidate], Kinds]:
        """What was scored (and not given up), and how many genes came from where."""
        if number == 0:
            genes = drawn(self._feasible, self.candidates, self._settings.population, random)
            return self._score(genes), _kinds([], [], genes)
        return self._guided_generation(random) if self._guided else self._plain_generation(random)

    def _plain_generation(self, random: Random) -> tuple[list[Candidate], Kinds]:
        made: list[Genes] = []
        for propose, wanted in self._moves():
            made.append(proposed(propose, wanted, self._feasible, self.candidates, random, made))
        made.append(drawn(self._feasible, self.candidates, self._missing(made), random, made))
        return self._score(np.concatenate(made)), _kinds(made[0], made[1], made[2])

    def _guided_generation(self, random: Random) -> tuple[list[Candidate], Kinds]:
        made: list[list[Candidate]] = []
        for move, (_, wanted) in enumerate(self._moves()):
            made.append([])
            for _ in range(wanted):
                propose, _ = self._moves()[move]  # of the parents after the last candidate
                genes = proposed(propose, self._settings.proposals, self._feasible, self.candidates, random)
                made[-1] += self._score(self._most_promising(genes))
        left = drawn(self._feasible, self.candidates, self._missing(made), random)
        return [*made[0], *made[1], *self._score(left)], _kinds(made[0], made[1], left)

    def _moves(self) -> list[tuple[Propose, int]]:
        """Mutation and crossover of the parents as they are now, and how many genes a generation has of each."""
        settings = self._settings
        best = [one.gene for one in self.candidates.best[: settings.parents]]
        parents = as_genes(best, len(self._feasible.space.options))
        sizes = self._feasible.space.sizes

        def mutated(count: int, random: Random) -> Genes:
            return mutants(parents[random.integers(0, len(parents), count)], sizes, settings.mutation_prob, random)

        def crossed(count: int, random: Random) -> Genes:
            return crossovers(parents, count, random)

        return [(mutated, settings.mutation), (crossed, settings.crossover if len(parents) > 1 else 0)]

    def _missing(self, made: Sequence[Sized]) -> int:
        """How many genes of a generation neither mutation nor crossover found."""
        settings = self._settings
        return settings.mutation + settings.crossover + settings.random - sum(map(len, made))

    def _most_promising(self, genes: Genes) -> Genes:
        """The one of (n, places) that the critic promises most of: (1, places), or (0, places) of none."""
        if not len(genes):
            return genes
        promises = self._critic.promise(self._feasible.space.widths(genes), self._settings.optimism)
        return genes[[int(promises.argmax())]]

    def _score(self, genes: Genes) -> list[Candidate]:
        if not self._guided:
            return [candidate for candidate in self.candidates.test(genes) if candidate is not None]
        scored = self.candidates.score(genes)
        self._teach([(one.widths, one.score.top1) for one in scored])
        return scored

    def _teach(self, scored: Sequence[tuple[Sequence[int], float]]) -> None:
        self._taught += scored
        for widths, top1 in scored:
            self._critic.add(widths, top1)

    def state(self, generation: int) -> JSON:
        return {
            "generation": generation,
            "candidates": self.candidates.state(),
            "taught": [[list(widths), top1] for widths, top1 in self._taught],
        }

    def restore(self, state: JSON) -> None:
        self.candidates.restore(state["candidates"])
        self._teach([(tuple(widths), top1) for widths, top1 in state["taught"]])


def _kinds(mutated: Sized, crossed: Sized, others: Sized) -> Kinds:
    return {"mutants": len(mutated), "crossovers": len(crossed), "drawn": len(others)}


def _note(
    generation: int, kinds: Kinds, scored: Sequence[Candidate], candidates: Candidates, work: StageFolder
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
