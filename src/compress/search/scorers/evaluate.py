"""The held-out score of a candidate before fine-tuning, made fast.

AMC's published code evaluates the dense network with zeros in it. Here the candidate is cut, its batch norms are
folded into its convolutions, and it runs in channels_last memory format on images that are kept in memory. The
outputs are equal to float noise, and the network is not changed.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.seeds import derive_seed
from compress.measure.accuracy import Score, score_of
from compress.prune.folding import fold, foldable
from compress.prune.method import Problem
from compress.prune.surgery import CutCopy

PIXELS = 2**18  # per batch: fastest at 32 px on one core, where a layer's activations still fit the cache
PIXELS_ON_GPU = 2**23  # some hundred MB for each layer's activations


def batch_size(shape: tuple[int, int, int], device: torch.device) -> int:
    """How many images (C, H, W) to evaluate at once: of 32 px 256, and 8,192, mostly all, on a GPU."""
    if device.type == "cuda":
        return max(PIXELS_ON_GPU // (shape[1] * shape[2]), 16)
    return min(max(PIXELS // (shape[1] * shape[2]), 16), 2048)


class HeldOutScore:
    """Scores of plans of one network on fixed held-out images, `batches` of (images, labels)."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        self._cut = CutCopy(model, graph)
        self._network = self._cut.network.eval()
        self._folded = fold(self._network, foldable(model, graph.tapes[0]))
        self._batches = [(x.contiguous(memory_format=torch.channels_last), y) for x, y in batches]

    def __call__(self, plan: Plan, weights: Mapping[str, Tensor], least_top1: float = 0.0) -> Score | None:
        """`weights` replace parameters and buffers, by name and in the shape of the uncut network."""
        self._cut(plan, weights)
        for layer in self._folded:
            layer.refresh()
        return score_of(self._network.to(memory_format=torch.channels_last), self._batches, least_top1)


def held_out_score(problem: Problem, images: int) -> HeldOutScore:
    """Of plans of the problem's network, on at most `images` held-out images, the same for every scorer."""
    seed = derive_seed(problem.seed, "calibration")
    size = batch_size(problem.data.shape, problem.device)
    drawn = problem.data.drawn("held_out", images, size, seed, problem.device)
    return HeldOutScore(problem.model, problem.graph, drawn)
