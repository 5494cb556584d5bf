"""`Criterion`: how much every channel matters; what it may look at, and what its scores become."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from compress.data.base import Batch, Data
from compress.graph.types import ChannelGraph, ChannelGroup
from compress.prune.scores import Scores

# By group: scores (width, m), the largest of the channels that matter most; one tensor for every layer that has a
# say, m > 1 where several entries of it belong to a channel. They are added up. A group may be missing.
Parts = Mapping[str, Sequence[Tensor]]
Normalise = Literal["none", "mean"]


class Sample(Protocol):
    """What a criterion may look at besides the network."""

    @property
    def seed(self) -> int: ...

    def __call__(self, images: int, batch_size: int) -> Iterable[Batch]:
        """At most so many training images with their labels, in batches, on the device of the network."""


class Criterion(Protocol):
    """A function, or a frozen dataclass whose fields are the settings."""

    def __call__(self, model: nn.Module, graph: ChannelGraph, sample: Sample) -> Parts:
        """The scores, on the CPU. The network is left as it was; it is in any mode, its gradients are not used."""


@runtime_checkable
class Partial(Protocol):
    """A criterion that has no scores for some groups."""

    def scored(self, model: nn.Module, graph: ChannelGraph) -> Collection[str]:
        """The names of those that it has scores for. The weights of the network may have no memory."""


@dataclass(frozen=True)
class Drawn:
    """Images drawn from the training part of a run's data, not augmented, the same at every call."""

    data: Data
    device: torch.device
    seed: int

    def __call__(self, images: int, batch_size: int) -> Iterable[Batch]:
        return self.data.drawn("train", images, batch_size, self.seed, self.device)


def scored_groups(criterion: Criterion, model: nn.Module, graph: ChannelGraph) -> frozenset[str]:
    """The names of the groups that the criterion has scores for."""
    names = frozenset(group.name for group in graph)
    return names & frozenset(criterion.scored(model, graph)) if isinstance(criterion, Partial) else names


def normalised(parts: Parts, how: Normalise) -> Parts:
    """`mean`: the scores of each layer divided by their mean, so that layers can be compared and added."""
    if how == "none":
        return parts
    return {name: [part / part.mean().clamp_min(1e-12) for part in several] for name, several in parts.items()}


def totals(parts: Parts) -> Scores:
    """The sum of all scores of each channel: (width,) by group, float64."""
    sums = {}
    for name, several in parts.items():
        total = torch.zeros(len(several[0]), dtype=torch.float64)
        for part in several:
            total += part.sum(1)
        sums[name] = total
    return sums


class Slices(NamedTuple):
    """What of a parameter belongs to each channel: slices at `places` (width, m) of the dimension `dim`."""

    parameter: str
    dim: int
    places: Tensor

    def summed(self, entries: Tensor) -> Tensor:
        """The sum over all entries of each channel, of a tensor of the parameter's shape: (width, 1) float64."""
        per_slice = entries[..., None].transpose(0, self.dim).flatten(1).sum(1)  # of vectors too
        return per_slice[self.places].sum(1, keepdim=True)

    def rows(self, entries: Tensor) -> Tensor:
        """All entries of each channel: (width, n)."""
        return entries.transpose(0, self.dim)[self.places].flatten(1)


def precise(tensor: Tensor) -> Tensor:
    """float64 on the CPU, without a gradient."""
    return tensor.detach().double().cpu()


def makers(graph: ChannelGraph, group: ChannelGroup) -> list[Slices]:
    """The weights that make the channels of a group. Those of depthwise convolutions, which pass channels on, are not
    among them."""
    return [
        Slices(layer.weight, layer.out_axis.dim, group.positions[layer.out_axis])
        for layer in graph.layers
        if layer.in_axis is not None and layer.out_axis in group.positions
    ]


def readers(graph: ChannelGraph, group: ChannelGroup) -> list[Slices]:
    """The weights that read the channels of a group, in the order of its `consumers`."""
    layers = {layer.name: layer for layer in graph.layers}
    found = []
    for name in group.consumers:
        axis = layers[name].in_axis
        assert axis is not None
        found.append(Slices(layers[name].weight, axis.dim, group.positions[axis]))
    return found
