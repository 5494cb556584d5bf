"""Operations that move elements: reshapes, slices, splits, concatenations, permutations.

Channels stay regular: where an activation changes along two dimensions, the channels along one of them are united, so
that after any cut it is a box again. A size that is written in the code would be stale after a cut, so it freezes the
channels that it measures; a `Count` of the same channels follows the cut.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compress.graph.counts import Count, flat, plain
from compress.graph.ids import channel_dims, extents, ids_along, unexpanded
from compress.graph.ops_elementwise import together, unite_along
from compress.graph.ops_reduce import dims_of
from compress.graph.ops_sizes import sizes as sizes_of
from compress.graph.values import Ids, Operation, ids_of

if TYPE_CHECKING:
    from compress.graph.run import Run

KEEP = -1  # a size that is whatever is left
WRITTEN = "has a size that is written in the code ({!r}), and a cut would make it wrong"


# -- reshapes ---------------------------------------------------------------------------------------------------


def _view(run: "Run", op: Operation) -> Any:
    sizes = flat(op.args[1:]) or flat(op.kwargs.values())
    if sizes and isinstance(sizes[0], torch.dtype):
        return run.unknown(op)
    return reshaped(run, op.x, sizes, op.name)


def _view_as(run: "Run", op: Operation) -> Any:
    other = op.get(1, "other")
    return reshaped(run, op.x, sizes_of(run, other), op.name)


def _flatten(run: "Run", op: Operation) -> Any:
    run.freeze_counts((op.args[1:], op.kwargs))
    x = op.x
    first, last = op.get(1, "start_dim", default=0) % x.dim(), op.get(2, "end_dim", default=-1) % x.dim()
    return _refilled(run, x, x.shape[:first], [KEEP], x.shape[last + 1 :])


def _unflatten(run: "Run", op: Operation) -> Any:
    x, dim = op.x, dims_of(op.x, op.get(1, "dim"))[0]
    return _refilled(run, x, x.shape[:dim], flat([op.get(2, "sizes", "unflattened_size")]), x.shape[dim + 1 :])


def _refilled(run: "Run", x: Tensor, before: Sequence[int], sizes: list[Any], after: Sequence[int]) -> Tensor:
    """Reshape some dimensions; those before and after keep their sizes."""
    shape = [*before, *plain(sizes), *after]
    written = [*[KEEP] * len(before), *sizes, *[KEEP] * len(after)]
    return reshaped(run, x, written, "reshape", tuple(x.reshape(shape).shape))


def reshaped(run: "Run", x: Tensor, sizes: Sequence[Any], name: str, out: tuple[int, ...] | None = None) -> Tensor:
    """Reshape to `sizes`. Each dimension of channels must stay whole or be merged into one, whose size is -1 or their
    number; or be split, and then into one part that is -1 or a `Count` (the unit, such as heads) and others over
    which the channels are united."""
    out = tuple(x.reshape(plain(list(sizes))).shape) if out is None else out
    if any(_crosses(x.shape, dim, out) for dim in channel_dims(x)) and (parts := _common(x.shape, out)):
        x = reshaped(run, x, _sizes_of(parts, x.shape, out, sizes), name, parts)
    followed: list[Any] = []
    for dim in channel_dims(x):
        low, high = extents(x.shape)[dim]
        inside = [at for at, (start, end) in enumerate(extents(out)) if low <= start and end <= high and out[at] > 1]
        home = [at for at, (start, end) in enumerate(extents(out)) if start <= low and high <= end]
        if home:
            fits = _merged(run, x, dim, sizes[home[0]], out, home[0])
            followed.append(sizes[home[0]])
        elif torch.Size(out[at] for at in inside).numel() == x.shape[dim]:
            fits = _split(run, x, dim, {at: sizes[at] for at in inside}, out, followed)
        else:
            fits = False
        if not fits:
            run.sets.freeze(x, WRITTEN.format(name))
    run.freeze_counts([size for size in sizes if not any(size is one for one in followed)])
    return run.sets.roots(x).reshape(out)


def _crosses(shape: torch.Size, dim: int, out: tuple[int, ...]) -> bool:
    """Whether a dimension is neither a part of one of the result nor made of whole ones."""
    low, high = extents(shape)[dim]
    return any(low < start < high < end or start < low < end < high for start, end in extents(out))


def _common(shape: torch.Size, out: tuple[int, ...]) -> tuple[int, ...]:
    """The fewest sizes of which both shapes are made by merging neighbours, (6, 4) and (2, 12): (2, 3, 4). Empty if
    there are none."""
    ends = sorted({1, *(end for sizes in (shape, out) for _, end in extents(sizes))})
    if any(high % low for low, high in pairwise(ends)):
        return ()
    return tuple(high // low for low, high in pairwise(ends))[::-1]


def _sizes_of(parts: tuple[int, ...], shape: torch.Size, out: tuple[int, ...], sizes: Sequence[Any]) -> list[Any]:
    """What is known of the sizes of these parts: those of a dimension that stays, or of one that is asked for."""
    asked = dict(zip(extents(out), sizes, strict=True))
    return [
        KEEP if places in extents(shape) else asked.get(places, size)
        for places, size in zip(extents(parts), parts, strict=True)
    ]


def _merged(run: "Run", x: Tensor, dim: int, size: Any, out: tuple[int, ...], at: int) -> bool:
    """A dimension of channels becomes one, or a part of one, of this size."""
    if not isinstance(size, Count):
        return bool(plain(size) == KEEP)
    if run.sets.is_frozen(size.ids):
        return False
    if size.factor > 1 and len(size.ids) == x.shape[dim]:  # these channels times a number
        return Count.of(run.sets, size.ids).counts(ids_along(x, dim))
    return size.counts(ids_along(run.sets.roots(x).reshape(out), at))


def _split(run: "Run", x: Tensor, dim: int, sizes: dict[int, Any], out: tuple[int, ...], followed: list[Any]) -> bool:
    """A dimension of channels becomes several. The first part that can follow a cut is the unit: the channels are
    united over all others."""
    for at, size in sizes.items():
        is_count = isinstance(size, Count) and size.factor == 1 and not run.sets.is_frozen(size.ids)
        if not is_count and not (type(size) is int and size == KEEP):
            continue
        parts = unexpanded(x).movedim(dim, -1)
        parts = parts.reshape(*parts.shape[:-1], *(out[part] for part in sizes))
        for place, part in enumerate(sizes, parts.dim() - len(sizes)):
            if part != at:
                unite_along(run, parts, place)
                parts = run.sets.roots(parts)
        if is_count:
            size.counts(ids_along(parts, parts.dim() - len(sizes) + list(sizes).index(at)))
            followed.append(size)
        return True
    return False


def _expand(run: "Run", op: Operation) -> Any:
    """A dimension of channels may be expanded to its own size only; one of a single element also to a `Count`, and
    then has these channels."""
    x, sizes = op.x, flat(op.args[1:]) or flat(op.kwargs.values())
    on_channels, shift = channel_dims(x), len(sizes) - x.dim()
    result = x.view(*[1] * shift, *x.shape)
    for dim, size in enumerate(sizes):
        if dim - shift in on_channels:
            fits = size.counts(ids_along(result, dim)) if isinstance(size, Count) else size == KEEP
            if not fits:
                run.freeze(x, WRITTEN.format(op.name))
                run.freeze_counts([size])
        elif isinstance(size, Count):
            if size.factor == 1 and result.shape[dim] == 1 and not on_channels:
                result = size.ids.view([-1 if d == dim else 1 for d in range(len(sizes))])
            else:
                size.freeze()
    return run.sets.roots(result).expand(plain(sizes))


def _repeat(run: "Run", op: Operation) -> Any:
    """Repeated channels are the same channels: one that is cut is cut everywhere."""
    counts = flat(op.args[1:]) or flat(op.kwargs.values())
    run.freeze_counts(counts)
    before = [1] * (op.x.dim() - len(counts))  # of `tile`, which may name the last dimensions alone
    return unexpanded(op.x).expand(op.x.shape).repeat([*before, *plain(counts)])


def _repeat_interleave(run: "Run", op: Operation) -> Any:
    """As `_repeat`, each beside itself. Without a dimension, or by several numbers: not described."""
    x, repeats, dim = op.x, op.get(1, "repeats"), op.get(2, "dim")
    if dim is None or not isinstance(repeats, int):
        return run.unknown(op)
    run.freeze_counts([repeats, dim])
    at = dims_of(x, dim)[0]
    if at not in channel_dims(x):
        return x.narrow(at, 0, 1).expand([n * plain(repeats) if d == at else n for d, n in enumerate(x.shape)])
    few = unexpanded(x).repeat_interleave(plain(repeats), at)
    return few.expand([few.shape[at] if d == at else n for d, n in enumerate(x.shape)])


# -- slices and parts -------------------------------------------------------------------------------------------


def getitem(run: "Run", x: Any, index: Any) -> Any:
    """Slices. Along channels a bound must be a `Count`, or take all; a written one would be stale after a cut."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if not isinstance(x, Ids) or any(isinstance(part, Ids) for part in parts):
        return None
    named = sum(_consumed(part) for part in parts)
    dim = 0
    for part in parts:
        if part is Ellipsis:
            dim += x.dim() - named
        elif isinstance(part, slice):
            _sliced(run, x, dim, part)
            dim += 1
        elif isinstance(part, int) and not isinstance(part, bool):
            if isinstance(part, Count):
                part.freeze()
            if dim in channel_dims(x):
                run.sets.freeze(x, WRITTEN.format("getitem"))
            dim += 1
        elif isinstance(part, Tensor | list) and not (isinstance(part, Tensor) and part.dtype == torch.bool):
            unite_along(run, x, dim)
            dim += 1
        elif part is not None:
            return None
    return run.sets.roots(x)[plain(index)]


def _consumed(part: Any) -> bool:
    return part is not None and part is not Ellipsis


def _sliced(run: "Run", x: Tensor, dim: int, part: slice) -> None:
    on_channels = dim in channel_dims(x)
    run.freeze_counts([part.step])
    follows = plain(part.step) in (None, 1)
    for bound, is_start in ((part.start, True), (part.stop, False)):
        may_follow = on_channels and isinstance(bound, Count) and not run.sets.is_frozen(bound.ids)
        if not (may_follow and bound.counts(ids_along(x, dim)[: plain(bound)])):
            run.freeze_counts([bound])
            takes_all = bound is None or (plain(bound) == 0 if is_start else plain(bound) >= x.shape[dim])
            follows = follows and takes_all
    if on_channels and not follows:
        run.sets.freeze(x, WRITTEN.format("getitem"))


def _getitem(run: "Run", op: Operation) -> Any:
    found = getitem(run, op.x, op.args[1])
    return run.unknown(op) if found is None else found


def _setitem(run: "Run", op: Operation) -> Any:
    """What is written meets what stood there."""
    x, index, value = ids_of(op.args[0]), *op.args[1:]
    part = getitem(run, x, index)
    if part is None:
        run.freeze((x, index, value), "is written in places that the channel graph does not know")
    elif isinstance(value, Tensor):
        together(run, part, ids_of(value))
    run.freeze_counts([value])
    return run.sets.roots(x)


def _narrow(run: "Run", op: Operation) -> Any:
    start, length = op.get(2, "start"), op.get(3, "length")
    if isinstance(start, Count) or isinstance(length, Count):
        end: Any = length if type(start) is int and start == 0 else start + length
    else:
        end = start + length
    dim = dims_of(op.x, op.get(1, "dim"))[0]
    return getitem(run, op.x, (*[slice(None)] * dim, slice(start, end)))


def _select(run: "Run", op: Operation) -> Any:
    dim = dims_of(op.x, op.get(1, "dim"))[0]
    return getitem(run, op.x, (*[slice(None)] * dim, op.get(2, "index")))


def _index_select(run: "Run", op: Operation) -> Any:
    dim, index = dims_of(op.x, op.get(1, "dim"))[0], op.get(2, "index")
    if not isinstance(op.x, Ids) or isinstance(index, Ids):
        return run.unknown(op)
    unite_along(run, op.x, dim)
    return run.sets.roots(op.x).index_select(dim, index)


def _unbind(run: "Run", op: Operation) -> Any:
    """As many results as there are: along channels that is a written number."""
    dim = dims_of(op.x, op.get(1, "dim", default=0))[0]
    if dim in channel_dims(op.x):
        run.sets.freeze(op.x, WRITTEN.format(op.name))
    return run.sets.roots(op.x).unbind(dim)


def _iter(run: "Run", op: Operation) -> Any:
    return list(_unbind(run, Operation("unbind", torch.unbind, op.args, {})))


def _chunk(run: "Run", op: Operation) -> Any:
    """Into equal parts, which couples them: channel i of every part."""
    run.freeze_counts((op.args[1:], op.kwargs))
    dim = dims_of(op.x, op.get(2, "dim", "axis", default=0))[0]
    parts = op.x.chunk(plain(op.get(1, "chunks")), dim)
    return _equal_parts(run, op, parts, dim)


def _equal_parts(run: "Run", op: Operation, parts: Sequence[Tensor], dim: int) -> Any:
    if dim in channel_dims(op.x):
        if len({part.shape for part in parts}) > 1:
            run.sets.freeze(op.x, WRITTEN.format(op.name))
        for part in parts[1:]:
            if part.shape == parts[0].shape:  # all parts must keep equally many channels
                run.sets.union(unexpanded(parts[0]), unexpanded(part))
    return tuple(run.sets.roots(part) for part in parts)


def _split_up(run: "Run", op: Operation) -> Any:
    """Parts whose sizes are `Count`s follow a cut; a written size freezes the part."""
    x, sizes = op.x, op.get(1, "split_size", "split_size_or_sections", "split_sizes")
    dim = dims_of(x, op.get(2, "dim", "axis", default=0))[0]
    parts = x.split(plain(sizes), dim)
    if dim not in channel_dims(x):
        run.freeze_counts(sizes)
        return parts
    several = isinstance(sizes, tuple | list)
    for part, size in zip(parts, sizes if several else [sizes] * len(parts), strict=True):
        counted = isinstance(size, Count) and not run.sets.is_frozen(size.ids)
        if not (counted and size.counts(ids_along(part, dim))):
            run.freeze([size], WRITTEN.format(op.name))
            run.sets.freeze(part, WRITTEN.format(op.name))
    return tuple(run.sets.roots(part) for part in parts) if several else _equal_parts(run, op, parts, dim)


# -- concatenations and permutations ----------------------------------------------------------------------------


def _cat(run: "Run", op: Operation) -> Any:
    given = [part for part in op.get(0, "tensors") if part.dim() != 1 or len(part)]
    dim = dims_of(given[0], op.get(1, "dim", "axis", default=0))[0]
    return _joined(run, [ids_of(part) for part in given], dim)


def _stack(run: "Run", op: Operation) -> Any:
    given = op.get(0, "tensors")
    dim = int.__index__(op.get(1, "dim", default=0)) % (given[0].dim() + 1)
    return _joined(run, [ids_of(part).unsqueeze(dim) for part in given], dim)


def _joined(run: "Run", parts: Sequence[Tensor], dim: int) -> Tensor:
    """All parts have the same channels on every other dimension, if they have any there."""
    on = [set(channel_dims(part)) - {dim} for part in parts]
    for other in sorted(set().union(*on)):
        if all(other in dims for dims in on):
            ids = ids_along(parts[0], other)
            ids = ids.view([-1 if at == other else 1 for at in range(parts[0].dim())])
            for part in parts:
                run.sets.union(unexpanded(part), ids)
        else:
            for part in parts:
                run.sets.freeze(part, "is joined with something that has a fixed number of channels")
    few = [run.sets.roots(part) for part in parts]
    for other in set(range(parts[0].dim())) - {dim}:  # to join few elements
        if all(unexpanded(part).shape[other] == 1 for part in few):
            few = [part.narrow(other, 0, 1) for part in few]
    shape = [-1 if at == dim else size for at, size in enumerate(parts[0].shape)]
    return torch.cat(few, dim).expand(shape)


def _moved(run: "Run", op: Operation) -> Any:
    run.freeze_counts((op.args[1:], op.kwargs))
    args, kwargs = plain(op.args), plain(op.kwargs)
    return op.function(*args, **kwargs)


def _squeeze(run: "Run", op: Operation) -> Any:
    """A single channel would vanish."""
    if set(channel_dims(op.x)) & set(dims_of(op.x, op.get(1, "dim", "axis"))):
        return run.unknown(op)
    return _moved(run, op)


ON_IDS: Mapping[str, Callable[["Run", Operation], Any]] = {
    **dict.fromkeys(("view", "reshape"), _view),
    "view_as": _view_as,
    **dict.fromkeys(("flatten", "ravel"), _flatten),
    "unflatten": _unflatten,
    "expand": _expand,
    "repeat": _repeat,
    "tile": _repeat,
    "repeat_interleave": _repeat_interleave,
    "getitem": _getitem,
    "setitem": _setitem,
    "narrow": _narrow,
    "select": _select,
    "index_select": _index_select,
    "unbind": _unbind,
    "iter": _iter,
    "chunk": _chunk,
    "split": _split_up,
    "cat": _cat,
    "stack": _stack,
    **dict.fromkeys(("permute", "transpose", "unsqueeze", "movedim", "t", "T", "mT", "adjoint"), _moved),
    "squeeze": _squeeze,
}
