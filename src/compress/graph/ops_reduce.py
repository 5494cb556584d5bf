"""Operations over whole dimensions: sums and their kind, extremes, softmax, scans."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from compress.graph.ids import channel_dims
from compress.graph.ops_elementwise import broadcast, unite_along
from compress.graph.values import Operation, stand_in

if TYPE_CHECKING:
    from compress.graph.run import Run

REDUCTIONS = ("mean", "sum", "amax", "amin", "std", "var", "prod", "logsumexp", "nansum", "nanmean", "all", "any")


class Extreme(NamedTuple):
    """The result of `max` or `min` along a dimension, as torch names its fields."""

    values: Tensor
    indices: Tensor


def dims_of(x: Tensor, given: Any) -> list[int]:
    """The dimensions that an operation is given; all of them if none is."""
    if given is None or isinstance(given, bool) or (isinstance(given, tuple | list) and not given):
        return list(range(x.dim()))
    return [int.__index__(dim) % x.dim() for dim in (given if isinstance(given, tuple | list) else [given])]


def _reduced(run: "Run", op: Operation, dims_at: int = 1) -> Any:
    """At least one dimension of channels must be left; where one of several is reduced (branches stacked and
    summed), the channels along it are united."""
    run.freeze_counts((op.args[1:], op.kwargs))
    x: Tensor = op.x
    over = dims_of(x, op.get(dims_at, "dim", "axis"))
    on_channels = set(channel_dims(x))
    if on_channels and on_channels <= set(over):
        return run.unknown(op)
    keep = pytree.tree_leaves(run.probed(op, [2] * x.dim()))[0].dim() == x.dim()
    for dim in sorted(over, reverse=True):
        unite_along(run, x, dim)
        x = x.narrow(dim, 0, 1) if keep else x.select(dim, 0)
    return x


def _norm(run: "Run", op: Operation) -> Any:
    return _reduced(run, op, dims_at=2)


def _extreme(run: "Run", op: Operation) -> Any:
    """`max` and `min`: of two tensors elementwise, or along a dimension that is none of channels."""
    other = op.get(1, "dim", "other", "axis")
    if isinstance(other, Tensor):
        return broadcast(run, op.x, other)
    if other is None or dims_of(op.x, other)[0] in channel_dims(op.x):
        return run.unknown(op)
    values = _reduced(run, op)
    return Extreme(values, stand_in(values.shape, torch.int64))


def _softmax(run: "Run", op: Operation) -> Any:
    """Over branches, pixels or heads. Over the channels themselves each output depends on all: not described."""
    run.freeze_counts((op.args[1:], op.kwargs))
    x, dim = op.x, op.get(1, "dim")
    if dim is None or channel_dims(x) == dims_of(x, dim):
        return run.unknown(op)
    unite_along(run, x, dims_of(x, dim)[0])
    return run.sets.roots(x)


def _within(run: "Run", op: Operation) -> Any:
    """Scans, flips and rolls: along a dimension without channels they leave the channels where they are."""
    run.freeze_counts((op.args[1:], op.kwargs))
    given = op.get(2, "dims") if op.name == "roll" else op.get(1, "dim", "dims")
    if set(dims_of(op.x, given)) & set(channel_dims(op.x)):
        return run.unknown(op)
    return op.x


ON_IDS: Mapping[str, Callable[["Run", Operation], Any]] = {
    **dict.fromkeys(REDUCTIONS, _reduced),
    "norm": _norm,
    "linalg_vector_norm": _norm,
    **dict.fromkeys(("max", "min"), _extreme),
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
    **dict.fromkeys(("cumsum", "cumprod", "flip", "roll"), _within),
}
