"""The copy of a network that is run on channel ids in its place: nothing that it writes is the network's own."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from compress.graph.counts import Count
from compress.graph.record import Record
from compress.models.inputs import inner
from compress.models.layers import Attention, ChannelPad, ChannelSelection, EmptyConv
from compress.models.unchanged import copy_replacing

OWN_LAYERS = (Attention, ChannelPad, ChannelSelection, EmptyConv)
CONTAINERS = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, nn.Transformer,
    nn.TransformerEncoder, nn.TransformerDecoder, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer,
)  # fmt: skip
DROPS = ("StochasticDepth", "DropPath")  # of torchvision and timm, which are slow to import, so known by name
READERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)  # layers whose weight may be computed
LONGEST_TUPLE = 8  # of attributes that may hold sizes


class Flag(int):
    """`training` of a module: as False or True, and tells whether forward has asked for it."""

    asked = False

    def __bool__(self) -> bool:
        Flag.asked = True
        return int.__ne__(self, 0)

    def __eq__(self, other: object) -> bool:
        return bool(self) == other

    __hash__ = int.__hash__


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one operation of the run; any other runs its own forward."""
    kind = type(module)
    if inner(module) is not module:
        return False
    ours = isinstance(module, OWN_LAYERS) or kind.__name__ in DROPS
    return ours or (kind.__module__.startswith("torch.nn.") and not isinstance(module, CONTAINERS))


def twin_of(model: nn.Module) -> nn.Module:
    """A copy without hooks and without memory for weights. Floating tensors of more than one element are on the meta
    device, since the run never looks at their values; all others are copies.

    Raises:
        InputError: something in the network cannot be copied.
    """
    tensors = [*model.parameters(), *model.buffers()]
    with torch.inference_mode(False):
        twin = copy_replacing(model, {tensor: _stand_in(tensor) for tensor in tensors})
    for module in twin.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return twin


def _stand_in(tensor: Tensor) -> Tensor:
    new = tensor.detach()
    new = torch.empty_like(new, device="meta") if is_channels(tensor) else new.clone()
    return nn.Parameter(new, requires_grad=False) if isinstance(tensor, nn.Parameter) else new


def is_channels(tensor: Tensor) -> bool:
    """Whether channels may lie on a tensor of the network; indices, masks, counters and scalars are plain data."""
    return tensor.is_floating_point() and tensor.numel() > 1


def number_attributes(twin: nn.Module, found: Record) -> None:
    """Replace the integer attributes of modules that are no leaves by `Count`s: each is an axis of its own, such as
    ("blocks.0.attn.heads", 0). An integer in a tuple or list goes by its place, "shape#0"."""

    def count(attribute: str, value: int) -> int:
        return Count.later(found.ids, lambda: found.issue(attribute, 0, value), value) if value > 1 else value

    for name, module in twin.named_modules():
        if is_leaf(module):
            continue
        for key, value in list(vars(module).items()):
            attribute = f"{name}.{key}" if name else key
            if type(value) is int:
                vars(module)[key] = count(attribute, value)
            elif _holds_sizes(value):
                vars(module)[key] = type(value)([count(f"{attribute}#{at}", v) for at, v in enumerate(value)])


def _holds_sizes(value: object) -> bool:
    short = (
        isinstance(value, tuple | list) and type(value) in (tuple, list, torch.Size) and len(value) <= LONGEST_TUPLE
    )
    return short and all(type(item) is int for item in value)  # type: ignore[attr-defined]


def set_training(twin: nn.Module, training: bool) -> None:
    twin.train(training)
    Flag.asked = False
    for module in twin.modules():
        vars(module)["training"] = Flag(training)


Forward = Callable[..., object]


Own = Callable[[str, nn.Module, Forward], Forward]


def patch(twin: nn.Module, leaf: Callable[[str], Forward], norm_like: Own, weight_computing: Own) -> None:
    """Replace the forward of every leaf, of every module that may be a norm of somebody's own, and of every layer
    that may compute its weight."""
    for name, module in list(twin.named_modules()):
        if (inside := inner(module)) is not module:
            vars(module)["forward"] = inside.__call__
        elif is_leaf(module):
            vars(module)["forward"] = leaf(name)
        elif has_rows(module):
            vars(module)["forward"] = weight_computing(name, module, module.forward)
        elif channels_of(module) and not _holds_tensors(module.children()):
            vars(module)["forward"] = norm_like(name, module, module.forward)


def has_rows(module: nn.Module) -> bool:
    """Whether a convolution or linear layer of somebody's own has nothing but its weight and numbers for its outputs,
    such as a bias or a gain, so that other weights may be computed of these, row by row."""
    if not isinstance(module, READERS) or next(module.children(), None) is not None:
        return False
    if any(isinstance(value, Tensor) for value in vars(module).values()):
        return False
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    weight = own.pop("weight", None)
    return weight is not None and all(
        tensor.is_floating_point() and tensor.numel() == tensor.shape[0] == len(weight)
        if tensor.numel() > 1
        else True
        for tensor in own.values()
    )


def _holds_tensors(modules: Iterable[nn.Module]) -> bool:
    """Whether any has a tensor, itself or inside; activations and dropout have none."""
    return any(True for module in modules for _ in (*module.parameters(), *module.buffers()))


def channels_of(module: nn.Module) -> int:
    """The length of a module's own tensors, where all are vectors of one length; else 0."""
    shapes = {tuple(tensor.shape) for tensor in (*module.parameters(), *module.buffers()) if tensor.dim() > 0}
    return shapes.pop()[0] if len(shapes) == 1 and len(next(iter(shapes))) == 1 else 0
