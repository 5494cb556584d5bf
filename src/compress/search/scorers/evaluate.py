"""Held-out accuracy of a candidate before fine-tuning, made fast.

AMC's published code evaluates the dense network with zeros in it. Here the candidate is cut, its batch norms are
folded into its convolutions, and it runs in channels_last memory format on images that are kept in memory. The
outputs are equal to float noise, and the network is not changed.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.measure.accuracy import Accuracy, accuracy
from compress.prune.folding import fold, foldable
from compress.prune.surgery import cut

PIXELS = 2**18  # per batch: fastest at 32 px on one core, where a layer's activations still fit the cache


def batch_size(shape: tuple[int, int, int]) -> int:
    """How many images (C, H, W) to evaluate at once: 256 of 32 px."""
    return min(max(PIXELS // (shape[1] * shape[2]), 16), 2048)


class HeldOutAccuracy:
    """Accuracy of plans of one network on fixed held-out images, `batches` of (images, labels)."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        self._model, self._graph = model, graph
        self._pairs = foldable(model)
        self._batches = [(x.contiguous(memory_format=torch.channels_last), y) for x, y in batches]

    def __call__(self, plan: Plan, weights: Mapping[str, Tensor]) -> Accuracy:
        """`weights` replace parameters, by name and in the shape of the uncut network."""
        small = fold(cut(self._model, self._graph, plan, weights).eval(), self._pairs)
        return accuracy(small.to(memory_format=torch.channels_last), self._batches)
