"""Batch norms folded into the convolutions before them: fewer passes over memory where a network only evaluates.

In evaluation a batch norm is one multiplication and one addition per channel, so that a convolution in front of it
can do both: W' = W * gamma / sqrt(var + eps), b' = (b - mean) * gamma / sqrt(var + eps) + beta. The same to float
noise.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from compress.errors import InputError
from compress.graph.build import traced
from compress.graph.deepcopy import copy_sharing_tensors

Pair = tuple[str, str]  # a convolution and the batch norm that alone reads it


def foldable(model: nn.Module) -> list[Pair]:
    """The pairs that `fold` may fold; none where the network cannot be traced."""
    try:
        nodes = list(traced(copy_sharing_tensors(model).eval()).graph.nodes)
    except InputError:
        return []
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    users = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    pairs = []
    for norm in nodes:
        before = norm.args[0] if norm.op == "call_module" else None
        if not isinstance(before, torch.fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        conv, name = model.get_submodule(str(before.target)), str(norm.target)
        bn = model.get_submodule(name)
        plain = _plain(conv, nn.Conv2d) and _plain(bn, nn.BatchNorm2d)
        once = calls[before.target] == calls[name] == 1
        if plain and once and users[id(conv.weight)] == 1 and isinstance(bn.running_mean, torch.Tensor):
            pairs.append((str(before.target), name))
    return pairs


def _plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether this is the layer as torch has it: no class of its own, no hooks, nothing patched."""
    return (
        type(module) is kind
        and "forward" not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
    )


def fold(model: nn.Module, pairs: Sequence[Pair]) -> nn.Module:
    """Fold in place, for evaluation only; returns the model."""
    with torch.no_grad():
        for conv_name, norm_name in pairs:
            conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            model.set_submodule(norm_name, nn.Identity())
    return model
