"""From the candidates of a search to the decision of a method, and what plan.json tells of them."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol, get_args

import numpy as np

from compress.errors import OWN, InputError, SettingError
from compress.graph.plan import Plan
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.prune.budget import Price
from compress.prune.counters import Counter, counted_price
from compress.prune.method import Decision, Evidence, Problem
from compress.prune.widths import Choices
from compress.search.candidates import Candidate, Candidates, all_tie
from compress.search.feasible import Feasible, feasible
from compress.search.scorers.scorer import Scorer
from compress.search.space import WidthSpace

log = logging.getLogger(__name__)

LISTED = 10  # candidates that plan.json lists, at least


class Search(Protocol):
    """Proposes genes of the feasible set and scores them; the best `keep` at least, resumed from `work`."""

    @property
    def name(self) -> str: ...

    def __call__(
        self, feasible: Feasible, scorer: Scorer, seed: int, keep: int, work: StageFolder | None = None
    ) -> Candidates: ...


def decided(
    problem: Problem,
    feasible: Feasible,
    scorer: Scorer,
    search: Search,
    counter: Counter,
    rank: int,
    work: StageFolder | None,
) -> Decision:
    """Search, and decide for the candidate at `rank` (from 1). `counter` is what the budget is counted by."""
    candidates = search(feasible, scorer, derive_seed(problem.seed, "search"), max(rank, LISTED), work)
    if rank > len(candidates.best):
        raise SettingError(
            f"{OWN}candidate={rank}: must be <= {len(candidates.best)}, the candidates that the search kept"
        )
    chosen = candidates.best[rank - 1]
    log.info(
        "prune: %s by %s: held-out top-1 %.2f %% before fine-tuning, the %s of %d candidates",
        problem.budget, search.name, chosen.score.top1,
        "best" if rank == 1 else f"number {rank}", candidates.evaluations,
    )  # fmt: skip
    own = {
        "search": search.name,
        **scorer.report(),
        "evaluations": candidates.evaluations,
        "candidate": rank,
        "counter": counter,
    }
    warnings = [TIED] if all_tie(candidates) else []
    return decision_of(problem, feasible, scorer, chosen, own, candidates.best, warnings)


TIED = (
    "all candidates have the same held-out accuracy, so the search had nothing to go by: they answer one class for "
    "every image; train longer, or calibrate on more images"
)


def decision_of(
    problem: Problem,
    feasible: Feasible,
    scorer: Scorer,
    chosen: Candidate,
    own: JSON,
    listed: Sequence[Candidate] = (),
    warnings: Sequence[str] = (),
) -> Decision:
    """The decision for a scored candidate. plan.json tells `own`, the candidate, and those that are `listed`."""
    plan, weights = scorer.realise(chosen.widths)
    prices = _all_prices(problem)
    others = {"candidates": [told(one, feasible, prices) for one in listed]} if listed else {}
    own = {**own, **told(chosen, feasible, prices), "groups": list(feasible.space.groups), **others}
    choices = group_choices(feasible.space)
    step = problem.ceilings().aim.step(choices, chosen.widths)
    evidence = Evidence(choices=choices, refit=scorer.refit, rounding_step=step)
    return Decision(plan, weights, own=own, warnings=warnings, evidence=evidence)


def given(problem: Problem, space: WidthSpace, widths: tuple[int, ...], plan: Plan, counter: Counter) -> Decision:
    """The decision for widths that were not searched for."""
    counters = {name: int(price(np.array([widths]))[0]) for name, price in _all_prices(problem).items()}
    own = {
        "search": "given",
        "counter": counter,
        "widths": list(widths),
        "counters": counters,
        "groups": list(space.groups),
    }
    return Decision(plan, own=own, evidence=Evidence(choices=group_choices(space)))


def group_choices(space: WidthSpace) -> Choices:
    """The allowed widths of every group, each once."""
    return [np.unique(space.options[place]) for place in space.places]


def within_budget(problem: Problem, space: WidthSpace, counter: Counter, band: float | None) -> Feasible:
    """What the budget, its MACs counted by `counter`, allows of `space`; as `feasible`, which says what it raises."""
    return feasible(space, problem.ceilings(price_of(problem, counter)), band)


def price_of(problem: Problem, counter: Counter) -> Price:
    return counted_price(counter, problem.model, problem.graph, problem.cost, problem.data.shape)


def _all_prices(problem: Problem) -> dict[str, Price]:
    """By every counter that can count this network."""
    prices = {}
    for counter in get_args(Counter):
        with suppress(InputError):
            prices[counter] = price_of(problem, counter)
    return prices


def told(candidate: Candidate, feasible: Feasible, prices: Mapping[str, Price]) -> JSON:
    """A candidate for files: its gene in the published form, widths, score, and price by every counter."""
    widths = np.array([candidate.widths])
    return {
        "gene": feasible.space.written(np.array(candidate.gene)),
        "widths": list(candidate.widths),
        **candidate.score._asdict(),
        "counters": {name: int(price(widths)[0]) for name, price in prices.items()},
    }
