"""`RefitScorer`: cut to given widths, refit the remaining weights by least squares, score on held-out images.

He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, arXiv:1707.06168, as AMC uses it.
`compress.prune.refit` has the least squares.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor

from compress.graph.plan import Plan
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.measure.accuracy import Score
from compress.prune.method import Problem
from compress.prune.order import plan_of
from compress.prune.refit import Moments, Reconstructor, input_moments, refitted
from compress.schema.bounds import Count
from compress.search.scorers.evaluate import HeldOutScore, held_out_score
from compress.search.scorers.memory import ScoreMemory, orders_scored_by, scored_on
from compress.search.scorers.scorer import Weights, Widths


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Settings of the least squares; conf/method/amc.yaml explains each."""

    images: Count
    batch_size: Count
    points: Count
    augmented: bool
    repeats: bool
    doubles_bias: bool


def calibration_images(problem: Problem, settings: CalibrationSettings, seed: int) -> Iterator[Tensor]:
    """Batches of training images (B, C, H, W), `settings.images` in all or as many as one epoch has."""
    if not settings.augmented:
        for x, _ in problem.data.drawn("train", settings.images, settings.batch_size, seed, problem.device):
            yield x
        return
    left = settings.images
    for x, _ in problem.data.shuffled(settings.batch_size, seed, problem.device):
        yield x[:left]
        left -= len(x)
        if left <= 0:
            return


VERSION = 1  # of what is remembered; raise it when the same settings give another score


@dataclass(frozen=True, kw_only=True)
class Refit:
    """Settings of the scorer `refit`; conf/scorer/refit.yaml explains each."""

    calibration: CalibrationSettings
    score_images: Count

    def __call__(self, problem: Problem) -> "RefitScorer":
        return RefitScorer(problem, self.calibration, self.score_images)


class RefitScorer:
    """Scores candidates, tuples of the widths of all groups, of one network, which is not changed.

    The Gram matrices of the least squares and the held-out images are computed once, when first needed: not at all
    where every candidate is remembered.
    """

    name = "refit"

    def __init__(self, problem: Problem, calibration: CalibrationSettings, reward_images: int) -> None:
        self.problem = problem
        self._calibration, self._images = calibration, reward_images
        self._model = problem.model.to(problem.device).eval()
        self.orders = problem.channel_orders()
        depends = {"calibration": asdict(calibration), "images": reward_images, "version": VERSION}
        depends |= orders_scored_by(problem, self.orders)
        self._memory = ScoreMemory(
            problem.scores, scored_on(problem, self._model.state_dict()) | {"scorer": self.name, **depends}
        )

    @cached_property
    def _reconstructor(self) -> Reconstructor:
        doubles_bias = self._calibration.doubles_bias
        return Reconstructor(self._model, self.problem.graph, self._moments(), self.orders, doubles_bias)

    @cached_property
    def _held_out(self) -> HeldOutScore:
        return held_out_score(self.problem, self._images)

    def _moments(self) -> dict[str, Moments]:
        problem, settings = self.problem, self._calibration
        seed = derive_seed(problem.seed, "calibration")
        images = calibration_images(problem, settings, seed)
        generator = torch.Generator().manual_seed(seed)
        return input_moments(problem.model, problem.graph, images, settings.points, generator, settings.repeats)

    def refit(self, plan: Plan) -> dict[str, Tensor]:
        """Refitted weights for a plan that keeps other channels than the first ones of `orders`, such as a
        control's."""
        return refitted(self.problem.model, self.problem.graph, self._moments(), plan)

    def realise(self, widths: Widths) -> tuple[Plan, Weights]:
        """The plan that keeps the most important channels of every group, and its refitted weights, by parameter name
        and in the shapes of the uncut network."""
        groups = self.problem.graph.groups
        kept = {g.name: self.orders[g.name][:width].sort().values for g, width in zip(groups, widths, strict=True)}
        return plan_of(self.problem.graph, self.orders, widths), self._reconstructor.weights(kept)

    def score(self, widths: Widths, least_top1: float = 0.0) -> Score | None:
        """Held-out score without fine-tuning; remembered by widths."""
        return self._memory.score(widths, least_top1, lambda: self._held_out(*self.realise(widths), least_top1))

    def report(self) -> JSON:
        return {"scorer": self.name, "calibration": asdict(self._calibration), "score_images": self._images}
