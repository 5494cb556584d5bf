"""`bn_scale`: |gamma| of the batch norms that scale a channel.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, arXiv:1708.06519. The
method `slimming` trains the scales towards zero first; here they are taken as they are.
"""

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from compress.graph.types import ChannelGraph
from compress.prune.criteria.criterion import Parts, Sample
from compress.prune.scales import gammas_by_group, scales_of


@dataclass(frozen=True, kw_only=True)
class BatchNormScale:
    """conf/criterion/bn_scale.yaml; groups that no batch norm scales have no scores."""

    def __call__(self, model: nn.Module, graph: ChannelGraph, sample: Sample) -> Parts:
        return gammas_by_group(model, scales_of(model, graph, linear=True))

    def scored(self, model: nn.Module, graph: ChannelGraph) -> Collection[str]:
        return scales_of(model, graph, linear=True).keys()
