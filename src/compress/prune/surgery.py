"""Cutting channels out of a copy of a network (`cut`), and the equivalent masking in place (`masked`).

Invariant: both give the same outputs for the same plan. A mask zeroes the weights that *read* the dropped channels,
so that the values of these channels (a BN shift, a sigmoid's 0.5) cannot matter. Norms over several channels (layer
norm, group norm) read them too: while masked, they run on the kept channels only, as after the cut. So do layers that
compute their weight.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import InputError
from compress.graph.caches import empty
from compress.graph.modules import CHANNELWISE_NORMS, CONVOLUTIONS, TRANSPOSED
from compress.graph.plan import Plan
from compress.graph.types import Axis, ChannelGraph, Layer
from compress.models.layers import Attention, empty_conv_for
from compress.models.unchanged import copy_replacing

NOTHING: Mapping[str, int] = MappingProxyType({})


def cut(model: nn.Module, graph: ChannelGraph, plan: Plan, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A smaller copy of `model`, which is not changed.

    `weights` replace parameters and buffers of the copy, by name and at full shape, before the cut.

    Raises:
        ValueError: the plan names an unknown group or channel, or empties a group that must keep a channel.
        InputError: something in the network cannot be copied.
    """
    tensors = named_tensors(model)
    narrow, numbers = narrowed_tensors(tensors, graph, plan, weights or {})
    small = _copy_with(model, tensors, narrow)
    empty(small, graph.caches)
    dropped = {small.get_submodule(owner): counts for owner, counts in numbers.items()}
    for module in small.modules():  # each still has the attributes of the full width
        set_attributes(module, attributes(module, own_shapes(module), dropped.get(module, {})))
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # on a GPU they lie in one piece of memory
    _replace(small, {whole: Attention(whole) for whole in _attentions(small) if _is_narrowed(whole)})
    for group in graph.emptied(plan):
        _replace_emptied(small, {axis.tensor.rpartition(".")[0] for axis in group.positions})
    return small


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def narrowed_tensors(
    tensors: Mapping[str, Tensor], graph: ChannelGraph, plan: Plan, given: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, dict[str, int]]]:
    """Copies of all tensors that a plan cuts or that are given, by name; and how many channels it takes from integer
    attributes, by module and attribute.

    Raises:
        ValueError: as `cut`.
    """
    cuts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    numbers: dict[str, dict[str, int]] = defaultdict(dict)
    for axis, places in graph.dropped(plan).items():
        if axis.tensor in tensors:
            cuts[axis.tensor][axis.dim] = places
        else:
            owner, _, attribute = axis.tensor.rpartition(".")
            numbers[owner][attribute] = len(places)
    with torch.inference_mode(False):
        narrow = {
            name: _narrowed(tensors[name], cuts.get(name, {}), given.get(name))
            for name in (*cuts, *(name for name in given if name not in cuts))
        }
    return narrow, numbers


def _copy_with(model: nn.Module, tensors: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> nn.Module:
    """A deep copy with new tensors, by name, in the place of its own."""
    twin = copy_replacing(model, {tensors[name]: tensor for name, tensor in new.items()})
    got = named_tensors(twin)
    if any(got.get(name) is not tensor for name, tensor in new.items()):
        raise InputError(
            f"{type(model).__name__}: copies itself in a way of its own (__deepcopy__), so it cannot be cut"
        )
    return twin


class CutCopy:
    """A copy of a network that is cut anew for every plan: what `cut` gives, without copying the modules each time.

    The tensors of the copy are exchanged, whatever was done to them since the last plan, and the attributes of its
    layers set. Its modules must stay the objects that they are, though not in their places in the tree. The model
    itself, which is read for every plan, is not changed.

    Raises:
        InputError: something in the network cannot be copied.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph) -> None:
        self._graph, self._tensors = graph, named_tensors(model)
        self._parameters = dict(model.named_parameters())
        shared = {name: _narrowed(tensor, {}) for name, tensor in self._parameters.items()}
        self.network = _copy_with(model, self._tensors, shared)
        replace_attentions(self.network, graph)
        self._own = named_tensors(self.network)
        twins = dict(self.network.named_modules())
        # Integer attributes that are on an axis of the graph, by module: a plan that drops nothing of one resets it
        self._numbers: dict[str, dict[str, int]] = defaultdict(dict)
        for axis in {axis for group in graph for axis in group.positions}:
            module, _, attribute = axis.tensor.rpartition(".")
            if axis.tensor not in self._tensors:
                self._numbers[module][attribute] = 0
        # Of every module with attributes that may change: its name, as it is at full width, and its twin
        self._modules = [
            (name, full, twins[name])
            for name, full in model.named_modules()
            if name in self._numbers or attributes(full, own_shapes(full))
        ]

    def __call__(self, plan: Plan, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The copy, which is another network from the next call on; `weights` as of `cut`.

        Raises:
            ValueError: as `cut`; or the plan empties a group, for which layers would have to be replaced.
        """
        if self._graph.emptied(plan):
            raise ValueError("a plan must keep a channel of every group here")
        narrow, numbers = narrowed_tensors(self._tensors, self._graph, plan, weights or {})
        empty(self.network, self._graph.caches)
        with torch.inference_mode(False):
            for name, own in self._own.items():
                own.data = (narrow[name] if name in narrow else self._uncut(name)).detach()
        for name, full, twin in self._modules:
            dropped = {**self._numbers.get(name, NOTHING), **numbers.get(name, NOTHING)}
            set_attributes(twin, attributes(full, own_shapes(twin), dropped))
        return self.network

    def _uncut(self, name: str) -> Tensor:
        """A parameter may be shared; a buffer may be changed in place, such as the statistics of a batch norm."""
        tensor = self._tensors[name]
        return tensor if name in self._parameters else tensor.clone()


def _replace_emptied(model: nn.Module, names: Collection[str]) -> None:
    """Replace the layers of an emptied group by ones that compute nothing, as many ops reject tensors of size 0."""
    replacements: dict[nn.Module, nn.Module] = {}
    for name in names:
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Conv2d):  # else a batch norm, or already replaced with another group
            replacements[layer] = empty_conv_for(layer)
        elif isinstance(layer, nn.BatchNorm2d):
            replacements[layer] = nn.Identity().train(layer.training)
    _replace(model, replacements)


def _replace(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    if not replacements:
        return
    for module in list(model.modules()):
        for key, child in module._modules.items():  # a shared layer has several names
            if child is not None and child in replacements:
                module._modules[key] = replacements[child]


def replace_attentions(network: nn.Module, graph: ChannelGraph) -> None:
    """Put our attention, which has any widths, in the place of torch's wherever the graph has axes of it."""
    owners = {axis.tensor.rpartition(".")[0] for group in graph for axis in group.positions}
    whole = _attentions(*(network.get_submodule(name) for name in owners))
    _replace(network, {attention: Attention(attention) for attention in whole})


def _attentions(*models: nn.Module) -> list[nn.MultiheadAttention]:
    found = (module for model in models for module in model.modules())
    return [module for module in found if isinstance(module, nn.MultiheadAttention)]


def _is_narrowed(attention: nn.MultiheadAttention) -> bool:
    """Whether torch's attention has not the widths that it was made with any more."""
    width = attention.embed_dim
    if attention.in_proj_weight is not None:
        return tuple(attention.in_proj_weight.shape) != (3 * width, width)
    apart = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    widths = (width, attention.kdim, attention.vdim)
    return any(tuple(weight.shape) != (width, inputs) for weight, inputs in zip(apart, widths, strict=True))


def _narrowed(tensor: Tensor, dropped: Mapping[int, Tensor], value: Tensor | None = None) -> Tensor:
    """A copy (of `value` if given) without the dropped indices of each dimension; a parameter stays a parameter."""
    new = tensor.detach() if value is None else value.to(tensor, copy=not dropped)
    for dim, places in dropped.items():
        # As everywhere that places go to a device: it copies them before it returns, and so need not be waited for
        new = new.index_select(dim, kept_places(new.shape[dim], places).to(new.device, non_blocking=True))
    return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def kept_places(length: int, dropped: Tensor) -> Tensor:
    stays = torch.ones(length, dtype=torch.bool)
    stays[dropped] = False
    return stays.nonzero().flatten()


def own_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Shapes of the parameters and buffers of a module itself, by attribute."""
    own = (*module._parameters.items(), *module._buffers.items())
    return {name: tensor.shape for name, tensor in own if tensor is not None}


def attributes(
    full: nn.Module, shapes: Mapping[str, torch.Size], dropped: Mapping[str, int] = NOTHING
) -> dict[str, Any]:
    """What a layer has beside its tensors and has to change with them: attributes such as `groups`, by name.

    `full` is the layer at full width, which is only read; `shapes` are those of its own cropped parameters and
    buffers, by attribute. `dropped` counts the channels taken from an integer attribute that is on an axis of the
    graph itself, as no tensor tells it: those a ChannelPad adds, or that a norm without weights expects.
    """
    lowered = _lowered(full, dropped)
    weight = shapes.get("weight")
    if isinstance(full, nn.GroupNorm):
        channels = lowered.get("num_channels", full.num_channels) if weight is None else weight[0]
        one_each = full.num_groups == full.num_channels
        return {**lowered, "num_channels": channels, "num_groups": channels if one_each else full.num_groups}
    if isinstance(full, CHANNELWISE_NORMS) and weight is None:
        weight = shapes.get("running_mean")
    if weight is None:  # never cut, or none at all
        return lowered
    return {**lowered, **_by_weight(full, weight)}


def _by_weight(full: nn.Module, weight: torch.Size) -> dict[str, Any]:
    """The attributes that follow from the shape of a layer's cropped weight."""
    if isinstance(full, CONVOLUTIONS):
        groups = full.groups
        if groups > 1 and groups == full.in_channels:  # depthwise: a conv group per channel
            groups = groups * weight[0] // full.out_channels
        return {"groups": groups, "out_channels": weight[0], "in_channels": weight[1] * groups}
    if isinstance(full, TRANSPOSED):
        groups = weight[0] if full.groups == full.in_channels > 1 else full.groups
        return {"groups": groups, "out_channels": weight[1] * groups, "in_channels": weight[0]}
    if isinstance(full, nn.Embedding):
        return {"embedding_dim": weight[1]}
    if isinstance(full, nn.Linear):
        return {"out_features": weight[0], "in_features": weight[1]}
    if isinstance(full, CHANNELWISE_NORMS):
        return {"num_features": weight[0]}
    if isinstance(full, nn.LayerNorm | nn.RMSNorm) and len(full.normalized_shape) == 1:
        return {"normalized_shape": (weight[0],)}
    if isinstance(full, nn.PReLU):
        return {"num_parameters": weight[0]}
    return {}


def _lowered(full: nn.Module, dropped: Mapping[str, int]) -> dict[str, Any]:
    """Numbers of channels without those that are dropped, by attribute. "shape#0" is the first number of a tuple."""
    values: dict[str, Any] = {}
    for place, count in dropped.items():
        name, _, at = place.partition("#")
        value = values.get(name, getattr(full, name))
        if isinstance(value, tuple | list):
            numbers = list(value)
            numbers[int(at or 0)] -= count
            values[name] = type(value)(numbers)
        else:
            values[name] = value - count
    return values


def set_attributes(module: nn.Module, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(module, name, value)


class Masks:
    """Masks of one network, for search loops: buffers are allocated once and reused for every plan."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, buffers: dict[str, Tensor] | None = None) -> None:
        self._model, self._graph = model, graph
        self._reads = {layer.in_axis for layer in graph.layers if layer.in_axis is not None}
        self._computed = [layer for layer in graph.layers if layer.name in graph.computed]
        # Axes of norms over channels, which run as they will when cut
        tensors = {name: f"{name}." for name in graph.norms}
        self._of_norms = {
            name: [axis for group in graph for axis in group.positions if axis.tensor.startswith(prefix)]
            for name, prefix in tensors.items()
        }
        self._parameters = dict(model.named_parameters())
        self._buffers = {} if buffers is None else buffers
        self._is_on = False

    @contextmanager
    def __call__(self, plan: Plan, weights: Mapping[str, Tensor] | None = None) -> Iterator[nn.Module]:
        """Within the block the model itself, at full shapes, computes as if `plan` were cut; restored at the end.

        `weights` replace parameters within the block, by name and at full shape, before masking. Changes made there
        to a masked or replaced weight are lost.
        """
        assert not self._is_on, "one plan at a time"
        of_norms = {axis for axes in self._of_norms.values() for axis in axes}
        dropped = self._graph.dropped(plan, self._reads | of_norms | {axis for _, axis in self._graph.norms.values()})
        given = weights or {}
        masked = {axis.tensor for axis in dropped if axis in self._reads}
        # Weights are swapped, not overwritten: no copy back is needed.
        saved = {name: self._parameters[name].data for name in masked | given.keys()}
        norms = {name: (dim, dropped[axis]) for name, (dim, axis) in self._graph.norms.items() if axis in dropped}
        computed = {layer.name: layer for layer in self._computed if layer.in_axis in dropped}
        self._is_on = True
        fused = torch.backends.mha.get_fastpath_enabled()  # it would read the weights of norms past their forward
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            for name, value in given.items():
                self._parameters[name].data = value.to(saved[name])
            with torch.inference_mode(False):  # the buffers are reused outside of a caller's inference mode
                for axis in self._reads & dropped.keys():
                    self._mask(axis, dropped[axis])
            for name, (dim, places) in norms.items():
                norm = self._model.get_submodule(name)
                numbers = {axis.tensor.rpartition(".")[2]: len(dropped[axis]) for axis in self._of_norms[name]}
                norm.forward = _as_cut(norm, dim, places, numbers)
            for name, layer in computed.items():
                assert layer.in_axis is not None
                reader = self._model.get_submodule(name)
                reader.forward = _reading_as_cut(reader, layer, dropped[layer.in_axis])
            yield self._model
        finally:
            for name in (*norms, *computed):
                self._model.get_submodule(name).__dict__.pop("forward", None)
            for name, value in saved.items():
                self._parameters[name].data = value
            torch.backends.mha.set_fastpath_enabled(fused)
            self._is_on = False

    def _mask(self, axis: Axis, dropped: Tensor) -> None:
        weight = self._parameters[axis.tensor]
        keep = torch.ones(weight.shape[axis.dim], dtype=weight.dtype)
        keep[dropped] = 0
        keep = keep.view([-1 if dim == axis.dim else 1 for dim in range(weight.dim())]).to(weight.device)
        buffer = self._buffers.get(axis.tensor)
        if buffer is None or buffer.dtype != weight.dtype or buffer.device != weight.device:
            buffer = self._buffers[axis.tensor] = torch.empty_like(weight.data)
        weight.data = torch.mul(weight.data, keep, out=buffer)


def masked(
    model: nn.Module, graph: ChannelGraph, plan: Plan, weights: Mapping[str, Tensor] | None = None
) -> AbstractContextManager[nn.Module]:
    """As `Masks`, for one plan."""
    return Masks(model, graph)(plan, weights)


def _as_cut(norm: nn.Module, dim: int, dropped: Tensor, numbers: Mapping[str, int]) -> Callable[[Tensor], Tensor]:
    """The forward function of the cut norm, with its output at full shape: zeros for the dropped channels.

    `numbers` are how many indices go, by tensor or integer attribute."""
    tensors = named_tensors(norm)
    small = copy_replacing(norm, {tensor: _narrowed(tensor, {0: dropped}) for tensor in tensors.values()})
    counts = {name: count for name, count in numbers.items() if name not in tensors}
    set_attributes(small, attributes(norm, own_shapes(small), counts))
    small._forward_hooks.clear()  # the hooks of the norm itself still run
    small._forward_pre_hooks.clear()

    def forward(x: Tensor) -> Tensor:
        kept = kept_places(x.shape[dim], dropped).to(x.device, non_blocking=True)
        narrow: Tensor = small(x.index_select(dim, kept))
        return narrow.new_zeros(x.shape).index_copy(dim, kept, narrow)

    return forward


def _reading_as_cut(full: nn.Module, layer: Layer, dropped: Tensor) -> Callable[[Tensor], Tensor]:
    """The forward function of a layer that computes its weight, which has lost inputs and no outputs. `dropped` are
    places on its weight: of every group of a convolution in groups."""
    weight = full.get_parameter("weight")
    shared = dict.fromkeys(named_tensors(full).values())
    small = copy_replacing(full, {t: t for t in shared} | {weight: _narrowed(weight, {layer.in_dim: dropped})})
    set_attributes(small, attributes(full, own_shapes(small)))
    small._forward_hooks.clear()  # those of the layer itself still run
    small._forward_pre_hooks.clear()
    dim, per_group = -1 if layer.kind == "linear" else 1, weight.shape[layer.in_dim]
    kept = kept_places(per_group, dropped) + per_group * torch.arange(layer.groups)[:, None]

    def forward(x: Tensor) -> Tensor:
        narrow: Tensor = small(x.index_select(dim, kept.flatten().to(x.device, non_blocking=True)))
        return narrow

    return forward


def difference(model: nn.Module, small: nn.Module, graph: ChannelGraph, plan: Plan, images: Tensor) -> float:
    """Largest difference between masked and cut logits, relative to the largest logit, in float64 on the CPU."""
    wide, narrow = (copy_replacing(network, {}).to("cpu", torch.float64).eval() for network in (model, small))
    with torch.no_grad(), masked(wide, graph, plan):
        expected, got = wide(images.double()), narrow(images.double())
    return float((expected - got).abs().max() / expected.abs().max().clamp_min(1e-12))
