"""Which memory layout a network is trained in: channels_last (NHWC) is the faster one, where it is safe.

On a CPU, oneDNN computes the weight gradient of one kind of convolution in that layout with writes beyond its own
memory: a 1x1 kernel, a stride above 1, fewer than 8 input channels, one conv group, float32. Seen with oneDNN 3.12
(torch 2.14.1) on x86 CPUs with AVX2 and without AVX-512, and on others under ONEDNN_MAX_CPU_ISA=AVX2. Forward passes,
other convolutions, other layouts, bf16 and GPUs are sound; tests/test_convolutions.py tries them on every machine.

It is a kind that pruning makes: the shortcut of a residual network whose stream became narrow. What crashes with one
CPU and version may do so with the next, so the network alone decides, not the machine.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compress.errors import OWN, SettingError
from compress.schema.settings import Recipe

LEAST_SAFE = 8  # input channels
CONV2D = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")  # what torch.conv2d takes, in order
KIND = f"1x1 convolutions with a stride and fewer than {LEAST_SAFE} input channels"


def is_unsafe(weight: Sequence[int], stride: int | Sequence[int], groups: int) -> bool:
    """Of a convolution with a weight (out, in / groups, h, w): whether its weight gradient may corrupt memory."""
    strides = (stride,) if isinstance(stride, int) else stride
    return tuple(weight[2:]) == (1, 1) and groups == 1 and weight[1] < LEAST_SAFE and max(strides) > 1


def unsafe_layers(model: nn.Module) -> list[str]:
    """The layers that must not be trained in channels_last, in float32, on a CPU."""
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and is_unsafe(layer.weight.shape, layer.stride, layer.groups)
    ]


def training_format(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.memory_format:
    """What `recipe.channels_last` means for this network on this device.

    Raises:
        SettingError: channels_last is asked for where it would corrupt memory.
    """
    unsafe = unsafe_layers(model) if may_corrupt(recipe, device) else []
    if recipe.channels_last == "on" and unsafe:
        raise SettingError(
            f"{OWN}channels_last=on: corrupts memory on a CPU in the weight gradients of {KIND}, such as "
            f"{unsafe[0]} of this network; use auto or off"
        )
    return torch.contiguous_format if recipe.channels_last == "off" or unsafe else torch.channels_last


def may_corrupt(recipe: Recipe, device: torch.device) -> bool:
    return device.type == "cpu" and recipe.amp == "off"


def guarded(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """For forward passes of a training: unsafe convolutions that `unsafe_layers` does not see are made safe.

    Those are a function's, and layers whose images the network itself has permuted.
    """
    return SafeConvolutions() if may_corrupt(recipe, device) else nullcontext()


class SafeConvolutions(TorchFunctionMode):
    """Hands unsafe convolutions contiguous tensors, whatever calls them; their gradients are then in that layout too.

    Costs 1 to 4 % of a training step of a small network (resnet20, 8 px, batch 128, one core).
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.conv2d:
            given |= dict(zip(CONV2D, args, strict=False))
            args = ()
            if is_unsafe(given["weight"].shape, given.get("stride", 1), given.get("groups", 1)):
                given |= {name: _contiguous(given[name]) for name in ("input", "weight")}
        return func(*args, **given)


def _contiguous(tensor: Tensor) -> Tensor:
    """With the strides of the contiguous layout: a tensor of one channel may count as both, and have the others'."""
    return tensor.contiguous().view(-1).view(tensor.shape)
