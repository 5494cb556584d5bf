"""Weight masks: which weights of a layer stay zero while the others train.

A mask is a buffer of the layer that it masks, so that it is saved, loaded, copied, moved and averaged with it. It is
not derived from `w != 0`: a kept weight may be exactly zero, and would never train again (users met that:
Eric-mingjie/rethinking-network-pruning#13). It is laid on after every optimizer step: masking the gradient alone lets
a pruned weight come back, moved by the momentum of earlier steps.
"""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import InputError

MASK = "weight_mask"


def set_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Mask layers by name, in place of the masks they had; True is kept, the other weights become zero now.

    Raises:
        InputError: a name is not a layer that can be masked, or a mask has another shape than the weight.
    """
    for name, mask in masks.items():
        weight = masked_weight(model, name)
        if mask.shape != weight.shape:
            raise InputError(f"{name}: a mask of shape {tuple(mask.shape)} for a weight of {tuple(weight.shape)}")
        own = mask.to(weight.device, torch.bool, copy=True)  # two networks must not share one
        model.get_submodule(name).register_buffer(MASK, own)
    apply_masks(model)


def masked_weight(model: nn.Module, name: str) -> nn.Parameter:
    """The weight of a layer that can be masked.

    Raises:
        InputError: no Conv2d or Linear has that name, or its weight is computed from other parameters.
    """
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        raise InputError(f"{name}: the network has no layer of that name to mask") from None
    weight = layer._parameters.get("weight") if isinstance(layer, nn.Conv2d | nn.Linear) else None
    if weight is None:
        raise InputError(f"{name}: is a {type(layer).__name__}; only the weights of Conv2d and Linear can be masked")
    return weight


def is_masked(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Linear) and layer._buffers.get(MASK) is not None


def masked_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that have a mask, by name, in the order of the modules."""
    return {name: layer for name, layer in model.named_modules() if is_masked(layer)}


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks by the names of their layers; `set_masks(averaged, masks_of(model))` gives them to an average of it.

    An average that takes buffers too would mix the masks of all steps (and torch's default one cannot average bool).
    """
    return {name: layer.get_buffer(MASK) for name, layer in masked_layers(model).items()}


@torch.no_grad()
def apply_masks(model: nn.Module) -> None:
    """Zero the masked weights, in place; for after every optimizer step and every update of averaged weights."""
    for layer in model.modules():
        if is_masked(layer):
            # A product is five times as fast as masked_fill_; adding 0 makes its -0.0 to 0.0, which compresses.
            layer.get_parameter("weight").mul_(layer.get_buffer(MASK)).add_(0)


def mask_name(layer: str) -> str:
    """What the mask of a layer is called in a state dict; a network may be one layer, which has no name."""
    return f"{layer}.{MASK}" if layer else MASK


def packed(mask: Tensor) -> Tensor:
    """Eight to a byte, the first in the highest bit: bool of any shape, n numbers -> uint8 (ceil(n / 8),).

    A byte per weight would add a quarter to float32 weights on disk; a bit adds 3 %.
    """
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy()))


def unpacked(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """What `packed` was given: uint8 (ceil(n / 8),) -> bool of `shape`.

    Raises:
        InputError: not as many bytes as such a mask takes.
    """
    count = prod(shape)
    if bits.dtype != torch.uint8 or bits.shape != (-(-count // 8),):
        raise InputError(
            f"a packed mask of shape {tuple(bits.shape)} and type {bits.dtype}; "
            f"for {count} weights it is {-(-count // 8)} bytes"
        )
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=count).astype(bool)).reshape(*shape)
