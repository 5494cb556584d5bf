"""The scales (gamma) of batch norms as scores of channels, and what is kept of each batch norm.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, arXiv:1708.06519: the
score of a channel is the |gamma| that multiplies it. In a chain of layers each group of channels has one batch norm.
Where several batch norms scale the same channel (`compress.prune.scales`), by default (`coupled: sum`) its score is
the mean of their |gamma| times the number of layers that produce the channel. So a channel of a residual stream is
removed only when all of its scales are near zero, and a channel that a depthwise convolution passes on does not count
twice.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from compress.graph.types import ChannelGraph
from compress.prune.scales import Scale, gammas_by_group, norms_of
from compress.prune.scores import Coupled, Scores, per_channel, producers


def scores(
    model: nn.Module, graph: ChannelGraph, scales: Mapping[str, Sequence[Scale]], coupled: Coupled = "sum"
) -> Scores:
    """Scores (width,) by group: |gamma|, combined over coupled scales by `coupled`."""
    return per_channel(gammas_by_group(model, scales), graph, coupled)


def gammas(model: nn.Module, linear: bool = False) -> Tensor:
    """|gamma| of all batch norms, concatenated in module order: (N,) float32 on the CPU."""
    found = norms_of(model, linear).values()
    return torch.cat([norm.get_parameter("weight").detach().float().abs().cpu() for norm in found])


def coupled_groups(scales: Mapping[str, Sequence[Scale]], scored: Scores) -> list[str]:
    """Groups whose scores combine several scales per channel."""
    return [name for name in scored if sum(scale.places.shape[1] for scale in scales[name]) > 1]


def shared_norms(graph: ChannelGraph, scales: Mapping[str, Sequence[Scale]]) -> frozenset[str]:
    """The batch norms all of whose channels are produced by several layers: `coupled: keep` removes none of them."""
    unshared = {part.norm for group in graph if producers(graph, group) == 1 for part in scales.get(group.name, ())}
    return frozenset(part.norm for parts in scales.values() for part in parts) - unshared


def kept_of_norms(
    model: nn.Module, graph: ChannelGraph, scales: Mapping[str, Sequence[Scale]], widths: Sequence[int], linear: bool
) -> dict[str, int]:
    """Number of kept entries of every batch norm (of read entries, before a channel selection), in module order."""
    kept = {name: len(norm.get_parameter("weight")) for name, norm in norms_of(model, linear).items()}
    for group, width in zip(graph, widths, strict=True):
        for scale in scales.get(group.name, ()):
            if scale.is_selected:
                kept[scale.norm] = scale.places.numel()
            kept[scale.norm] -= (group.width - width) * scale.places.shape[1]
    return kept


def cfg_of(model: nn.Module, kept: Mapping[str, int]) -> list[int | str]:
    """The `cfg` list of the published code: kept entries of every batch norm in module order, 'M' for max-pooling."""
    cfg: list[int | str] = []
    for name, module in model.named_modules():
        if name in kept:
            cfg.append(kept[name])
        elif isinstance(module, nn.MaxPool2d):
            cfg.append("M")
    return cfg
