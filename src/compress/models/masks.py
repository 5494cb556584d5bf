"""Weight masks: which weights of a layer stay zero while the others train.

A mask is a buffer of the layer that it masks, so that it is saved, loaded, copied, moved and averaged with the layer.
It is not computed as `w != 0`: a kept weight that happens to be exactly zero would never train again (reported in
Eric-mingjie/rethinking-network-pruning#13). It is applied after every optimizer step: with only the gradient masked,
the momentum of earlier steps still moves a pruned weight away from zero.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import InputError

MASK = "weight_mask"


def set_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the masks of layers, by layer name, and zero the masked weights. True: the weight is kept. A mask (of any
    dtype, cast to bool) has the shape of its weight, is copied, and replaces one that the layer has.

    Raises:
        InputError: a name is not a layer that can be masked, or a mask has another shape than the weight.
    """
    for name, mask in masks.items():
        weight = masked_weight(model, name)
        if mask.shape != weight.shape:
            raise InputError(f"{name}: a mask of shape {tuple(mask.shape)} for a weight of {tuple(weight.shape)}")
        own = mask.to(weight.device, torch.bool, copy=True)  # never shared by two networks
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
    """The layers that have a mask, by name, in the order of `named_modules`."""
    return {name: layer for name, layer in model.named_modules() if is_masked(layer)}


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks by layer name, bool. For averaged weights use `set_masks(averaged_model, masks_of(model))`: averaging
    buffers too would mix the masks of all steps (and torch's `AveragedModel` cannot average bool).
    """
    return {name: layer.get_buffer(MASK) for name, layer in masked_layers(model).items()}


def apply_masks(model: nn.Module) -> None:
    """Zero the masked weights in place. Call it after every optimizer step and every update of averaged weights."""
    zero_masked(masked_layers(model).values())


@torch.no_grad()
def zero_masked(layers: Iterable[nn.Module]) -> None:
    """`apply_masks` to layers that are known to have a mask: to look for them takes 1 % of a small network's step."""
    for layer in layers:
        # A product is five times as fast as masked_fill_; adding 0 turns -0.0 into 0.0, which compresses better.
        layer.get_parameter("weight").mul_(layer.get_buffer(MASK)).add_(0)


def mask_name(layer: str) -> str:
    """The key of a layer's mask in a state dict; `layer` is "" for a network that is a single layer."""
    return f"{layer}.{MASK}" if layer else MASK


def packed(mask: Tensor) -> Tensor:
    """Eight values per byte, the first in the highest bit: bool of any shape, n values -> uint8 (ceil(n / 8),).

    On disk a byte per weight would add 25 % to float32 weights; a bit adds 3 %.
    """
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy()))


def unpacked(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of `packed`: uint8 (ceil(n / 8),) -> bool of `shape`, n values.

    Raises:
        InputError: another dtype or number of bytes.
    """
    count = prod(shape)
    if bits.dtype != torch.uint8 or bits.shape != (-(-count // 8),):
        raise InputError(
            f"a packed mask of shape {tuple(bits.shape)} and type {bits.dtype}; "
            f"for {count} weights it is {-(-count // 8)} bytes"
        )
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=count).astype(bool)).reshape(*shape)
