"""To look at a network and leave it as it was: deep copies, in which chosen tensors may be replaced by others, and
random generators that are put back."""

import copy
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import InputError, first_line


def copy_replacing(model: nn.Module, replaced: Mapping[Tensor, Tensor]) -> nn.Module:
    """A deep copy with these tensors replaced (old -> new); the old ones are not copied.

    Activations that the network has kept from its last forward (a feature map for a loss) are detached and copied:
    torch cannot deep-copy tensors with a gradient history.

    Raises:
        InputError: something in the network cannot be copied.
    """
    memo: dict[int, object] = {id(old): new for old, new in replaced.items()}
    with torch.inference_mode(False):
        for module in model.modules():
            for value in _tensors(vars(module).values()):
                if not value.is_leaf and id(value) not in memo:
                    memo[id(value)] = value.detach().clone()
        try:
            twin = copy.deepcopy(model, memo)
        except Exception as error:
            raise InputError(f"{type(model).__name__} cannot be copied ({first_line(error)})") from error
    if twin is model:
        raise InputError(f"{type(model).__name__} cannot be copied (its __deepcopy__ gives itself)")
    return twin


def _tensors(values: Iterable[object]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, dict) and not isinstance(value, nn.Module):
            yield from _tensors(v for v in value.values() if not isinstance(v, nn.Module))


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """After the block, tensors, attributes, modes and hooks of the model, and the random generators, are as before.
    For what a copy would not do: functions that a network holds refer to its own layers."""
    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    inside = [(held, copy.copy(held)) for _, values in attributes for held in values.values() if _is_container(held)]
    tensors = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    try:
        with random_numbers_kept():
            yield
    finally:
        for now, before in (*attributes, *inside):
            now.clear()
            now.extend(before) if isinstance(now, list) else now.update(before)
        for tensor, before in tensors:
            if not torch.equal(tensor, before):
                tensor.data.copy_(before)


def _is_container(value: object) -> bool:
    return isinstance(value, list | dict | set) and not isinstance(value, nn.Module)


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """What is drawn in the block is not missing afterwards."""
    state, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpys)
