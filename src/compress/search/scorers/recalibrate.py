"""`RecalibrateScorer`: cut to given widths, recompute the statistics of batch norms, score on held-out images.

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020, arXiv:2007.02491,
section 3.3: the statistics of the dense network do not fit a cut one; recomputed ("adaptive batch normalization") its
accuracy foretells that after fine-tuning. They run with a momentum there; here they are the plain average over the
calibration batches, of which fewer are needed for the same variance.
"""

from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.graph.plan import Plan
from compress.graph.types import Axis, ChannelGraph
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.measure.accuracy import Score
from compress.prune.method import Problem
from compress.prune.order import plan_of
from compress.prune.surgery import CutCopy, kept_places
from compress.schema.bounds import Count
from compress.search.scorers.evaluate import HeldOutScore, held_out_score
from compress.search.scorers.memory import ScoreMemory, orders_scored_by, scored_on
from compress.search.scorers.scorer import Weights, Widths

VERSION = 1  # of what is remembered; raise it when the same settings give another score


@dataclass(frozen=True, kw_only=True)
class Recalibration:
    """Settings of the scorer `recalibrate`; conf/scorer/recalibrate.yaml explains each."""

    images: Count
    batch_size: Count
    score_images: Count

    def __call__(self, problem: Problem) -> "RecalibrateScorer":
        return RecalibrateScorer(problem, self)


def recalibrate(network: nn.Module, batches: list[Tensor]) -> None:
    """Set the running statistics of all batch norms to the averages over `batches` of images, in place.

    Everything else runs in eval mode (dropout, say); the mode that every module had is restored.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    modes = {module: module.training for module in network.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    counters = {norm: norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None}
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.num_batches_tracked = torch.tensor(0)  # on the CPU: the average reads it, and would wait for the device
        norm.train()
    with torch.no_grad():
        for images in batches:
            network(images)
    for norm in norms:
        norm.momentum = momenta[norm]
        counted = norm.num_batches_tracked
        norm.num_batches_tracked = None if counted is None else counters[norm].fill_(int(counted))
    for module, training in modes.items():
        module.training = training


def statistics_of(network: nn.Module) -> dict[str, Tensor]:
    """The buffers of all batch norms, by name."""
    return {
        f"{name}.{key}": tensor
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
        for key, tensor in module.named_buffers(recurse=False)
    }


def at_uncut_shape(tensors: Weights, model: nn.Module, graph: ChannelGraph, plan: Plan) -> dict[str, Tensor]:
    """Buffers of the cut network, in the shapes of `model`: its own values in the places that the plan removes."""
    full = dict(model.named_buffers())
    dropped = graph.dropped(plan)
    placed = {}
    for name, tensor in tensors.items():
        whole = full[name].detach().clone()
        gone = dropped.get(Axis(name, 0))
        if gone is None:
            placed[name] = tensor.detach().clone()
            continue
        whole[kept_places(len(whole), gone).to(whole.device, non_blocking=True)] = tensor
        placed[name] = whole
    return placed


class RecalibrateScorer:
    """Scores candidates, tuples of the widths of all groups, of one network, which is not changed. Which channels
    stay is decided by the run's criterion, without one by the norm of the weights that read them."""

    name = "recalibrate"

    def __init__(self, problem: Problem, settings: Recalibration) -> None:
        self.problem, self._settings = problem, settings
        self._model = problem.model.to(problem.device).eval()
        self.orders = problem.channel_orders()
        depends = {"settings": asdict(settings), "version": VERSION}
        depends |= orders_scored_by(problem, self.orders)
        self._memory = ScoreMemory(
            problem.scores, scored_on(problem, self._model.state_dict()) | {"scorer": self.name, **depends}
        )

    @cached_property
    def _held_out(self) -> HeldOutScore:
        return held_out_score(self.problem, self._settings.score_images)

    @cached_property
    def _batches(self) -> list[Tensor]:
        settings, seed = self._settings, derive_seed(self.problem.seed, "calibration")
        drawn = self.problem.data.drawn("train", settings.images, settings.batch_size, seed, self.problem.device)
        return [images for images, _ in drawn]

    @cached_property
    def _cut(self) -> CutCopy:
        return CutCopy(self._model, self.problem.graph)

    def _recalibrated(self, plan: Plan) -> nn.Module:
        small = self._cut(plan)
        recalibrate(small, self._batches)
        return small

    def refit(self, plan: Plan) -> Weights:
        """The recomputed statistics of the network that a plan leaves."""
        statistics = statistics_of(self._recalibrated(plan))
        return at_uncut_shape(statistics, self._model, self.problem.graph, plan)

    def realise(self, widths: Widths) -> tuple[Plan, Weights]:
        """The plan that keeps the most important channels of every group, and the statistics of its batch norms."""
        plan = plan_of(self.problem.graph, self.orders, widths)
        return plan, self.refit(plan)

    def score(self, widths: Widths, least_top1: float = 0.0) -> Score | None:
        """Held-out score without fine-tuning; remembered by widths."""
        return self._memory.score(widths, least_top1, lambda: self._held_out(*self.realise(widths), least_top1))

    def report(self) -> JSON:
        return {"scorer": self.name, **asdict(self._settings)}
