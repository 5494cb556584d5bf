"""A graph without a card: the operations of a step, written down once and done again on the same tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compress.train.graphs import WARM_UPS, Action, CannotRecordError

aten = torch.ops.aten
# On a GPU each of these waits for the device: it needs a value, or the number of values, on the host, or copies from
# there.
WAITING = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.is_nonzero, aten.equal, aten.lift_fresh,
    aten._unique2, aten.unique_consecutive, aten.unique_dim, aten.bincount, aten.histc,
}  # fmt: skip


def waits(func: Any, args: Sequence[Any]) -> bool:
    """Whether an operation would wait for a GPU: also one that is indexed with booleans."""
    packet = getattr(func, "overloadpacket", func)
    by_bool = packet in (aten.index, aten.index_put, aten.index_put_) and any(
        isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
    )
    counted = packet is aten.repeat_interleave and len(args) < 3 and isinstance(args[0], Tensor)
    return packet in WAITING or by_bool or counted


class HostReads(TorchDispatchMode):
    """Counts what would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if waits(func, args):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if waits(func, args):
            raise CannotRecordError(f"{func} waits for the device")
        answer = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, answer))
        return answer

    @torch.no_grad()
    def again(self) -> None:
        for func, args, kwargs, answer in self.done:
            new = func(*args, **kwargs)
            returns = func._schema.returns
            if any(one.alias_info is not None for one in returns):
                continue  # a view of, or in place on, a tensor that has its place
            for place, value in zip(tree_leaves(answer), tree_leaves(new), strict=True):
                if isinstance(place, Tensor):
                    place.copy_(value)


class Tapes:
    """A `Recorder` on the CPU. Python in a step runs when it is recorded, and not when it is replayed."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, action: Action) -> Action:
        for _ in range(WARM_UPS):
            action()
        tape = _Tape()
        with tape:
            action()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            tape.again()

        return replay


def refuses(action: Action) -> Action:
    """A `Recorder` that cannot, after some steps."""
    action()
    raise CannotRecordError("for a reason")


Recording = Callable[[Action], Action]
