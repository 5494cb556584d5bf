"""The scales (gamma) of batch norms as scores of channels.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, arXiv:1708.06519: the
score of a channel is the |gamma| that multiplies it. In a chain of layers each group of channels has one batch norm.
Where channels are coupled (a residual stream, a depthwise convolution, a dense block) several batch norms scale the
same channel; by default (`coupled: sum`) its score is the mean of their |gamma| times the number of layers that
produce the channel. So a channel of a residual stream is removed only when all of its scales are near zero, and a
channel that a depthwise convolution passes on does not count twice. A channel selection reads from a batch norm that
keeps its width; its scores are the |gamma| of that norm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.graph.types import ChannelGraph, ChannelGroup
from compress.prune.scores import Coupled, Scores, per_channel, producers


@dataclass(frozen=True)
class Scale:
    """The entries of a batch norm that scale the channels of a group."""

    norm: str
    places: Tensor  # (width, m): indices into gamma of each channel
    is_selected: bool = False  # read through a channel selection, which may skip entries


def is_scaled(module: nn.Module, linear: bool) -> bool:
    """Whether a module is a batch norm with a scale; `linear` includes those after linear layers (BatchNorm1d)."""
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.BatchNorm1d) if linear else (nn.BatchNorm2d, nn.SyncBatchNorm)
    return isinstance(module, kinds) and module.weight is not None


def norms_of(model: nn.Module, linear: bool = False) -> dict[str, nn.Module]:
    """Batch norms with a scale, in module order."""
    return {name: module for name, module in model.named_modules() if is_scaled(module, linear)}


def scales_of(model: nn.Module, graph: ChannelGraph, linear: bool = False) -> dict[str, tuple[Scale, ...]]:
    """The batch norms that scale the channels of each group; groups without any are left out."""
    norms = norms_of(model, linear)
    by_group = {group.name: tuple(_scales(model, graph, group, norms)) for group in graph}
    return {name: scales for name, scales in by_group.items() if scales}


def _scales(
    model: nn.Module, graph: ChannelGraph, group: ChannelGroup, norms: Mapping[str, nn.Module]
) -> Sequence[Scale]:
    scales = []
    for axis, places in group.positions.items():
        norm, _, tensor = axis.tensor.rpartition(".")
        if tensor == "weight" and norm in norms:
            scales.append(Scale(norm, places))
        elif graph.scaled_by.get(axis.tensor) in norms:
            scales.append(Scale(graph.scaled_by[axis.tensor], model.get_buffer(axis.tensor).cpu()[places], True))
    return scales


def scores(
    model: nn.Module, graph: ChannelGraph, scales: Mapping[str, Sequence[Scale]], coupled: Coupled = "sum"
) -> Scores:
    """Scores (width,) by group: |gamma|, combined over coupled scales by `coupled`."""

    def gammas(part: Scale) -> Tensor:
        return model.get_parameter(f"{part.norm}.weight").detach().abs().cpu()[part.places]

    return per_channel({name: [gammas(part) for part in parts] for name, parts in scales.items()}, graph, coupled)


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
