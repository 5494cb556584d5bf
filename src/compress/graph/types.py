"""The channel graph as data: groups of coupled channels, and the layers that produce and read them.

Start here; `compress.graph.build` makes one, `compress.prune` prices and cuts plans of it.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

import torch
from torch import Tensor

from compress.graph.liveness import Liveness
from compress.graph.plan import Plan, check_plan
from compress.graph.tape import Tape


class Axis(NamedTuple):
    """One dimension of one parameter or buffer: ("layer1.0.conv1.weight", 0)."""

    tensor: str
    dim: int


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer as the cost model and the search see it."""

    name: str
    kind: str  # "conv" (of images), "conv1d", "conv3d", "transposed2d" and its kin, "linear", "recurrent"
    out_axis: Axis  # on dimension 0 of the weight; of a transposed convolution on dimension 1
    in_axis: Axis | None  # None: depthwise, an output channel belongs to the input channel of the same group
    macs_per_weight: (
        float  # how often each weight is used for one image, on average: output positions, over all calls
    )
    kernel: int  # height, in pixels; 1 for a linear layer
    stride: int  # in height, in pixels; 0 for a linear layer
    groups: int

    @property
    def weight(self) -> str:
        """The name of its weight."""
        return self.out_axis.tensor

    @property
    def in_dim(self) -> int:
        """The dimension of the weight that inputs are on."""
        return 1 - self.out_axis.dim

    @property
    def outputs_per_row(self) -> int:
        """Outputs of the layer at one index of `out_axis`: one of every conv group, where it is transposed."""
        return self.groups if self.out_axis.dim == 1 else 1


@dataclass(frozen=True)
class ChannelGroup:
    """Coupled channels: cutting channel i removes its slices from every tensor of the group at once.

    `positions[axis]` is (width, m) int64: the m indices of every channel on that axis. m > 1 after a flatten, where
    one channel is one column per pixel.
    """

    name: str
    width: int
    positions: Mapping[Axis, Tensor] = field(repr=False)
    consumers: tuple[str, ...]  # layers that read these channels, in order of execution
    outputs_per_channel: int = 1  # outputs of a layer that one channel is: one per group of a grouped convolution
    least: int = field(default=1, repr=False)  # the fewest of them that a method may leave (`compress.prune.limits`)


@dataclass(frozen=True, repr=False)
class ChannelGraph(Sequence[ChannelGroup]):
    """All groups of a network in order of execution, its layers with weights, and what cannot be cut and why.

    It is the sequence of its groups: `graph[0].width`, `for group in graph`.
    """

    groups: tuple[ChannelGroup, ...]
    layers: tuple[Layer, ...]
    frozen: Mapping[str, str]  # layers whose outputs cannot be cut, and why
    norms: Mapping[str, tuple[int, Axis]]  # layer and group norms: the activation dimension they see, and their axis
    scaled_by: Mapping[str, str] = field(default_factory=dict)  # indices of a selection -> the batch norm before it
    never_empty: Mapping[str, str] = field(default_factory=dict)  # groups that are not removable as a whole, and why
    tapes: tuple[Tape, ...] = ()  # of the forward in eval mode and, where it differs, in train mode
    product_macs: Mapping[str, int] = field(default_factory=dict)  # of activations, for each channel of a group
    caches: Mapping[str, bool] = field(
        default_factory=dict
    )  # attributes that forward fills; if they are there before
    computed: frozenset[str] = frozenset()  # layers that compute their weight of that of all their inputs

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
        """Removable groups: a plan may keep none of their channels, and `cut` still equals `masked`.

        All readers of such a group are convolutions, which then output zeros and their bias: a residual block without
        inner channels is its shortcut. That holds for each group alone; `kept` checks several together.
        """
        return frozenset(group.name for group in self.groups) - self.never_empty.keys()

    @property
    def why_nothing(self) -> str:
        """Why no channel can be cut, where there are no groups: of the first layers that stay whole."""
        few = [f"{name or 'forward'} {why}" for name, why in list(self.frozen.items())[:3]]
        return "; ".join(few) or ("all that its layers write is its output" if self.layers else "it has no layers")

    def emptied(self, plan: Plan) -> list[ChannelGroup]:
        """The groups that a plan keeps no channel of."""
        return [group for group in self.groups if not plan.kept.get(group.name, True)]

    def kept(self, plan: Plan) -> dict[str, Tensor]:
        """Kept channels of every group, ascending int64 (kept,), checked against the group's width.

        Raises:
            ValueError: the plan names an unknown group or channel, or empties groups that are not removable.
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
        dead_layers = {name for group in emptied for name in group.consumers}
        why = next((why for tape in self.tapes if (why := Liveness(tape).error(dead_layers))), None)
        if why:
            names = ", ".join(repr(group.name) for group in emptied)
            raise ValueError(f"plan empties groups {names}, {why}; {rule}, but not all of these")

    def widths(self, plan: Plan) -> list[int]:
        """Number of kept channels of every group, in the order of the groups; the plan is not checked."""
        return [len(plan.kept.get(group.name, range(group.width))) for group in self.groups]

    def dropped(self, plan: Plan, axes: Collection[Axis] | None = None) -> dict[Axis, Tensor]:
        """Indices that the plan removes, per axis (of `axes`, if given): int64 (removed,).

        Raises:
            ValueError: as `kept`.
        """
        kept = self.kept(plan)
        gone: dict[Axis, list[Tensor]] = defaultdict(list)
        for group in self.groups:
            if len(kept[group.name]) < group.width:
                out = torch.ones(group.width, dtype=torch.bool)
                out[kept[group.name]] = False
                missing = out.nonzero().flatten()
                on = [axis for axis in group.positions if axes is None or axis in axes]
                if on:  # all at once: a group of a dense network is on hundreds of axes
                    places = [group.positions[axis] for axis in on]
                    parts = torch.cat(places, 1)[missing].split([part.shape[1] for part in places], 1)
                    for axis, part in zip(on, parts, strict=True):
                        gone[axis].append(part.flatten())
        return {axis: parts[0] if len(parts) == 1 else torch.cat(parts) for axis, parts in gone.items()}
