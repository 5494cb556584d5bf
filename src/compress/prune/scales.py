"""The scales (gamma) of batch norms, by the channels that they multiply.

Where channels are coupled (a residual stream, a depthwise convolution, a dense block) several batch norms scale the
same channel. A channel selection reads from a batch norm that keeps its width; its scales are those of that norm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from compress.graph.types import ChannelGraph, ChannelGroup


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


def gammas_by_group(model: nn.Module, scales: Mapping[str, Sequence[Scale]]) -> dict[str, list[Tensor]]:
    """|gamma| of every scale, (width, m) by group, on the CPU."""

    def gammas(part: Scale) -> Tensor:
        return model.get_parameter(f"{part.norm}.weight").detach().abs().cpu()[part.places]

    return {name: [gammas(part) for part in parts] for name, parts in scales.items()}
