"""Formulas for the multiply-adds of operators, from the shapes in a torch.jit trace of a network.

A formula takes the inputs and outputs of one node of the trace (`torch._C.Value`) and returns an int, as those of
fvcore do. Where fvcore has one too, the two agree, except for products that broadcast, and for einsum, which fvcore
reads off numpy's report with four digits.
"""

from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any

from compress.measure.contraction import einsum_macs

Values = Sequence[Any]  # torch._C.Value
Formula = Callable[[Values, Values], int]


class UnknownError(Exception):
    """The trace lacks a shape or constant that the formula needs, or the work depends on more than shapes."""


def shape(value: Any) -> list[int]:
    """The sizes of a tensor.

    Raises:
        UnknownError: not a tensor, or its sizes are not in the trace.
    """
    if not value.isCompleteTensor():
        raise UnknownError
    return list(value.type().sizes())


def _items(value: Any) -> list[Any]:
    """The values of a list that the trace constructs.

    Raises:
        UnknownError: it is not constructed by the trace.
    """
    node = value.node()
    if node.kind() != "prim::ListConstruct":
        raise UnknownError
    return list(node.inputs())


def _constants(value: Any) -> list[Any]:
    """A list of constants as Python values."""
    held = value.toIValue()
    return [item.toIValue() for item in _items(value)] if held is None else list(held)


def _broadcast(*shapes: Sequence[int]) -> list[int]:
    width = max(map(len, shapes))
    padded = [[1] * (width - len(sizes)) + list(sizes) for sizes in shapes]
    return [max(sizes) if min(sizes) else 0 for sizes in zip(*padded, strict=True)]


def _product(at: int) -> Formula:
    """Matrix products whose left operand is input number `at`: each output element is a sum over its last
    dimension."""

    def formula(inputs: Values, outputs: Values) -> int:
        left = shape(inputs[at])
        return prod(shape(outputs[0])) * (left[-1] if left else 0)  # a scalar only scales: pointwise

    return formula


def _addbmm(inputs: Values, outputs: Values) -> int:
    """(b, n, m) by (b, m, p), summed over b."""
    return prod(shape(inputs[1])) * shape(inputs[2])[-1]


def _outer(inputs: Values, outputs: Values) -> int:
    """An outer product, counted as matmul of (n, 1) by (1, m)."""
    return prod(shape(outputs[0]))


def _dots(inputs: Values, outputs: Values) -> int:
    """Dot products along one dimension of two tensors, after broadcasting."""
    return prod(_broadcast(shape(inputs[0]), shape(inputs[1])))


def _tensordot(inputs: Values, outputs: Values) -> int:
    sizes = (
        [shape(value)[dim] for dim in _constants(dims)] for value, dims in zip(inputs[:2], inputs[2:4], strict=True)
    )
    return prod(shape(outputs[0])) * int(prod(min(pair) for pair in zip(*sizes, strict=True)))


def _chain(inputs: Values, outputs: Values) -> int:
    """A chain of matrices (or vectors at its ends), multiplied in the cheapest order, as torch does."""
    shapes = [shape(value) for value in _items(inputs[0])]
    first = [1, *shapes[0]] if len(shapes[0]) == 1 else shapes[0]  # a vector is one row
    last = [*shapes[-1], 1]  # a vector is one column
    sizes = [first[0], *(sizes[0] for sizes in shapes[1:]), last[1]]

    @cache
    def cheapest(start: int, end: int) -> int:
        """Of matrices `start` to `end`, exclusive."""
        if end - start == 1:
            return 0
        return min(
            cheapest(start, cut) + cheapest(cut, end) + sizes[start] * sizes[cut] * sizes[end]
            for cut in range(start + 1, end)
        )

    macs: int = cheapest(0, len(shapes))
    return macs


def _einsum(inputs: Values, outputs: Values) -> int:
    path = None if _is_none(inputs[2]) else _constants(inputs[2])
    return einsum_macs(inputs[0].toIValue(), [shape(value) for value in _items(inputs[1])], path)


def _is_none(value: Any) -> bool:
    return str(value.type()) == "NoneType"


def _covariance(inputs: Values, outputs: Values) -> int:
    """Of n variables with m observations, (n, m): the product with its own transpose."""
    return prod(shape(outputs[0])) * shape(inputs[0])[-1]


def _weights_per_position(sizes: Sequence[int], inputs: Values) -> int:
    """Every weight (input 1) once per position of `sizes` (B, C, ...); multiplications by padding zeros count too."""
    return sizes[0] * prod(sizes[2:]) * prod(shape(inputs[1]))


def _plain_convolution(inputs: Values, outputs: Values) -> int:
    """A convolution with padding="same" or "valid", or a deformable one: its sampling is resizing, which counts 0,
    and its offsets are computed by another layer."""
    return _weights_per_position(shape(outputs[0]), inputs)


def _convolution(inputs: Values, outputs: Values) -> int:
    """Every weight once per output position; per input position if transposed (input 6)."""
    return _weights_per_position(shape(inputs[0] if inputs[6].toIValue() else outputs[0]), inputs)


def _convolution_in_time(inputs: Values, outputs: Values) -> int:
    """conv_tbc: weight (k, c_in, c_out), outputs (time, batch, c_out)."""
    return prod(shape(outputs[0])[:2]) * prod(shape(inputs[1]))


def _attention(inputs: Values, outputs: Values) -> int:
    """q (..., L, E), k (..., S, E), v (..., S, V): L*S*E for the scores and L*S*V for the weighted sum, masked or
    not.

    Where several heads of q share a head of k and v (`enable_gqa`), every head of q counts.
    """
    q, k, v = (shape(value) for value in inputs[:3])
    return prod(shape(outputs[0])[:-1]) * k[-2] * (q[-1] + v[-1])


def _recurrent(inputs: Values, outputs: Values) -> int:
    """Every weight matrix of every layer and direction, once per time step and sequence; gates are pointwise.

    The first input is (time, batch, features), (batch, time, features) or a packed sequence (steps, features); the
    weights are the last list: per layer and direction (gates * hidden, features), (gates * hidden, hidden or
    projected), and (projected, hidden) where the hidden state is projected.
    """
    steps = prod(shape(inputs[0])[:-1])
    weights = [value for value in inputs if value.node().kind() == "prim::ListConstruct"][-1]
    return steps * sum(prod(sizes) for value in _items(weights) if len(sizes := shape(value)) == 2)


def _bilinear(inputs: Values, outputs: Values) -> int:
    """Every weight (out, in1, in2) once per position; the products of the two inputs are pointwise."""
    return prod(shape(inputs[0])[:-1]) * prod(shape(inputs[2]))


def _affine_grid(inputs: Values, outputs: Values) -> int:
    """Outputs (B, H, W, 2) or (B, D, H, W, 3), each an affine matrix times a position in homogeneous coordinates."""
    out = shape(outputs[0])
    return prod(out) * (out[-1] + 1)


def _norm_without_svd(inputs: Values, outputs: Values) -> int:
    """0 for vector norms and for matrix norms that are sums. Spectral and nuclear norms need a decomposition:
    unknown."""
    order = inputs[1].toIValue()
    dims = len(shape(inputs[0])) if _is_none(inputs[2]) else len(_constants(inputs[2]))
    if order in ("nuc", 2, -2) and dims > 1:
        raise UnknownError
    return 0


MAC_FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot", "inner", "matmul", "linalg_matmul", "linear"), _product(0)),
    **dict.fromkeys(("addmm", "addmv", "baddbmm", "_addmm_activation"), _product(1)),
    **dict.fromkeys(("outer", "ger", "addr", "kron"), _outer),
    **dict.fromkeys(("linalg_vecdot", "cosine_similarity"), _dots),
    **dict.fromkeys(("chain_matmul", "linalg_multi_dot"), _chain),
    **dict.fromkeys(("cov", "corrcoef"), _covariance),
    **dict.fromkeys(("_convolution", "convolution"), _convolution),
    **dict.fromkeys(("_convolution_mode", "torchvision::deform_conv2d"), _plain_convolution),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    "addbmm": _addbmm,
    "tensordot": _tensordot,
    "einsum": _einsum,
    "conv_tbc": _convolution_in_time,
    "scaled_dot_product_attention": _attention,
    "bilinear": _bilinear,
    "affine_grid_generator": _affine_grid,
    "linalg_norm": _norm_without_svd,
    "linalg_matrix_norm": _norm_without_svd,
}
