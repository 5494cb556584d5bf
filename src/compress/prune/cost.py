"""What any plan costs, without building a network.

A convolution's MACs are k*k*H*W * c_in * c_out / groups: bilinear in the widths of the channel groups on its two
axes. One `CostModel`, made once, prices a batch of plans with two matrix products; it equals fvcore to the unit.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from compress.measure.macs import count_macs
from compress.prune.graph import Axis, ChannelGraph
from compress.prune.plan import Plan, check_names

Widths = NDArray[np.int64]


@dataclass(frozen=True)
class _Sizes:
    """Length of one axis of each of n tensors as a function of the group widths: `widths @ per_channel.T + fixed`."""

    per_channel: NDArray[np.float64]  # (n, groups)
    fixed: NDArray[np.float64]  # (n,)

    def __call__(self, widths: Widths) -> NDArray[np.float64]:
        """(plans, groups) -> (plans, n)."""
        return widths.astype(np.float64) @ self.per_channel.T + self.fixed


@dataclass(frozen=True)
class CostModel:
    """Prices of plans of one network: of one `Plan`, or of many at once by their widths (plans, groups).

    Widths stand in the order of `names`, as the groups do in the graph.
    """

    names: tuple[str, ...]
    full_widths: Widths
    fixed_macs: int  # of operations without weights that a plan changes: attention's matrix products
    _uses: NDArray[np.float64]  # of one weight position of each layer
    _out: _Sizes
    _in: _Sizes
    _rest: NDArray[np.float64]  # other dimensions of each parameter
    _dim0: _Sizes
    _dim1: _Sizes

    @overload
    def macs(self, plans: Plan) -> int: ...
    @overload
    def macs(self, plans: ArrayLike) -> NDArray[np.int64]: ...
    def macs(self, plans: Plan | ArrayLike) -> int | NDArray[np.int64]:
        """MACs for one image: of a plan, or (plans, groups) -> (plans,). Exact, as float64 is up to 2^53."""
        if isinstance(plans, Plan):
            return int(self.macs(self.widths(plans))[0])
        batch = np.atleast_2d(np.asarray(plans))
        total = (self._out(batch) * self._in(batch)) @ self._uses
        return np.rint(total).astype(np.int64) + self.fixed_macs

    @overload
    def params(self, plans: Plan) -> int: ...
    @overload
    def params(self, plans: ArrayLike) -> NDArray[np.int64]: ...
    def params(self, plans: Plan | ArrayLike) -> int | NDArray[np.int64]:
        """Parameters: of a plan, or (plans, groups) -> (plans,)."""
        if isinstance(plans, Plan):
            return int(self.params(self.widths(plans))[0])
        batch = np.atleast_2d(np.asarray(plans))
        return np.rint((self._dim0(batch) * self._dim1(batch)) @ self._rest).astype(np.int64)

    def widths(self, plan: Plan) -> Widths:
        """(groups,)

        Raises:
            ValueError: the plan names a group that is not there.
        """
        check_names(plan, self.names)
        full = zip(self.names, self.full_widths.tolist(), strict=True)
        return np.array([len(plan.kept[name]) if name in plan.kept else width for name, width in full])

    @cached_property
    def full_macs(self) -> int:
        return self.macs(Plan())


def _sizes(graph: ChannelGraph, axes: list[Axis | None], lengths: list[int]) -> _Sizes:
    per_channel = np.zeros((len(axes), len(graph.groups)))
    for column, group in enumerate(graph.groups):
        for row, axis in enumerate(axes):
            if axis is not None and axis in group.positions:
                per_channel[row, column] = group.positions[axis].shape[1]
    full = np.array([group.width for group in graph.groups], dtype=np.float64)
    return _Sizes(per_channel, np.array(lengths, dtype=np.float64) - per_channel @ full)


def cost_model(model: nn.Module, graph: ChannelGraph, shape: tuple[int, int, int]) -> CostModel:
    """Build the prices of all plans of `model` for images (C, H, W)."""
    parameters = dict(model.named_parameters())
    weights = [parameters[f"{layer.name}.weight"].shape for layer in graph.layers]
    layers = graph.layers
    outs = _sizes(graph, [layer.out_axis for layer in layers], [shape[0] for shape in weights])
    ins = _sizes(graph, [layer.in_axis for layer in layers], [shape[1] for shape in weights])
    uses = [layer.macs_per_weight * shape[2:].numel() for layer, shape in zip(layers, weights, strict=True)]

    names, shapes = list(parameters), [tensor.shape for tensor in parameters.values()]
    dim0 = _sizes(graph, [Axis(n, 0) for n in names], [shape[0] if shape else 1 for shape in shapes])
    dim1 = _sizes(graph, [Axis(n, 1) for n in names], [shape[1] if len(shape) > 1 else 1 for shape in shapes])
    rest = [shape[2:].numel() if len(shape) > 2 else 1 for shape in shapes]

    group_names = tuple(group.name for group in graph.groups)
    full = np.array([group.width for group in graph.groups], dtype=np.int64)
    prices = CostModel(group_names, full, 0, np.array(uses, float), outs, ins, np.array(rest, float), dim0, dim1)
    fixed = count_macs(model, shape) - prices.full_macs
    assert fixed >= 0, f"the channel graph counts {-fixed} MACs more than fvcore"
    return replace(prices, fixed_macs=fixed)
