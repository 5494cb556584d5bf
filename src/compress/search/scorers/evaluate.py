"""What a strategy is worth before any fine-tuning: held-out accuracy of the network really cut, as fast as it goes.

The original evaluates the dense network with zeros in it. Here the candidate is cut, its batch norms are folded into
its convolutions, and the images lie ready in memory. Same answers to float noise; nothing of it touches the network.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.measure.accuracy import Accuracy, accuracy
from compress.prune.folding import fold, foldable
from compress.prune.surgery import cut

PIXELS = 2**18  # of one batch: fastest at 32 px on one core, where a layer's activations still fit the cache


def batch_size(shape: tuple[int, int, int]) -> int:
    """How many images (C, H, W) to evaluate at once: 256 of 32 px."""
    return min(max(PIXELS // (shape[1] * shape[2]), 16), 2048)


class Scores:
    """Accuracy of any plan of one network on the same images."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        self._model, self._graph = model, graph
        self._pairs = foldable(model)
        self._batches = [(x.contiguous(memory_format=torch.channels_last), y) for x, y in batches]

    def __call__(self, plan: Plan, weights: Mapping[str, Tensor]) -> Accuracy:
        """`weights` takes the place of parameters, by name and at full shape."""
        small = fold(cut(self._model, self._graph, plan, weights).eval(), self._pairs)
        return accuracy(small.to(memory_format=torch.channels_last), self._batches)
