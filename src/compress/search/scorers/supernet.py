"""`SupernetScorer`: a candidate runs with the weights that a supernet has for its widths, on held-out images.

Its batch norms get the average statistics of calibration images first: Liu et al., "MetaPruning", ICCV 2019,
arXiv:1903.10258, section 3.2. Without that the accuracy is near chance, whatever the candidate is worth.
"""

from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor

from compress.graph.plan import Plan
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.measure.accuracy import Score, score_of
from compress.prune.method import Problem
from compress.prune.order import plan_of
from compress.schema.bounds import Count
from compress.search.scorers.evaluate import batch_size
from compress.search.scorers.memory import ScoreMemory, scored_on
from compress.search.scorers.scorer import Weights, Widths
from compress.search.supernet.supernet import Supernet

VERSION = 1  # of what is remembered; raise it when the same settings give another score


@dataclass(frozen=True, kw_only=True)
class SupernetScoring:
    """How candidates are scored: images to calibrate on, and held-out ones, at most."""

    calibration_images: Count
    calibration_batch: Count
    score_images: Count


class SupernetScorer:
    """Scores candidates of the supernet as it is now: make another one when it was trained further."""

    name = "supernet"
    refit = None  # the supernet's weights are not those of the pruned network, which is trained from scratch

    def __init__(
        self, problem: Problem, supernet: Supernet, settings: SupernetScoring, remember: bool = True
    ) -> None:
        self._problem, self._supernet, self._settings = problem, supernet, settings
        depends = {"scorer": self.name, "settings": asdict(settings), "version": VERSION}
        on = scored_on(problem, supernet.weights.state_dict()) if remember else {}
        self._memory = ScoreMemory(problem.scores if remember else None, on | depends)

    @cached_property
    def _calibration(self) -> list[Tensor]:
        problem, settings = self._problem, self._settings
        seed, size = derive_seed(problem.seed, "calibration"), settings.calibration_batch
        drawn = problem.data.drawn("train", settings.calibration_images, size, seed, problem.device)
        return [images for images, _ in drawn]

    @cached_property
    def _held_out(self) -> list[tuple[Tensor, Tensor]]:
        problem, seed = self._problem, derive_seed(self._problem.seed, "calibration")
        size = batch_size(problem.data.shape, problem.device)
        return list(problem.data.drawn("held_out", self._settings.score_images, size, seed, problem.device))

    def score(self, widths: Widths, least_top1: float = 0.0) -> Score | None:
        """Held-out score; remembered by widths."""
        return self._memory.score(widths, least_top1, lambda: self._score(widths, least_top1))

    def _score(self, widths: Widths, least_top1: float) -> Score | None:
        with torch.no_grad():
            return score_of(self._supernet.calibrated(widths, self._calibration), self._held_out, least_top1)

    def realise(self, widths: Widths) -> tuple[Plan, Weights]:
        """The plan that keeps the first channels of every group; new weights."""
        return prefix_plan(self._problem, widths), {}

    def report(self) -> JSON:
        return {"scorer": self.name, **asdict(self._settings)}


def prefix_plan(problem: Problem, widths: Widths) -> Plan:
    """The first channels of every group, as the supernet has them."""
    return plan_of(problem.graph, {group.name: torch.arange(group.width) for group in problem.graph}, widths)
