"""Elementwise operations, of one operand and of several with broadcasting."""

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compress.graph.ids import channel_dims, unexpanded
from compress.graph.values import Ids, Operation, ids_of, stand_in

if TYPE_CHECKING:
    from compress.graph.run import Run

FIXED = "is combined with something that has a fixed number of channels"
ACROSS = "is combined with channels on another dimension"

ONE_OPERAND = (
    "relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "sigmoid", "tanh", "hardswish", "hardsigmoid",
    "hardtanh", "softplus", "selu", "celu", "logsigmoid", "softsign", "hardshrink", "softshrink", "tanhshrink",
    "threshold", "rrelu", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout",
    "feature_alpha_dropout", "clone", "detach", "contiguous", "clamp", "clamp_min", "clamp_max", "exp", "expm1",
    "log", "log1p", "log2", "abs", "sqrt", "rsqrt", "square", "erf", "sin", "cos", "neg", "pos", "sign",
    "reciprocal", "invert", "logical_not", "bitwise_not", "floor", "ceil", "round", "trunc", "nan_to_num",
    "isnan", "isinf", "isfinite", "ones_like", "zeros_like", "rand_like", "randn_like", "empty_like",
    "full_like", "bernoulli", "uniform", "normal", "zero", "fill", "float", "double", "half", "bfloat16",
    "type", "int", "long", "bool", "short", "byte", "cpu", "cuda", "data", "real", "retain_grad",
    "stochastic_depth", "alias", "positive", "atan", "native_dropout",
)  # fmt: skip
OPERANDS = (
    "add", "sub", "mul", "div", "pow", "float_power", "maximum", "minimum", "fmax", "fmin", "where", "lerp",
    "addcmul", "addcdiv", "gt", "ge", "lt", "le", "eq", "ne", "logical_and", "logical_or", "logical_xor", "and",
    "or", "xor", "masked_fill", "expand_as", "rsub", "floor_divide", "mod", "remainder", "fmod", "atan2",
    "copy", "hypot", "xlogy", "bitwise_and", "bitwise_or",
)  # fmt: skip
CREATIONS = ("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor")


def broadcast(run: "Run", *values: Any) -> Tensor:
    """An elementwise operation of the arguments of an operation. Where one has a single element along a dimension,
    the result has the channels of the others there."""
    run.freeze_counts(values)
    return reduce(partial(together, run), (ids_of(value) for value in values if isinstance(value, Tensor)))


def together(run: "Run", one: Tensor, two: Tensor) -> Tensor:
    """Ids of the result of two operands. Per dimension, by where their channels lie:

    - channels on channels: united, over all of a dimension on which one changes and the other is long;
    - channels on one element: they pass;
    - channels on several elements that are no channels (a literal size): frozen, a cut would not fit them;
    - channels of one across channels of the other on another dimension, (C, 1) with (1, D): both frozen. If one
      is a parameter (a scale per head, an embedding per position), only its axis is: it is not one of channels.
    """
    shape = torch.broadcast_shapes(one.shape, two.shape)
    a, b = (x.view(*[1] * (len(shape) - x.dim()), *x.shape) for x in (one, two))
    dims_a, dims_b = channel_dims(a), channel_dims(b)
    common = set(dims_a) & set(dims_b)
    for x, dims, other, other_dims in ((a, dims_a, b, dims_b), (b, dims_b, a, dims_a)):
        across = [dim for dim in dims if other.shape[dim] > 1 and dim not in other_dims]
        if across and not common:
            run.sets.freeze(x, FIXED)
            dims.clear()
        for dim in across:
            unite_along(run, x, dim)
    if not (dims_a and dims_b):
        return run.sets.roots(a if dims_a else b).expand(shape)
    if common:
        run.sets.union(unexpanded(a), unexpanded(b))
        a, b = unexpanded(run.sets.roots(a)), unexpanded(run.sets.roots(b))
        wider = a if a.numel() >= b.numel() else b
        return wider.expand(shape)
    names = getattr(one, "parameter", ""), getattr(two, "parameter", "")
    if names[1]:
        result, frozen = a, [b]
    elif names[0]:
        result, frozen = b, [a]
    else:
        result, frozen = a, [a, b]
    for x in frozen:
        run.sets.freeze(x, ACROSS)
    return run.sets.roots(result).expand(shape)


def unite_along(run: "Run", x: Tensor, dim: int) -> None:
    """All channels along a dimension live and die together from now on."""
    few = unexpanded(x)
    if few.shape[dim] > 1:
        run.sets.union(few, few.narrow(dim, 0, 1))


def _one_operand(run: "Run", op: Operation) -> Any:
    x = op.x
    rest = (op.args[1:], op.kwargs)
    if not isinstance(x, Ids) or run.has_ids(rest):
        return run.unknown(op)
    run.freeze_counts(rest)
    return x


def _converted(run: "Run", op: Operation) -> Tensor:
    """To the type of another tensor, of which nothing else counts."""
    return op.x if isinstance(op.x, Ids) else stand_in(op.x.shape, op.x.dtype)


def _operands(run: "Run", op: Operation) -> Tensor:
    return broadcast(run, *op.args, *op.kwargs.values())


def _creation(run: "Run", op: Operation) -> Any:
    """A tensor whose size is written: `new_zeros(x.shape)`."""
    run.freeze_counts(op.args)
    kwargs = {key: _without_value(value) for key, value in op.kwargs.items() if key != "device"}
    out = run.meta(op.function, (op.args[0], *map(_without_value, op.args[1:])), kwargs)
    return stand_in(out.shape, out.dtype)


def _without_value(value: Any) -> Any:
    """What a tensor is filled with may be a tensor of one element, whose value tells nothing of sizes."""
    return 0 if isinstance(value, Tensor) and value.dim() == 0 else value


ON_IDS: Mapping[str, Callable[["Run", Operation], Any]] = {
    **dict.fromkeys(ONE_OPERAND, _one_operand),
    **dict.fromkeys(OPERANDS, _operands),
    **dict.fromkeys(CREATIONS, _creation),
    **dict.fromkeys(("to", "type_as"), _converted),
}
