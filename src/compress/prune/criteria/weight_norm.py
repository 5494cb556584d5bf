"""`l1`, `l2`: the norm of the weights that read a channel, or of those that make it.

Readers: AMC (He et al., ECCV 2018, arXiv:1802.03494). Makers: Li et al., "Pruning Filters for Efficient ConvNets",
ICLR 2017, arXiv:1608.08710, where the score of a filter is its L1 norm.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from compress.graph.types import ChannelGraph, ChannelGroup
from compress.prune.criteria.criterion import (
    Normalise,
    Parts,
    Sample,
    Slices,
    makers,
    normalised,
    precise,
    readers,
)

Side = Literal["readers", "makers", "both"]


def norms(model: nn.Module, graph: ChannelGraph, norm: Literal["l1", "l2"], side: Side) -> Parts:
    """Norms (width, 1) of the weights of every layer on that side, by group; of l2 not their common norm."""

    def part(of: Slices) -> Tensor:
        weight = precise(model.get_parameter(of.parameter))
        return of.summed(weight.abs()) if norm == "l1" else of.summed(weight.square()).sqrt()

    def parts(group: ChannelGroup) -> list[Tensor]:
        made = makers(graph, group) if side != "readers" else []
        read = readers(graph, group) if side != "makers" else []
        return [part(of) for of in (*made, *read)]

    return {group.name: found for group in graph if (found := parts(group))}


@dataclass(frozen=True, kw_only=True)
class WeightNorm:
    """conf/criterion/l1.yaml explains every setting."""

    norm: Literal["l1", "l2"]
    side: Side
    normalise: Normalise

    def __call__(self, model: nn.Module, graph: ChannelGraph, sample: Sample) -> Parts:
        return normalised(norms(model, graph, self.norm, self.side), self.normalise)
