"""The cost of any plan in MACs and parameters, computed without building the cut network.

A convolution's MACs are k*k*H*W * c_in * c_out / groups: bilinear in the widths of the channel groups on its two
axes. One `CostModel` per network gives the cost of a batch of plans by two matrix products, equal to the unit to the
count of the cut network (`compress.measure.macs`, which agrees with fvcore where fvcore counts). A matrix product of
activations costs the same for every head of attention that is left.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from compress.errors import InputError
from compress.graph.plan import Plan, check_plan
from compress.graph.types import Axis, ChannelGraph
from compress.measure.macs import UncountedOperators, count_operators, describe_uncounted
from compress.models.inputs import Given

Widths = NDArray[np.int64]


class _Part(NamedTuple):
    """Of some axes one of the groups that are on them: `per_channel` of an axis' length for every kept channel."""

    axes: Widths  # (m,)
    groups: Widths  # (m,)
    per_channel: NDArray[np.float64]  # (m,)


@dataclass(frozen=True)
class _Sizes:
    """Length of one axis of each of n tensors as a function of the group widths. Most axes have one group on them, so
    there is one part for all of these, one for the second groups, and so on."""

    fixed: NDArray[np.float64]  # (n,)
    parts: tuple[_Part, ...]

    def __call__(self, widths: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
        """(plans, groups) -> (plans, n)."""
        by_group = np.ascontiguousarray(widths.T, dtype=np.float64)
        lengths = np.repeat(self.fixed[:, None], len(widths), 1)
        for part in self.parts:
            lengths[part.axes] += by_group[part.groups] * part.per_channel[:, None]
        return lengths.T


@dataclass(frozen=True)
class CostModel:
    """Cost of plans of one network: of one `Plan`, or of many at once by their widths (plans, groups).

    The columns of widths are in the order of `names`, which is that of the groups in the graph.
    """

    names: tuple[str, ...]
    full_widths: Widths
    fixed_macs: int  # of operations that no plan changes: what is left whole
    _per_channel: NDArray[np.float64]  # (groups,): MACs of products of activations, per kept channel (a head)
    _uses: NDArray[np.float64]  # (layers,): MACs per pair of one output and one input channel
    _out: _Sizes
    _in: _Sizes
    _dims: tuple[_Sizes, ...]  # every dimension of each parameter
    uncounted: UncountedOperators = field(
        default_factory=dict
    )  # operators without a known MAC count, by layer; left out of `macs`

    @overload
    def macs(self, plans: Plan) -> int: ...
    @overload
    def macs(self, plans: ArrayLike) -> NDArray[np.int64]: ...
    def macs(self, plans: Plan | ArrayLike) -> int | NDArray[np.int64]:
        """MACs for one image: of a plan, or (plans, groups) -> (plans,). Exact up to 2^53 (float64)."""
        if isinstance(plans, Plan):
            return int(self.macs(self.widths(plans))[0])
        return np.rint(self.divisible_macs(self._batch(plans))).astype(np.int64)

    def divisible_macs(self, widths: ArrayLike) -> NDArray[np.float64]:
        """MACs for fractional widths: (plans, groups) -> (plans,) float64, not rounded."""
        batch = np.atleast_2d(np.asarray(widths, dtype=np.float64))
        of_layers = (self._out(batch) * self._in(batch)) @ self._uses
        total: NDArray[np.float64] = of_layers + batch @ self._per_channel + self.fixed_macs
        return total

    def layer_inputs(self, plans: ArrayLike) -> NDArray[np.int64]:
        """Input channels of the weight of every layer of the graph: (plans, groups) -> (plans, layers)."""
        return np.rint(self._in(self._batch(plans))).astype(np.int64)

    def layer_outputs(self, plans: ArrayLike) -> NDArray[np.int64]:
        """Length of the output axis of the weight of every layer of the graph: (plans, groups) -> (plans, layers)."""
        return np.rint(self._out(self._batch(plans))).astype(np.int64)

    def layer_macs(self, plans: ArrayLike) -> NDArray[np.int64]:
        """MACs of every layer of the graph, without products of activations: (plans, groups) -> (plans, layers)."""
        batch = self._batch(plans)
        return np.rint(self._out(batch) * self._in(batch) * self._uses).astype(np.int64)

    def entries(self, plans: ArrayLike) -> NDArray[np.int64]:
        """Entries of every parameter, in the order of the network's: (plans, groups) -> (plans, parameters)."""
        return np.rint(self._entries(self._batch(plans))).astype(np.int64)

    def _entries(self, batch: Widths) -> NDArray[np.float64]:
        return reduce(np.multiply, [dim(batch) for dim in self._dims], np.ones((len(batch), 1)))

    @overload
    def params(self, plans: Plan) -> int: ...
    @overload
    def params(self, plans: ArrayLike) -> NDArray[np.int64]: ...
    def params(self, plans: Plan | ArrayLike) -> int | NDArray[np.int64]:
        """Parameters: of a plan, or (plans, groups) -> (plans,)."""
        if isinstance(plans, Plan):
            return int(self.params(self.widths(plans))[0])
        total: NDArray[np.int64] = np.rint(self._entries(self._batch(plans)).sum(1)).astype(np.int64)
        return total

    def widths(self, plan: Plan) -> Widths:
        """Channels kept per group: (groups,).

        Raises:
            ValueError: the plan names a group or a channel that the network does not have.
        """
        full = dict(zip(self.names, self.full_widths.tolist(), strict=True))
        check_plan(plan, full)
        return np.array([len(plan.kept.get(name, range(width))) for name, width in full.items()], dtype=np.int64)

    def _batch(self, widths: ArrayLike) -> Widths:
        batch = np.atleast_2d(np.asarray(widths, dtype=np.int64))
        if batch.shape[1] != len(self.names):
            raise ValueError(f"widths of {batch.shape[1]} groups given; there are {len(self.names)}")
        return batch

    @cached_property
    def full_macs(self) -> int:
        return self.macs(Plan())


def _sizes(graph: ChannelGraph, axes: Sequence[Axis | None], lengths: Sequence[int]) -> _Sizes:
    rows: dict[Axis | None, list[int]] = defaultdict(list)
    for row, axis in enumerate(axes):
        rows[axis].append(row)
    fixed = np.array(lengths, dtype=np.float64)
    seen = [0] * len(axes)  # groups on each axis until now
    parts: list[list[tuple[int, int, int]]] = []
    for column, group in enumerate(graph):
        for axis, places in group.positions.items():
            for row in rows.get(axis, ()):
                each = places.shape[1]
                fixed[row] -= each * group.width
                if seen[row] == len(parts):
                    parts.append([])
                parts[seen[row]].append((row, column, each))
                seen[row] += 1
    columns = (np.array(part, dtype=np.int64).T for part in parts)
    return _Sizes(fixed, tuple(_Part(on, group, each.astype(np.float64)) for on, group, each in columns))


def cost_model(model: nn.Module, graph: ChannelGraph, given: Given) -> CostModel:
    """The cost model of `model` for images of a shape (C, H, W), or other inputs.

    Raises:
        InputError: the layers alone cost more than was counted when the network ran.
    """
    parameters = dict(model.named_parameters())
    layers = graph.layers
    weights = [parameters[layer.out_axis.tensor].shape for layer in layers]
    outputs = [weight[layer.out_axis.dim] for layer, weight in zip(layers, weights, strict=True)]
    inputs = [weight[layer.in_dim] for layer, weight in zip(layers, weights, strict=True)]
    outs = _sizes(graph, [layer.out_axis for layer in layers], outputs)
    ins = _sizes(graph, [layer.in_axis for layer in layers], inputs)
    uses = [layer.macs_per_weight * weight[2:].numel() for layer, weight in zip(layers, weights, strict=True)]

    most = max((tensor.dim() for tensor in parameters.values()), default=0)
    lengths = [[*tensor.shape, *[1] * (most - tensor.dim())] for tensor in parameters.values()]
    dims = [
        _sizes(graph, [Axis(name, dim) for name in parameters], [row[dim] for row in lengths]) for dim in range(most)
    ]

    names = tuple(group.name for group in graph.groups)
    full = np.array([group.width for group in graph.groups], dtype=np.int64)
    products = np.array([graph.product_macs.get(name, 0) for name in names], dtype=np.float64)
    costs = CostModel(names, full, 0, products, np.array(uses, float), outs, ins, tuple(dims))
    operators = count_operators(model, given)
    fixed = operators.total - costs.full_macs
    if fixed < 0:
        why = f"; {describe_uncounted(operators.uncounted)}" if operators.uncounted else ""
        raise InputError(
            f"{type(model).__name__}: its layers have {costs.full_macs:,} MACs, {-fixed:,} more than are counted "
            f"when it runs{why}"
        )
    return replace(costs, fixed_macs=fixed, uncounted=operators.uncounted)
