"""What a channel graph is: groups of channels that live and die together, and the layers they run through."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

import torch
from torch import Tensor

from compress.graph.liveness import Flow, what_is_lost
from compress.graph.plan import Plan, check_plan


class Axis(NamedTuple):
    """One dimension of one parameter or buffer: ("layer1.0.conv1.weight", 0)."""

    tensor: str
    dim: int


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer as the cost model and the search see it."""

    name: str
    kind: str  # "conv" or "linear"
    out_axis: Axis
    in_axis: Axis | None  # None: depthwise, the channel passes through
    macs_per_weight: int  # how often each weight is used for one image
    kernel: int
    stride: int
    groups: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that live and die together; a name, a width, and where each channel sits.

    `positions[axis]` is (width, m): the m places of every channel on that axis (m > 1 after a flatten).
    """

    name: str
    width: int
    positions: Mapping[Axis, Tensor] = field(repr=False)
    consumers: tuple[str, ...]  # layers that read these channels, in order of execution
    copies: int = 1  # how many outputs of a layer one channel is: one per conv group of a grouped convolution


@dataclass(frozen=True, repr=False)
class ChannelGraph(Sequence[ChannelGroup]):
    """All groups of a network in order of execution, its weighted layers, and what could not be cut and why.

    A sequence of its groups: `graph[0].width`, `for group in graph`.
    """

    groups: tuple[ChannelGroup, ...]
    layers: tuple[Layer, ...]
    frozen: Mapping[str, str]
    norms: Mapping[str, tuple[int, Axis]]  # layer and group norms, which see all channels: on which dimension, axis
    scaled_by: Mapping[str, str] = field(default_factory=dict)  # indices of a selection: the batch norm before it
    never_empty: Mapping[str, str] = field(default_factory=dict)  # groups that must keep a channel, and why
    flows: tuple[Flow, ...] = ()  # of evaluation, and of training

    def __post_init__(self) -> None:
        assert len({group.name for group in self.groups}) == len(self.groups)

    def __repr__(self) -> str:
        return f"{len(self.groups)} groups of {len(self.layers)} layers, {len(self.frozen)} of them frozen"

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, at: int) -> ChannelGroup: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[ChannelGroup, ...]: ...
    def __getitem__(self, at: int | slice) -> ChannelGroup | tuple[ChannelGroup, ...]:
        return self.groups[at]

    @property
    def emptiable(self) -> frozenset[str]:
        """Groups that a plan may empty, each for itself: `masked` and `cut` are the same without any channel.

        All that reads such a group is convolutions, whose outputs are then zeros (and their bias): a residual block
        without inner channels is its shortcut. Several together may still be too many; `kept` tells.
        """
        return frozenset(group.name for group in self.groups) - self.never_empty.keys()

    def emptied(self, plan: Plan) -> list[ChannelGroup]:
        return [group for group in self.groups if not plan.kept.get(group.name, True)]

    def kept(self, plan: Plan) -> dict[str, Tensor]:
        """Kept channels of every group, checked against its width.

        Raises:
            ValueError: the plan names a group or a channel that is not there, or empties what must keep a channel.
        """
        widths = {group.name: group.width for group in self.groups}
        check_plan(plan, widths)
        self._check_emptied(self.emptied(plan))
        return {
            name: torch.tensor(plan.kept[name], dtype=torch.int64) if name in plan.kept else torch.arange(width)
            for name, width in widths.items()
        }

    def _check_emptied(self, emptied: Sequence[ChannelGroup]) -> None:
        if not emptied:
            return
        may = ", ".join(name for group in self.groups if (name := group.name) in self.emptiable) or "none"
        rule = f"keep at least one channel; groups that can be emptied: {may}"
        for group in emptied:
            if group.name in self.never_empty:
                raise ValueError(f"plan empties group {group.name!r}, {self.never_empty[group.name]}; {rule}")
        silent = {name for group in emptied for name in group.consumers}
        lost = next((lost for flow in self.flows if (lost := what_is_lost(flow, silent))), None)
        if lost:
            names = ", ".join(repr(group.name) for group in emptied)
            raise ValueError(f"plan empties groups {names}, {lost}; {rule}, but not all of these")

    def widths(self, plan: Plan) -> list[int]:
        return [len(plan.kept.get(group.name, range(group.width))) for group in self.groups]

    def dropped(self, plan: Plan, axes: Collection[Axis] | None = None) -> dict[Axis, Tensor]:
        """Places on each axis (of these, if given) that the plan takes away."""
        kept = self.kept(plan)
        gone: dict[Axis, list[Tensor]] = defaultdict(list)
        for group in self.groups:
            if len(kept[group.name]) < group.width:
                out = torch.ones(group.width, dtype=torch.bool)
                out[kept[group.name]] = False
                missing = out.nonzero().flatten()
                for axis, places in group.positions.items():
                    if axes is None or axis in axes:
                        gone[axis].append(places[missing].flatten())
        return {axis: parts[0] if len(parts) == 1 else torch.cat(parts) for axis, parts in gone.items()}
