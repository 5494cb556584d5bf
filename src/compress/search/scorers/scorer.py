"""`Scorer`: what a search asks of any scorer."""

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor

from compress.graph.plan import Plan
from compress.io.files import JSON
from compress.measure.accuracy import Score
from compress.prune.method import Problem

Widths = tuple[int, ...]  # of all groups of a network, in the order of its graph
Weights = Mapping[str, Tensor]  # parameters and buffers by name, in the shapes of the uncut network


class Scorer(Protocol):
    """Scores candidates, which are the widths of all groups of one network, before any fine-tuning.

    Held-out images only. Everything that was scored is remembered by its widths (`compress.search.scorers.memory`).
    """

    name: str

    def score(self, widths: Widths, least_top1: float = 0.0) -> Score | None:
        """Of held-out images; None if the top-1 is below `least_top1`, which may show before all were seen."""

    def realise(self, widths: Widths) -> tuple[Plan, Weights]:
        """The plan of a candidate, and the parameters and buffers that the scorer would set, by name and at uncut
        shape."""

    @property
    def refit(self) -> Callable[[Plan], Weights] | None:
        """Weights for any other plan, such as a control's; None where the scorer changes none."""

    def report(self) -> JSON:
        """What a run notes about the scorer."""


class MakeScorer(Protocol):
    """The settings of a scorer, which make it for a problem."""

    def __call__(self, problem: Problem) -> Scorer: ...
