"""The memory format that a network is trained in: channels_last (NHWC), which is faster, where it is safe.

On a CPU, oneDNN's weight gradient of one kind of convolution in that format writes out of bounds: a 1x1 kernel, a
stride above 1, fewer than 8 input channels, one conv group, float32. Seen with oneDNN 3.12 (torch 2.14.1) on x86 CPUs
with AVX2 and without AVX-512, and on others under ONEDNN_MAX_CPU_ISA=AVX2. Forward passes, other convolutions, other
layouts, bf16 and GPUs are sound; tests/test_convolutions.py tries them on every machine.

Pruning produces this kind of convolution: the shortcut of a residual network whose stream became narrow. The choice
of the format depends on the network only, not on the CPU and the version of oneDNN, as others may have the bug too.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compress.errors import OWN, SettingError
from compress.schema.settings import Recipe

LEAST_SAFE = 8  # smallest safe number of input channels
CONV2D = (
    "input",
    "weight",
    "bias",
    "stride",
    "padding",
    "dilation",
    "groups",
)  # the parameters of torch.conv2d, in order
# Packages whose networks call torch.conv2d by nn.Conv2d only; tests/test_convolutions.py reads them
BY_LAYERS = (
    "torch.nn.modules.",
    "torchvision.models.",
    "torchvision.ops.",
    "compress.models.",
    "compress.distill.",
    "compress.train.objective",
)
KIND = f"1x1 convolutions with a stride and fewer than {LEAST_SAFE} input channels"


def is_unsafe(weight: Sequence[int], stride: int | Sequence[int], groups: int) -> bool:
    """Whether the weight gradient of a convolution with weight shape (out, in / groups, h, w) may corrupt memory."""
    strides = (stride,) if isinstance(stride, int) else stride
    return tuple(weight[2:]) == (1, 1) and groups == 1 and weight[1] < LEAST_SAFE and max(strides) > 1


def unsafe_layers(model: nn.Module) -> list[str]:
    """The layers that must not be trained in channels_last, in float32, on a CPU.

    A layer that is given its weight with each call has none to look at: see `guarded`.
    """
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d)
        and layer.weight is not None
        and is_unsafe(layer.weight.shape, layer.stride, layer.groups)
    ]


def training_format(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.memory_format:
    """The memory format by `recipe.channels_last` for this network on this device.

    Raises:
        SettingError: channels_last=on where it would corrupt memory.
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


def convolves_by_safe_layers(trained: nn.Module) -> bool:
    """Whether `unsafe_layers` sees every convolution of a network, and there is none: all its modules are of packages
    whose networks convolve by their layers alone, and nobody has hung code of his own on one of them."""
    return not unsafe_layers(trained) and all(
        type(module).__module__.startswith(BY_LAYERS)
        and "forward" not in vars(module)
        and not module._forward_hooks
        and not module._forward_pre_hooks
        for module in trained.modules()
    )


def guard(trained: nn.Module, recipe: Recipe, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """What makes the context of each forward pass in training, which makes unsafe convolutions safe that
    `unsafe_layers` does not find: calls of torch.conv2d without a layer, and layers whose input the network itself
    permuted to channels_last."""
    watched = may_corrupt(recipe, device) and not convolves_by_safe_layers(trained)
    return SafeConvolutions if watched else nullcontext


class SafeConvolutions(TorchFunctionMode):
    """Makes input and weight of every unsafe convolution contiguous, whatever calls it, and so its gradients too.

    Looks at every call: 1 to 4 % of a training step of a small network (resnet20, 8 px, batch 128, one core).
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
    """A copy or view with contiguous strides. (`contiguous` alone is not enough: a tensor with one channel counts as
    contiguous with the strides of channels_last too.)"""
    return tensor.contiguous().view(-1).view(tensor.shape)
