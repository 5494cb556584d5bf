"""Products of activations: matrix products, einsum, attention.

A sum over a dimension of channels is a reader without weights, in which no channel could be masked: it freezes them.
Dimensions that both operands keep (the batch, the heads) are united as in elementwise operations.
"""

import string
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from compress.graph.ids import channel_dims, ids_along
from compress.graph.ops_elementwise import ACROSS, together
from compress.graph.values import Operation, ids_of
from compress.measure.contraction import einsum_macs

if TYPE_CHECKING:
    from compress.graph.run import Run

SUMMED = "is summed over in a product of activations"


def contracted(run: "Run", a: Tensor, b: Tensor, labels: tuple[str, str], out: str) -> Tensor:
    """A product of two activations in the notation of einsum, ("bij", "bjk") to "bik"."""
    aligned, shapes = [], (a.shape, b.shape)
    for x, own in ((a, labels[0]), (b, labels[1])):
        on = {own[dim] for dim in channel_dims(x)}
        if on - set(out):
            run.sets.freeze(x, SUMMED)
        kept = sorted((at for at, label in enumerate(own) if label in out), key=lambda at: out.index(own[at]))
        x = run.sets.roots(x).permute([*kept, *(at for at in range(len(own)) if at not in kept)])
        for _ in range(len(own) - len(kept)):
            x = x.select(-1, 0)
        for at, label in enumerate(out):
            if label not in own:
                x = x.unsqueeze(at)
        aligned.append(x)
    a, b = aligned
    if (on_b := channel_dims(b)) and channel_dims(a) and all(out[dim] not in labels[0] for dim in on_b):
        run.sets.freeze(b, ACROSS)  # one head of keys and values for all heads of queries: these stay free
        b = run.sets.roots(b)
    result = together(run, a, b)
    macs = einsum_macs(f"{labels[0]},{labels[1]}->{out}", shapes) * run.counted
    for dim in channel_dims(result):
        run.found.products.append((ids_along(result, dim), macs // result.shape[dim]))
    return result


def _matmul(run: "Run", op: Operation) -> Any:
    a, b = op.get(0, "input", "mat1"), op.get(1, "other", "mat2")
    if op.function.__name__ == "__rmatmul__":
        a, b = b, a
    return matmul(run, ids_of(a), ids_of(b))


def matmul(run: "Run", a: Tensor, b: Tensor) -> Tensor:
    lead = string.ascii_lowercase[: max(a.dim(), b.dim(), 2) - 2]
    of_a = lead[len(lead) - max(a.dim() - 2, 0) :] + ("xy" if a.dim() > 1 else "y")
    of_b = lead[len(lead) - max(b.dim() - 2, 0) :] + ("yz" if b.dim() > 1 else "y")
    out = lead + ("x" if a.dim() > 1 else "") + ("z" if b.dim() > 1 else "")
    return contracted(run, a, b, (of_a, of_b), out)


def _einsum(run: "Run", op: Operation) -> Any:
    equation, *given = op.args
    operands = given[0] if given and isinstance(given[0], tuple | list) else given
    text = equation.replace(" ", "") if isinstance(equation, str) else "."
    inputs, arrow, out = text.partition("->")
    labels = inputs.split(",")
    plain_labels = all(len(set(one)) == len(one) == x.dim() for one, x in zip(labels, operands, strict=False))
    if "." in text or not arrow or len(labels) != 2 or len(operands) != 2 or not plain_labels:
        return run.unknown(op)
    return contracted(run, ids_of(operands[0]), ids_of(operands[1]), (labels[0], labels[1]), out)


def attention(run: "Run", q: Tensor, k: Tensor, v: Tensor, mask: Any = None) -> Tensor:
    """q (..., n, d), k (..., m, d), v (..., m, e) -> (..., n, e)."""
    scores = matmul(run, q, k.transpose(-2, -1))
    if isinstance(mask, Tensor):
        scores = together(run, scores, ids_of(mask))
    return matmul(run, scores, v)


def _attention(run: "Run", op: Operation) -> Any:
    run.freeze_counts((op.args[3:], op.kwargs))
    q, k, v = (ids_of(op.get(at, name)) for at, name in enumerate(("query", "key", "value")))
    if op.kwargs.get("enable_gqa"):  # several heads of queries have one of keys and of values, and go with it
        k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
    return attention(run, q, k, v, op.get(3, "attn_mask"))


def _addmm(run: "Run", op: Operation) -> Any:
    a, b = op.get(1, "mat1", "batch1"), op.get(2, "mat2", "batch2")
    return together(run, ids_of(op.x), matmul(run, ids_of(a), ids_of(b)))


def _product_with_vectors(run: "Run", op: Operation) -> Any:
    return matmul(run, ids_of(op.x), ids_of(op.get(1, "vec", "tensor", "other")))


ON_IDS: Mapping[str, Callable[["Run", Operation], Any]] = {
    **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
    **dict.fromkeys(("mv", "dot"), _product_with_vectors),
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
}
