"""`fpgm`: the distances of a filter to all others of its layer; what lies nearest to the geometric median goes first.

He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", CVPR 2019,
arXiv:1811.00250. With W[c] the weights that make channel c: score(c) = sum over j of ||W[c] - W[j]||_2.
Where several layers make a channel (a residual stream, which the paper leaves whole) the sums of all of them are
added, each divided by its mean over the channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.graph.types import ChannelGraph
from compress.prune.criteria.criterion import Normalise, Parts, Sample, Slices, makers, normalised, precise


def distances(filters: Tensor) -> Tensor:
    """Of each row the sum of its Euclidean distances to all rows: (width, n) -> (width, 1)."""
    return torch.cdist(filters, filters).sum(1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class GeometricMedian:
    """conf/criterion/fpgm.yaml explains the setting."""

    normalise: Normalise

    def __call__(self, model: nn.Module, graph: ChannelGraph, sample: Sample) -> Parts:
        def part(of: Slices) -> Tensor:
            # float64, since |a|^2 - 2ab + |b|^2 rounds away the distance of near filters, the very ones looked for
            return distances(of.rows(precise(model.get_parameter(of.parameter))))

        parts = {group.name: [part(of) for of in makers(graph, group)] for group in graph}
        return normalised({name: several for name, several in parts.items() if several}, self.normalise)

    def scored(self, model: nn.Module, graph: ChannelGraph) -> list[str]:
        return [group.name for group in graph if makers(graph, group)]
