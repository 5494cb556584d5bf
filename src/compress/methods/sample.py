"""sample: draw widths that meet the budget, score each before fine-tuning, keep the best.

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020, arXiv:2007.02491. Any
search and any scorer of trained networks can take the places of the uniform draws and the recalibrated batch norms
(`search=evolution`, `scorer=refit`), so that searches are compared at equal evaluations.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from compress.io.stage_folder import StageFolder
from compress.methods.search_plots import plots
from compress.prune.counters import Counter
from compress.prune.criteria.criterion import Criterion
from compress.prune.limits import Limits
from compress.prune.method import Decision, Problem, Traits
from compress.schema.bounds import Bound, Count, Share
from compress.schema.settings import Budget
from compress.search.feasible import Feasible
from compress.search.outcome import Search, decided, within_budget
from compress.search.scorers.scorer import MakeScorer, Scorer
from compress.search.space import multiples_space


@dataclass(frozen=True, kw_only=True)
class Sample(Limits):
    """The method `sample`; conf/method/sample.yaml explains every setting."""

    search: Search
    scorer: MakeScorer
    criterion: Criterion | None = None
    lbound: Share
    rbound: Share
    round_to: Count
    counter: Counter
    band: Annotated[float, Bound(ge=0, lt=1)]
    candidate: Annotated[int, Bound(ge=1, most=1000)]

    traits: ClassVar = Traits()
    plots: ClassVar = staticmethod(plots)

    def check(self, problem: Problem) -> Budget:
        self.within(problem)  # refuses what is out of reach
        return problem.budget

    def plan(self, problem: Problem, learned: Path | None, work: StageFolder | None = None) -> Decision:
        within, scorer = self.within(problem), self.scorer(problem)
        return decided(problem, within, scorer, self.search, self.counter, self.candidate, work)

    def within(self, problem: Problem) -> Feasible:
        space = multiples_space(problem.graph, self.round_to, self.lbound, self.rbound)
        return within_budget(problem, space, self.counter, self.band)

    def scorer_of(self, problem: Problem, learned: Path | None) -> Scorer:
        return self.scorer(problem)
