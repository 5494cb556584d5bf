"""Cutting channels out of a network, and the same thing as zeros in place.

Law: `masked` and `cut` give the same outputs for the same plan. A mask zeroes what *reads* the dropped channels, so
that nothing a dropped channel holds (a BN shift, a sigmoid's 0.5) can matter.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compress.models.layers import ChannelPad
from compress.prune.graph import Axis, ChannelGraph
from compress.prune.plan import Plan


def cut(model: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """A smaller copy of `model`; the model itself is left as it was."""
    small = copy.deepcopy(model)
    tensors = dict(small.named_parameters(remove_duplicate=False)) | dict(small.named_buffers())
    touched = set()
    for axis, dropped in graph.dropped(plan).items():
        owner = small.get_submodule(axis.tensor.rpartition(".")[0])
        name = axis.tensor.rpartition(".")[2]
        touched.add(owner)
        if isinstance(owner, ChannelPad):
            setattr(owner, name, getattr(owner, name) - len(dropped))
            continue
        old = tensors[axis.tensor]
        stays = torch.ones(old.shape[axis.dim], dtype=torch.bool)
        stays[dropped] = False
        new = old.detach().index_select(axis.dim, stays.nonzero().flatten().to(old.device)).clone()
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        setattr(owner, name, new)
        tensors[axis.tensor] = new
    for module in touched:
        _restate(module)
    return small


def _restate(module: nn.Module) -> None:
    """Bring a layer's own description in line with its weights."""
    if isinstance(module, nn.Conv2d):
        if module.groups > 1 and module.groups == module.in_channels:  # depthwise: a conv group per channel
            module.groups = module.groups * module.weight.shape[0] // module.out_channels
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        kept = module.weight if module.weight is not None else module.running_mean
        assert kept is not None
        module.num_features = len(kept)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)


@contextmanager
def masked(
    model: nn.Module, graph: ChannelGraph, plan: Plan, weights: Mapping[str, Tensor] | None = None
) -> Iterator[nn.Module]:
    """The model in place as if `plan` were cut (full shapes), restored at the end.

    `weights` replaces parameters for the while, by name and at full shape, before the mask is laid on.
    """
    dropped = graph.dropped(plan)
    reads: list[Axis] = [layer.in_axis for layer in graph.layers if layer.in_axis in dropped]
    given = weights or {}
    parameters = dict(model.named_parameters())
    saved = {name: parameters[name].detach().clone() for name in {axis.tensor for axis in reads} | set(given)}
    try:
        with torch.no_grad():
            for name, value in given.items():
                parameters[name].copy_(value)
            for axis in reads:
                weight = parameters[axis.tensor]
                weight.index_fill_(axis.dim, dropped[axis].to(weight.device), 0)
        yield model
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                parameters[name].copy_(value)


def difference(model: nn.Module, small: nn.Module, graph: ChannelGraph, plan: Plan, images: Tensor) -> float:
    """Largest difference between masked and cut logits, relative to the largest logit, in float64."""
    wide, narrow = (copy.deepcopy(network).double().eval() for network in (model, small))
    with torch.no_grad(), masked(wide, graph, plan):
        expected, got = wide(images.double()), narrow(images.double())
    return float((expected - got).abs().max() / expected.abs().max().clamp_min(1e-12))
