"""What a network is called with: images, or tensors in any nesting of tuples, lists and dictionaries."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import InputError

WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call of a network. Of tensors of floating point only the shapes count; whole numbers and
    booleans (tokens, masks) are data."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def with_each(self, function: Callable[[Tensor], Any]) -> "Inputs":
        """The same structure with every tensor replaced."""
        return Inputs(_mapped(self.args, function), _mapped(dict(self.kwargs), function))

    def like(self, example: Tensor) -> "Inputs":
        """Zeros of the dtype and on the device of `example` for what is of floating point; whole numbers as given."""

        def made(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor.to(example.device)
            return torch.zeros(tensor.shape, dtype=example.dtype, device=example.device)

        return self.with_each(made)

    def __str__(self) -> str:
        shapes = ["x".join(map(str, tensor.shape)) or "1" for tensor in tensors_in((self.args, dict(self.kwargs)))]
        return ", ".join(shapes)


Given = Inputs | tuple[int, int, int]  # or the shape (C, H, W) of one image


def as_inputs(given: Given) -> Inputs:
    """One image of this shape, or what is given."""
    return given if isinstance(given, Inputs) else Inputs((torch.zeros(()).expand(1, *given),))


def inputs_of(example: Any) -> Given:
    """A user's example: the shape (C, H, W) of one image; a tensor, a batch of which the first is taken; a tuple, the
    arguments of a call, or a dictionary of its named ones, which are taken as they are.

    Raises:
        InputError: anything else, or nothing that holds a tensor.
    """
    example = _mapped(example, _without_values)
    if isinstance(example, Tensor):
        return _one_of(example)
    if isinstance(example, tuple | list) and example and all(type(size) is int for size in example):
        if len(example) == 3 and min(example) > 0:
            channels, height, width = example
            return channels, height, width
    elif isinstance(example, tuple | dict) and any(True for _ in tensors_in(example)):
        return Inputs(example) if isinstance(example, tuple) else Inputs((), example)
    shown = tuple(example) if isinstance(example, list) else example
    raise InputError(
        "example: must be images (B, C, H, W) or the shape (C, H, W) of one, any other batch of tensors, or the "
        f"arguments of a call, as a tuple or a dict of tensors; got {str(shown)[:100]}"
    )


def _without_values(tensor: Tensor) -> Tensor:
    """Of floating point no more than the shape."""
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) if tensor.is_floating_point() else tensor.clone()


def _one_of(batch: Tensor) -> Given:
    if batch.dim() == 0 or 0 in batch.shape:
        raise InputError(f"example: must be a batch with at least one element; got one of shape {tuple(batch.shape)}")
    if batch.dim() == 4 and batch.is_floating_point():
        _, channels, height, width = batch.shape
        return channels, height, width
    return Inputs((batch[:1],))


def inner(model: Any) -> Any:
    """The network inside of DataParallel, DistributedDataParallel and torch.compile."""
    while (name := WRAPPERS.get(type(model).__name__)) is not None:
        model = getattr(model, name)
    return model


@contextmanager
def unwrapped(model: nn.Module) -> Iterator[None]:
    """Within the block what is compiled or spread over devices in a network runs as it is written, on one."""
    forwards: dict[nn.Module, Any] = {}
    calls: dict[nn.Module, Any] = {}
    for module in model.modules():
        if inner(module) is not module:
            forwards[module] = vars(module).get("forward")
            vars(module)["forward"] = inner(module).__call__
        if module._compiled_call_impl is not None:  # compiled in place
            calls[module], module._compiled_call_impl = module._compiled_call_impl, None
    try:
        yield
    finally:
        for module, forward in forwards.items():
            if forward is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = forward
        for module, compiled in calls.items():
            module._compiled_call_impl = compiled


def call(model: nn.Module, given: Given) -> Any:
    """What a network makes of zeros in the place of these inputs, on its device and in its dtype."""
    inputs = as_inputs(given).like(next(model.parameters(), torch.zeros(())))
    with unwrapped(model):
        return model(*inputs.args, **inputs.kwargs)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, mappings and data classes."""
    return (leaf for leaf in leaves(value) if isinstance(leaf, Tensor))


def leaves(value: Any) -> Iterator[Any]:
    """The values in nested tuples, lists, mappings and data classes."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif hasattr(value, "__dataclass_fields__"):
        yield from leaves(vars(value))
    else:
        yield value


def described(given: Given) -> str:
    """Sizes for messages: "3x32x32 images"."""
    return f"inputs of {given}" if isinstance(given, Inputs) else "x".join(map(str, given)) + " images"


def _mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, function) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(_mapped(item, function) for item in value)
    return {key: _mapped(item, function) for key, item in value.items()} if isinstance(value, dict) else value
