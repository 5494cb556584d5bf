"""Observations: the state that an agent sees before each decision.

He et al., "AMC", ECCV 2018, arXiv:1802.03494, equation 1, as its published code has it: seven features that describe
the layer and three that change during an episode; between them the target of Liu et al., IEEE SPL 2021,
arXiv:2009.09724. `CleanObserver` counts MACs: removed so far with later groups whole, and removable from later
groups. `PublishedObserver` keeps the definitions of the published code, including its first decision, about the
image's channels.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from compress.graph.types import ChannelGraph, Layer
from compress.prune.cost import CostModel
from compress.prune.widths import Choices
from compress.search.agent.action_bounds import PublishedBounds

Vector = NDArray[np.float32]
Encoding = Literal["none", "scalar", "onehot"]

FEATURES = 7  # of a group that do not change during an episode


class Observer(Protocol):
    """Called before each decision of an episode, returns float32 (size,)."""

    size: int
    steps: int  # decisions per episode
    idle: int  # how many of these, the first ones, have no effect

    def __call__(self, step: int, widths: Sequence[int], target: float) -> Vector:
        """`widths` are those of the groups decided so far, `target` a share of MACs."""


def raw_features(model: nn.Module, graph: ChannelGraph) -> NDArray[np.float64]:
    """The features of every group that do not change during an episode, unscaled: (groups, 7).

    Columns: index; share of linear layers among the layers that read the group; its channels; output channels of
    these layers; stride and kernel of the first of them; their number of weights. A linear layer has stride 0 and
    kernel 1.
    """
    layers = {layer.name: layer for layer in graph.layers}
    rows = [
        _row(model, index, [layers[name] for name in group.consumers], group.width)
        for index, group in enumerate(graph)
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, FEATURES)


def _row(model: nn.Module, index: int, readers: list[Layer], channels: int) -> list[float]:
    weights = [model.get_parameter(layer.weight) for layer in readers]
    first = readers[0]
    return [
        index,
        float(np.mean([layer.kind == "linear" for layer in readers])),
        channels,
        sum(weight.shape[layer.out_axis.dim] for layer, weight in zip(readers, weights, strict=True)),
        first.stride,
        first.kernel,
        sum(weight.numel() for weight in weights),
    ]


def scaled(table: NDArray[np.float64], constant: Literal["zero", "raw"]) -> NDArray[np.float64]:
    """Columns scaled to [0, 1]; a constant column becomes 0 ("zero") or stays as it is ("raw"): (n, 7) -> (n, 7)."""
    low, high = table.min(0), table.max(0)
    result: NDArray[np.float64] = (table - low) / np.where(high > low, high - low, 1)
    return np.where(high > low, result, table) if constant == "raw" else result


def target_columns(encoding: Encoding, targets: Sequence[float], target: float) -> list[float]:
    """The target as features: none, itself, or a one-hot vector of the nearest of `targets`, those of the
    training."""
    if encoding == "none":
        return []
    if encoding == "scalar":
        return [target]
    nearest = min(range(len(targets)), key=lambda i: abs(targets[i] - target))
    return [float(i == nearest) for i in range(len(targets))]


class CleanObserver:
    """Seven features of the next group; the target; the share of MACs removed so far; the share of MACs that can
    still be removed from groups not yet decided; the previous group's kept share."""

    idle = 0

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        cost: CostModel,
        choices: Choices,
        encoding: Encoding,
        targets: Sequence[float],
    ) -> None:
        self._cost, self._encoding, self._targets = cost, encoding, targets
        self._least = np.array([options[0] for options in choices])
        self._features = scaled(raw_features(model, graph), constant="zero")
        self.steps = len(graph)
        self.size = 7 + len(target_columns(encoding, targets, 0.0)) + 3

    def __call__(self, step: int, widths: Sequence[int], target: float) -> Vector:
        full, done = self._cost.full_widths, np.array(widths, dtype=np.int64)
        now = np.concatenate([done, full[step:]])
        least = np.concatenate([done, self._least[step:]])
        share = self._cost.macs(np.stack([now, least])) / self._cost.full_macs
        last = widths[-1] / full[step - 1] if step else 1.0
        dynamic = [1 - share[0], share[0] - share[1], last]
        target_features = target_columns(self._encoding, self._targets, target)
        return np.concatenate([self._features[step], target_features, dynamic]).astype(np.float32)


class PublishedObserver:
    """The state of the published code, with its quirks: the removed share takes groups not yet decided at `lbound`;
    the remaining share counts all depthwise layers as still to come, and before the first decision weights instead of
    MACs; constant columns are not scaled."""

    idle = 1  # the agent also decides about the image's channels, without effect

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        bounds: PublishedBounds,
        encoding: Encoding,
        targets: Sequence[float],
        lbound: float,
    ) -> None:
        self._bounds, self._encoding, self._targets, self._lbound = bounds, encoding, targets, lbound
        self._full = np.array([group.width for group in graph])
        self.steps = len(graph) + self.idle
        self.size = 7 + len(target_columns(encoding, targets, 0.0)) + 3

        image = graph.layers[0]
        first = _row(model, 0, [image], model.get_parameter(image.weight).shape[image.in_dim])
        others = raw_features(model, graph)
        others[:, 0] += self.idle
        table = np.vstack([first, others])
        self._features = scaled(table, constant="raw")

        sizes = {layer.name: model.get_parameter(layer.weight).numel() for layer in graph.layers}
        reads: set[str] = set()
        macs = []  # per group of the layers that read it, without depthwise ones; a layer counts once
        for group in graph:
            new = [layer for layer in graph.layers if layer.name in group.consumers and layer.name not in reads]
            reads.update(layer.name for layer in new)
            macs.append(sum(layer.macs_per_weight * sizes[layer.name] for layer in new))
        macs = list(np.array(macs) + self._bounds.biases)
        depthwise = [layer for layer in graph.layers if layer.in_axis is None]
        depthwise_macs = sum(layer.macs_per_weight * sizes[layer.name] for layer in depthwise)
        later = [sum(macs[at:]) + depthwise_macs for at in range(1, len(macs) + 1)]
        weights = sum(sizes.values())
        self._rest = [1 - sizes[image.name] / weights, *(rest / bounds.full_macs for rest in later)]

    def __call__(self, step: int, widths: Sequence[int], target: float) -> Vector:
        reduced, last = 0.0, 1.0
        if step:
            done = np.array(widths) / self._full[: len(widths)]
            shares = np.concatenate([done, np.full(len(self._full) - len(done), self._lbound)])
            reduced = 1 - float(self._bounds.macs(shares[None])[0]) / self._bounds.full_macs
            last = float(done[-1]) if len(done) else 1.0
        target_features = target_columns(self._encoding, self._targets, target)
        return np.concatenate([self._features[step], target_features, [reduced, self._rest[step], last]]).astype(
            np.float32
        )
