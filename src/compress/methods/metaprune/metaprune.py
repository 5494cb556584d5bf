"""metaprune and supernet: one network is trained at all widths; what it scores with some tells what these are worth.

Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV 2019, arXiv:1903.10258:
hypernetworks generate the weights for any widths (`metaprune`), evolution searches the widths under a limit, and the
winner is trained from scratch. Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV
2019, arXiv:1903.05134, crop one full weight instead (`supernet`). Here they are one class, for any network.

Neither the budget nor the search is in the cache key of the supernet: all limits share one, and what it scored.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from torch import nn

from compress.errors import OWN, SettingError
from compress.graph.types import ChannelGraph
from compress.io.files import JSON
from compress.io.paths import SUPERNET
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.io.tensors import read_weights, write_weights
from compress.measure.memory import memory_of
from compress.methods.metaprune.plots import plots
from compress.prune.counters import Counter
from compress.prune.limits import Limits
from compress.prune.method import Decision, Problem, Traits
from compress.schema.bounds import Bound, Count, NonNegative, Share
from compress.schema.settings import Budget, Recipe
from compress.search.candidates import Gene
from compress.search.feasible import Feasible
from compress.search.outcome import Search, decided, given, within_budget
from compress.search.scorers.scorer import Scorer
from compress.search.scorers.supernet import SupernetScorer, SupernetScoring, prefix_plan
from compress.search.space import WidthSpace, multiples_space, shares_space
from compress.search.supernet.hypernetwork import Generated, memory_bytes
from compress.search.supernet.rules import Reduction, Sandwich, hooks, sandwich, single
from compress.search.supernet.skeleton import Skeleton
from compress.search.supernet.supernet import Supernet
from compress.search.supernet.weights import Shared
from compress.train.loop import Hooks
from compress.train.objective import Objective

log = logging.getLogger(__name__)

PLAN_ONLY = frozenset({"search", "counter", "band", "candidate", "gene", "least_over_chance"})


@dataclass(frozen=True, kw_only=True)
class MetaPrune(Limits):
    """The methods `metaprune` and `supernet`; conf/method/supernet.yaml explains every setting."""

    weights: Literal["shared", "generated"]
    hidden: Annotated[int, Bound(ge=1, most=10**4)]
    rule: Literal["single", "sandwich"]
    reduction: Reduction
    training: Recipe
    options: Literal["multiples", "shares"]
    round_to: Count
    lbound: Share
    rbound: Share
    calibration_images: Count
    calibration_batch: Count
    score_images: Count
    least_over_chance: NonNegative
    search: Search
    counter: Counter
    band: Annotated[float, Bound(ge=0, lt=1)] | None
    candidate: Annotated[int, Bound(ge=1, most=1000)]
    gene: list[int] | None

    plots: ClassVar = staticmethod(plots)

    def __post_init__(self) -> None:
        if self.lbound > self.rbound:
            raise SettingError(f"{OWN}lbound={self.lbound}: must not be above {OWN}rbound={self.rbound}")

    @property
    def traits(self) -> Traits:
        searches = self.gene is None
        return Traits(begins="fresh", learns=searches, needs_learned=searches, trains="own", plan_only=PLAN_ONLY)

    # -- checks before the run -----------------------------------------------------------------------------------

    def check(self, problem: Problem) -> Budget:
        """As of every method; a given gene replaces a default budget by the share of MACs that it keeps."""
        if self.gene is not None:
            widths = self._given_widths(problem)
            kept = float(problem.cost.macs(np.array([widths]))[0] / problem.cost.full_macs)
            return Budget("preserve_ratio", kept) if problem.budget.is_default else problem.budget
        self.within(problem)  # refuses what is out of reach
        if self.weights == "generated":
            self._check_memory(problem)
        return problem.budget

    def _check_memory(self, problem: Problem) -> None:
        needed = memory_bytes(problem.model, problem.graph, self.hidden)
        there = memory_of(problem.device)
        log.debug("sparsify: the hypernetworks take %.1f GB in training", needed / 1e9)
        if there is not None and needed > there:
            raise SettingError(
                f"{OWN}weights=generated: the hypernetworks take {needed / 1e9:.1f} GB in training, and "
                f"{problem.device} has {there / 1e9:.1f} GB; use "
                f"{OWN}hidden={max(1, int(self.hidden * there / needed / 2))} or {OWN}weights=shared"
            )

    def _space(self, model: nn.Module, graph: ChannelGraph) -> WidthSpace:
        if self.options == "shares":
            return shares_space(model, graph)
        return multiples_space(graph, self.round_to, self.lbound, self.rbound)

    def within(self, problem: Problem) -> Feasible:
        space = self._space(problem.model, problem.graph)
        return within_budget(problem, space, self.counter, self.band)

    def _given_widths(self, problem: Problem) -> tuple[int, ...]:
        assert self.gene is not None
        space = self._space(problem.model, problem.graph)
        return tuple(space.widths(space.read(self.gene)).tolist())

    # -- sparsify: train the supernet -----------------------------------------------------------------------------

    def learn(self, problem: Problem, work: StageFolder) -> JSON:
        supernet, space = self._supernet(problem), self._space(problem.model, problem.graph)
        rule = (single if self.rule == "single" else sandwich)(space, derive_seed(problem.seed, "supernet"))
        watch = Watch(problem, supernet, space, self._scoring())

        def objective(of_run: Objective) -> Objective:
            return of_run if self.rule == "single" else Sandwich(self.reduction, of_run)

        log.info(
            "sparsify: a supernet of %s parameters; its accuracy without recalibrated batch norms would be near "
            "chance, so that of five fixed genes is told, recalibrated, on held-out images",
            f"{sum(parameter.numel() for parameter in supernet.parameters()):,}",
        )
        followed = hooks(rule, Hooks(score=watch.score, row=watch.row, keep_best=False))
        history = problem.train(self.training, followed, supernet, objective)
        header = {"model": {"supernet": self.weights, "hidden": self.hidden}, "plan": {}}
        write_weights(work.folder / SUPERNET, supernet.weights.state_dict(), header)
        return {"made": "supernet", **history, **watch.figures}

    def _supernet(self, problem: Problem) -> Supernet:
        skeleton = Skeleton(problem.model, problem.graph)
        if self.weights == "shared":
            return Supernet(skeleton, Shared(problem.model, skeleton)).to(problem.device)
        return Supernet(skeleton, Generated(problem.model, skeleton, self.hidden)).to(problem.device)

    def _scoring(self) -> SupernetScoring:
        return SupernetScoring(
            calibration_images=self.calibration_images,
            calibration_batch=self.calibration_batch,
            score_images=self.score_images,
        )

    # -- prune: search --------------------------------------------------------------------------------------------

    def plan(self, problem: Problem, learned: Path | None, work: StageFolder | None = None) -> Decision:
        if self.gene is not None:
            space = self._space(problem.model, problem.graph)
            widths = self._given_widths(problem)
            return given(problem, space, widths, prefix_plan(problem, widths), self.counter)
        within, scorer = self.within(problem), self.scorer_of(problem, learned)
        return decided(problem, within, scorer, self.search, self.counter, self.candidate, work)

    def scorer_of(self, problem: Problem, learned: Path | None) -> Scorer:
        """
        Raises:
            SettingError: widths are given, so that there is no supernet; or it has not learned.
        """
        if learned is None:
            raise SettingError(f"{OWN}gene={self.gene}: widths that are given leave nothing to search; leave it out")
        supernet = self._supernet(problem)
        state, _ = read_weights(learned / SUPERNET)
        supernet.weights.load_state_dict(state)
        scorer = SupernetScorer(problem, supernet, self._scoring())
        self._check_learned(problem, self._space(problem.model, problem.graph), scorer)
        return scorer

    def _check_learned(self, problem: Problem, space: WidthSpace, scorer: SupernetScorer) -> None:
        """The widest network tells whether the supernet has learned; the narrowest is near chance in any case.

        Raises:
            SettingError: it answers hardly better than one class for every image.
        """
        score = scorer.score(tuple(space.widths(space.widest).tolist()))
        assert score is not None
        if score.top1 < self.least_over_chance * 100 / problem.data.classes:
            raise SettingError(
                f"the widest network of the supernet has a held-out top-1 of {score.top1:.2f} %, near chance for "
                f"{problem.data.classes} classes, so there is nothing to search by; give it more "
                f"{OWN}training.epochs than {self.training.epochs}, or another {OWN}training.lr"
            )


@dataclass
class Watch:
    """Follows a training by what five fixed genes score: the widest, the middle, a narrow one and two drawn ones."""

    problem: Problem
    supernet: Supernet
    space: WidthSpace
    scoring: SupernetScoring
    figures: dict[str, Any] = field(default_factory=dict)

    def score(self, model: nn.Module) -> float:
        """The mean of their held-out top-1, in percent."""
        scorer = SupernetScorer(self.problem, self.supernet, self.scoring, remember=False)
        found = {}
        for name, gene in fixed_genes(self.space, self.problem.seed).items():
            score = scorer.score(tuple(self.space.widths(np.array(gene)).tolist()))
            assert score is not None
            found[f"top1_{name}"] = round(score.top1, 4)
        self.figures = found
        return float(np.mean(list(found.values())))

    def row(self, model: nn.Module) -> JSON:
        return dict(self.figures)


def fixed_genes(space: WidthSpace, seed: int) -> Mapping[str, Gene]:
    """Options 30, 15 and 5 of 31, as published, or those at the same height; and two drawn genes."""
    random = np.random.default_rng(derive_seed(seed, "fixed genes"))
    heights = {"widest": 1.0, "middle": 0.5, "narrow": 1 / 6}
    found = {name: tuple((height * (space.sizes - 1)).astype(int).tolist()) for name, height in heights.items()}
    drawn = space.random(2, random).tolist()
    return found | {f"drawn_{number}": tuple(gene) for number, gene in enumerate(drawn, 1)}
