"""Sizes and other attributes of a tensor."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from compress.graph.counts import Count
from compress.graph.ids import channel_dims, ids_along
from compress.graph.twin import is_channels
from compress.graph.values import Ids, Operation

if TYPE_CHECKING:
    from compress.graph.run import Run

SIZES = frozenset({"shape", "size", "numel", "len"})


def sizes(run: "Run", x: torch.Tensor) -> tuple[int, ...]:
    """The shape of an activation or of one of the network's own tensors; sizes of dimensions that channels lie on,
    or may lie on, are `Count`s."""
    name = run.own(x)
    if name is not None and is_channels(x):
        return tuple(
            Count.later(run.sets, partial(run.found.size, name, d, n), n) if n > 1 else n
            for d, n in enumerate(x.shape)
        )
    on_channels = channel_dims(x) if isinstance(x, Ids) else []
    return tuple(Count.of(run.sets, ids_along(x, d)) if d in on_channels else n for d, n in enumerate(x.shape))


def _shape(run: "Run", op: Operation) -> torch.Size:
    return torch.Size(sizes(run, op.x))


def _size(run: "Run", op: Operation) -> Any:
    dim = op.get(1, "dim")
    return torch.Size(sizes(run, op.x)) if dim is None else sizes(run, op.x)[dim]


def _numel(run: "Run", op: Operation) -> int:
    total: int = 1
    for size in sizes(run, op.x):
        total = total * size
    return total


def _len(run: "Run", op: Operation) -> int:
    """Python makes a plain int of it, whatever is returned."""
    first = sizes(run, op.x)[0]
    return first.freeze() if isinstance(first, Count) else first


def _dtype(run: "Run", op: Operation) -> torch.dtype:
    x = op.x
    result: torch.dtype = (x.stands_for or run.found.dtype) if isinstance(x, Ids) else x.dtype
    return result


def _requires_grad(run: "Run", op: Operation) -> Any:
    return op.x if op.function.__name__.endswith("_") else False  # the method, the attribute


def _as_it_is(run: "Run", op: Operation) -> Any:
    return op.function(*op.args, **op.kwargs)


ATTRIBUTES: Mapping[str, Callable[["Run", Operation], Any]] = {
    "shape": _shape,
    "size": _size,
    "numel": _numel,
    "len": _len,
    "dtype": _dtype,
    "requires_grad": _requires_grad,
    "device": lambda run, op: torch.device("cpu"),
    "is_floating_point": lambda run, op: _dtype(run, op).is_floating_point,
    "is_contiguous": lambda run, op: True,
    "is_meta": lambda run, op: False,
    "is_cpu": lambda run, op: True,
    **dict.fromkeys(
        ("dim", "is_cuda", "grad", "grad_fn", "layout", "is_sparse", "is_quantized", "is_nested", "is_mps", "is_xpu",
         "is_mkldnn", "itemsize", "is_leaf", "_base", "_version", "is_complex", "get_device", "element_size", "hash",
         "repr", "format", "stride", "storage_offset", "has_names", "names", "is_inference", "is_same_size", "dir",
         "data_ptr", "is_mtia", "is_hpu", "is_vulkan", "is_ipu", "is_xla"),
        _as_it_is,
    ),
}  # fmt: skip
