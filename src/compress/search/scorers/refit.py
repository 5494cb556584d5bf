"""`RefitScorer`: cut to given widths, refit the remaining weights by least squares, score on held-out images.

He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, arXiv:1707.06168, as AMC uses it.
`compress.prune.refit` has the least squares.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.graph.plan import Plan
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.measure.accuracy import Accuracy
from compress.prune.method import Problem
from compress.prune.order import channel_orders, plan_of
from compress.prune.refit import Moments, Reconstructor, input_moments, refitted
from compress.schema.bounds import Count
from compress.search.scorers.evaluate import HeldOutAccuracy, batch_size
from compress.search.strategy import layer_form


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


class RefitScorer:
    """Scores candidates, tuples of the widths of all groups, of one network, which is not changed.

    The Gram matrices of the least squares and the held-out images are computed once, at construction.
    """

    def __init__(self, problem: Problem, calibration: CalibrationSettings, reward_images: int) -> None:
        self.problem = problem
        self._calibration = calibration
        model, device = problem.model.to(problem.device).eval(), problem.device
        self.orders = channel_orders(model, problem.graph)
        seed = derive_seed(problem.seed, "calibration")
        moments = self._moments()
        self._reconstructor = Reconstructor(model, problem.graph, moments, self.orders, calibration.doubles_bias)
        held_out = problem.data.drawn("held_out", reward_images, batch_size(problem.data.shape), seed, device)
        self._accuracy = HeldOutAccuracy(model, problem.graph, held_out)
        self._scored: dict[tuple[int, ...], Accuracy] = {}

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

    def realise(self, widths: tuple[int, ...]) -> tuple[Plan, dict[str, Tensor]]:
        """The plan that keeps the most important channels of every group, and its refitted weights, by parameter name
        and in the shapes of the uncut network."""
        groups = self.problem.graph.groups
        kept = {g.name: self.orders[g.name][:width].sort().values for g, width in zip(groups, widths, strict=True)}
        return plan_of(self.problem.graph, self.orders, widths), self._reconstructor.weights(kept)

    def score(self, widths: tuple[int, ...]) -> Accuracy:
        """Held-out accuracy in percent, without fine-tuning; cached by widths."""
        if widths not in self._scored:
            self._scored[widths] = self._accuracy(*self.realise(widths))
        return self._scored[widths]

    def report(self, outcome: JSON) -> JSON:
        """An outcome for files: its numbers, its widths, and these in the published format."""
        numbers = {key: outcome[key] for key in ("target", "ratio", "top1", "top5", "reward")}
        form = layer_form(self.problem.graph, self.problem.cost, outcome["widths"])
        return {**numbers, "widths": list(outcome["widths"]), **form}
