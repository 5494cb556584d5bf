"""What a run on channel ids hands from call to call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class Ids(Tensor):
    """An activation whose elements are the ids of their channels: int64, of the activation's shape."""

    at: int = -1  # the place on the tape of the call that wrote it
    stands_for: torch.dtype | None = None  # None: the network's own
    guards: Tensor | None = (
        None  # ids that whatever uses the activation freezes: weights of attention, over all heads
    )
    parameter: str = ""  # the name, where it is a parameter or buffer used by itself


@dataclass(frozen=True)
class Operation:
    """A function or method that the network called."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def get(self, at: int, *names: str, default: Any = None) -> Any:
        """An argument by its place or one of its names."""
        if len(self.args) > at:
            return self.args[at]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    @property
    def x(self) -> Any:
        return self.get(0, "input", "self")


def stand_in(shape: Any, dtype: torch.dtype | None = None) -> Ids:
    """An activation of this shape with frozen channels. `dtype` is that of the real one, None for the network's."""
    ids = torch.zeros((), dtype=torch.int64).expand(tuple(shape)).as_subclass(Ids)
    ids.stands_for = dtype
    return ids


_SAME = {
    "truediv": "div", "true_divide": "div", "divide": "div", "subtract": "sub", "multiply": "mul", "concat": "cat",
    "concatenate": "cat", "swapaxes": "transpose", "swapdims": "transpose", "absolute": "abs", "negative": "neg",
    "clip": "clamp", "moveaxis": "movedim", "greater": "gt", "less": "lt", "floordiv": "floor_divide",
    "greater_equal": "ge", "less_equal": "le", "not_equal": "ne", "unsafe_chunk": "chunk", "unsafe_split": "split",
    "split_with_sizes": "split", "fix": "trunc", "arctan": "atan", "_softmax": "softmax", "ndimension": "dim",
    "ndim": "dim", "nelement": "numel", "reshape_as": "view_as", "max_pool2d_with_indices": "max_pool2d",
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d", "special_expit": "sigmoid", "expit": "sigmoid",
}  # fmt: skip


def ids_of(argument: Tensor) -> Tensor:
    """The ids of an argument of an operation. Anything but an activation has as many elements as ever."""
    if isinstance(argument, Ids):
        return argument
    return stand_in(argument.shape, None if argument.is_floating_point() else argument.dtype)


# Methods of which `__name__` is one that asks for a value, and `name` another operation or none
BY_VALUE = {"bool", "int", "float", "index", "complex", "contains", "array"}
_REFLECTED = {"add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "div"}


def operation_name(function: Any) -> tuple[str, bool]:
    """One name for all ways to write an operation (`a += b`, `b.__radd__(a)`, `torch.add`, `a.add_`); and whether it
    writes into its first argument."""
    name: str = getattr(function, "__name__", str(function))
    if name in ("__get__", "__set__"):  # an attribute of a tensor
        name, set_it = function.__self__.__name__, name == "__set__"
        return ("__set__" if set_it else _SAME.get(name, name)), set_it
    in_place = name == "__setitem__"
    if name.startswith("__") and name[2:-2] not in BY_VALUE:
        name = name[2:-2]
        if name[0] in "ir" and name[1:] in _REFLECTED:
            in_place, name = name[0] == "i", name[1:]
    elif name.endswith("_") and not name.startswith("__"):
        in_place, name = True, name.rstrip("_")
    return _SAME.get(name, name), in_place
