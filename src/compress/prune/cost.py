"""What any plan costs, without building a network.

A convolution's MACs are k*k*H*W * c_in * c_out / groups: bilinear in the widths of the channel groups on its two
axes. One `CostModel`, made once, prices a batch of plans with two matrix products; it equals fvcore to the unit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from compress.measure.macs import count_macs
from compress.prune.graph import Axis, ChannelGraph

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
    """Prices of plans of one network; widths are (plans, groups) or (groups,), in the order of `graph.groups`."""

    full_widths: Widths
    fixed_macs: int  # of operations without weights that a plan changes: attention's matrix products
    _uses: NDArray[np.float64]  # of one weight position of each layer
    _out: _Sizes
    _in: _Sizes
    _rest: NDArray[np.float64]  # other dimensions of each parameter
    _dim0: _Sizes
    _dim1: _Sizes

    def macs(self, widths: Any) -> NDArray[np.int64]:
        """MACs of each plan for one image: (plans, groups) -> (plans,). Exact, as float64 is up to 2^53."""
        batch = np.atleast_2d(np.asarray(widths))
        total = (self._out(batch) * self._in(batch)) @ self._uses
        return np.rint(total).astype(np.int64) + self.fixed_macs

    def params(self, widths: Any) -> NDArray[np.int64]:
        """Parameters of each plan: (plans, groups) -> (plans,)."""
        batch = np.atleast_2d(np.asarray(widths))
        return np.rint((self._dim0(batch) * self._dim1(batch)) @ self._rest).astype(np.int64)

    @property
    def full_macs(self) -> int:
        return int(self.macs(self.full_widths)[0])


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

    full = np.array([group.width for group in graph.groups], dtype=np.int64)
    prices = CostModel(full, 0, np.array(uses, float), outs, ins, np.array(rest, float), dim0, dim1)
    fixed = count_macs(model, shape) - prices.full_macs
    assert fixed >= 0, f"the channel graph counts {-fixed} MACs more than fvcore"
    return CostModel(full, fixed, prices._uses, outs, ins, prices._rest, dim0, dim1)
