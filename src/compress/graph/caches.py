"""Tensors that a forward keeps in plain attributes, outside of parameters and buffers: caches.

A table that is made once, of weights that a cut makes narrow, would be a constant to a run on channel ids and too
wide in a cut network. Emptied it is made anew. That an attribute is such a cache is found by emptying it in a copy:
the forward then fills it with what it held before. What is not filled again, or makes the forward fail, is no cache.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.graph.twin import is_leaf
from compress.graph.values import Ids

Held = dict[str, Any]  # by attribute, such as "blocks.0.bias_cache": a tensor, or a container with some
INTERNAL = ("_parameters", "_buffers", "_modules")


def held(model: nn.Module) -> Held:
    """The attributes that hold tensors which are neither parameters nor buffers, as they are now."""
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    return {
        f"{name}.{key}" if name else key: _copied(value)
        for name, module in model.named_modules()
        if not is_leaf(module)
        for key, value in vars(module).items()
        if key not in INTERNAL and any(id(tensor) not in own for tensor in _tensors(value))
    }


def empty(model: nn.Module, caches: Mapping[str, bool]) -> None:
    """Take the tensors out of these attributes; whether an attribute is there at all before it is filled."""
    for name, is_there in caches.items():
        owner, _, key = name.rpartition(".")
        attributes = vars(model.get_submodule(owner))
        if key not in attributes:
            continue
        if is_there:
            attributes[key] = _emptied(attributes[key])
        else:
            del attributes[key]


def filled(before: Held, after: Held) -> list[str]:
    """The attributes that hold other tensors than before."""
    return [name for name, value in after.items() if name not in before or not _same(before[name], value)]


def are_alike(before: Any, after: Any) -> bool:
    """Whether a cache holds again what it held: tensors of equal shapes, and equal values where they have any. Of
    dictionaries, which may be by the size of images or by device, what both hold counts."""
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return before.shape == after.shape and (isinstance(after, Ids) or torch.equal(before, after))
    if isinstance(before, dict) and isinstance(after, dict):
        return all(are_alike(value, after[key]) for key, value in before.items() if key in after)
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        return len(before) == len(after) and all(map(are_alike, before, after))
    return type(before) is type(after)


def _copied(value: Any) -> Any:
    """The containers copied, the tensors the same objects."""
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def _same(before: Any, after: Any) -> bool:
    return [id(tensor) for tensor in _tensors(before)] == [id(tensor) for tensor in _tensors(after)]


def _emptied(value: Any) -> Any:
    if type(value) is dict:
        return {key: item for key, item in value.items() if not any(True for _ in _tensors(item))}
    return [] if type(value) is list else None if any(True for _ in _tensors(value)) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif type(value) in (list, tuple):
        for item in value:
            yield from _tensors(item)
    elif type(value) is dict:
        yield from _tensors(list(value.values()))
