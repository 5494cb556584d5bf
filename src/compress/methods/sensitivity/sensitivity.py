"""sensitivity: score the network with one group cut at a time, then choose widths for any budget from that table.

FastNAS of NVIDIA's Model-Optimizer, Qualcomm's AIMET and Huawei's AMCT; `compress.search.sensitivity` has the rules.
The table is learned in `sparsify`, whose cache key holds no budget: all budgets share one. Unlike FastNAS we score
the chosen widths once more, as a whole, since drops of single groups do not tell what they lose together.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from compress.errors import OWN, SettingError
from compress.graph.types import ChannelGraph
from compress.io.files import JSON
from compress.io.progress import Progress
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import Score
from compress.methods.sensitivity.plots import plots
from compress.methods.sensitivity.table_file import read_table, write_table
from compress.prune.counters import Counter
from compress.prune.criteria.criterion import Criterion
from compress.prune.limits import Limits
from compress.prune.method import Decision, Problem, Traits
from compress.schema.bounds import Bound, Count, Share
from compress.schema.settings import Budget
from compress.search.candidates import Candidate
from compress.search.feasible import Feasible
from compress.search.outcome import decision_of, within_budget
from compress.search.scorers.scorer import MakeScorer, Scorer, Widths
from compress.search.sensitivity import RULES, Curve, Measure, Rule, Table, one_narrower, widths_to_score
from compress.search.space import Genes, WidthSpace, multiples_space

log = logging.getLogger(__name__)

BAND = 0.01  # share of the budget; even the widest widths further below it are told before the run
SAVE_EVERY_SECONDS = 1.0  # not after every candidate, which may take milliseconds


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Limits):
    """The method `sensitivity`; conf/method/sensitivity.yaml explains every setting."""

    scorer: MakeScorer
    criterion: Criterion | None = None
    rule: Rule
    measure: Measure
    widths_per_group: Annotated[int, Bound(ge=1, most=10**4)]
    lbound: Share
    rbound: Share
    round_to: Count
    counter: Counter

    traits: ClassVar = Traits(learns=True, needs_learned=True, plan_only=frozenset({"rule", "measure", "counter"}))
    plots: ClassVar = staticmethod(plots)

    def __post_init__(self) -> None:
        if self.lbound > self.rbound:
            raise SettingError(f"{OWN}lbound={self.lbound}: must not be above {OWN}rbound={self.rbound}")

    def check(self, problem: Problem) -> Budget:
        self._within(problem)  # refuses what is out of reach
        return problem.budget

    def _space(self, graph: ChannelGraph) -> WidthSpace:
        return multiples_space(graph, self.round_to, self.lbound, self.rbound)

    def _within(self, problem: Problem) -> Feasible:
        space = self._space(problem.graph)
        return within_budget(problem, space, self.counter, BAND)

    # -- sparsify: the table --------------------------------------------------------------------------------------

    def learn(self, problem: Problem, work: StageFolder) -> JSON:
        space, full = self._space(problem.graph), _full_widths(problem)
        asked = widths_to_score(space, full, self.widths_per_group)
        cuts = [(place, width) for place, widths in enumerate(asked) for width in widths]
        log.info(
            "sparsify: %d candidates: the dense network, and single groups of %d narrower", 1 + len(cuts), len(asked)
        )
        candidates = [full, *(one_narrower(space, full, place, width) for place, width in cuts)]
        labels = [(None, None), *((space.names[place], width) for place, width in cuts)]
        dense, *scores = scored(self.scorer(problem), candidates, labels, work)
        table = Table(dense, tuple(_curves(space, full, asked, scores)))
        write_table(work.folder, table)
        return {
            "made": "table of sensitivities",
            "evaluations": len(set(candidates)),
            "dense_top1": dense.top1,
            "sensitivity": dict(_told(table)),
        }

    # -- prune: a threshold for the budget ------------------------------------------------------------------------

    def plan(self, problem: Problem, learned: Path | None, work: StageFolder | None = None) -> Decision:
        assert learned is not None
        within = self._within(problem)
        table = read_table(learned, within.space, _full_widths(problem))
        drops = table.drops_of(within.space.options, self.measure)
        gene = RULES[self.rule](within, drops)
        scorer = self.scorer(problem)
        chosen = _scored_as_a_whole(scorer, within, gene)
        names = within.space.names
        of_groups = {name: float(curve[at]) for name, curve, at in zip(names, drops, gene, strict=True)}
        log.info(
            "prune: %s by %s: held-out top-1 %.2f %% before fine-tuning (dense: %.2f %%)",
            problem.budget, self.rule, chosen.score.top1, table.dense.top1,
        )  # fmt: skip
        own = {
            "search": "sensitivity",
            **scorer.report(),
            "evaluations": 1,
            "rule": self.rule,
            "counter": self.counter,
            "thresholds": {self.measure: max(of_groups.values(), default=0.0)},  # the largest drop of a group
            "drops": of_groups,
        }
        return decision_of(problem, within, scorer, chosen, own)


def scored(
    scorer: Scorer, candidates: Sequence[Widths], labels: Sequence[tuple[str | None, int | None]], work: StageFolder
) -> list[Score]:
    """The scores of all candidates, of which the first is the dense network, with a row for each; resumes from
    `work`. `labels` are of each the group that is cut and its width."""
    scores = [Score(*one) for one in work.resumed["scores"]] if work.resumed is not None else []
    left = list(zip(candidates, labels, strict=True))[len(scores) :]
    total = len(candidates)
    with Progress("sparsify", "candidate", total, len(scores)) as shown:
        for widths, (group, width) in left:
            score = scorer.score(widths)
            assert score is not None, "nothing is below a top-1 of 0"
            scores.append(score)
            work.row(
                stage="sparsify",
                step="evaluations",
                evaluations=len(scores),
                group=group,
                width=width,
                top1=round(score.top1, 4),
                drop=round(scores[0].top1 - score.top1, 4),
                seconds=round(work.seconds(), 3),
            )
            every = 0 if len(scores) == total else SAVE_EVERY_SECONDS
            work.progress(lambda: {"scores": [list(one) for one in scores]}, every)
            shown.advance(f"held-out top-1 {score.top1:.2f} %")
    return scores


def _full_widths(problem: Problem) -> Widths:
    return tuple(problem.cost.full_widths.tolist())


def _scored_as_a_whole(scorer: Scorer, within: Feasible, gene: Genes) -> Candidate:
    widths = tuple(within.space.widths(gene).tolist())
    score = scorer.score(widths)
    assert score is not None, "nothing is below a top-1 of 0"
    return Candidate(tuple(gene.tolist()), widths, score, float(within.prices(gene)[0]))


def _curves(
    space: WidthSpace, full: Widths, asked: Sequence[tuple[int, ...]], scores: Sequence[Score]
) -> Iterator[Curve]:
    """The scores of all asked widths, which stand in one list, by place."""
    left = iter(scores)
    for place, widths in enumerate(asked):
        of_place = tuple(islice(left, len(widths)))
        yield Curve(space.names[place], full[space.places.index(place)], widths, of_place)


def _told(table: Table) -> Iterator[tuple[str, JSON]]:
    """Of every group that was cut its full width, the widths it was cut to, and their monotone drops in points."""
    for curve, drops in zip(table.curves, table.drops(), strict=True):
        if curve.widths:
            yield (
                curve.name,
                {"width": curve.full, "widths": list(curve.widths), "drops": np.round(drops, 4).tolist()},
            )
