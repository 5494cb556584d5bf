"""Batch norms folded into the convolutions before them: faster evaluation, fewer passes over memory.

In eval mode a batch norm is an affine map per channel, which a convolution before it can absorb:
W' = W * gamma / sqrt(var + eps), b' = (b - mean) * gamma / sqrt(var + eps) + beta. Outputs are equal up to float
rounding.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from compress.errors import InputError
from compress.graph.build import traced
from compress.graph.deepcopy import copy_sharing_tensors

Pair = tuple[str, str]  # names of a convolution and of the batch norm that is its only reader


def foldable(model: nn.Module) -> list[Pair]:
    """The pairs that `fold` may fold; none where the network cannot be traced."""
    try:
        nodes = list(traced(copy_sharing_tensors(model).eval()).graph.nodes)
    except InputError:
        return []
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    users = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    pairs = []
    for norm_node in nodes:
        conv_node = norm_node.args[0] if norm_node.op == "call_module" else None
        if not isinstance(conv_node, torch.fx.Node) or conv_node.op != "call_module" or len(conv_node.users) > 1:
            continue
        conv, name = model.get_submodule(str(conv_node.target)), str(norm_node.target)
        bn = model.get_submodule(name)
        plain = _plain(conv, nn.Conv2d) and _plain(bn, nn.BatchNorm2d)
        used_once = calls[conv_node.target] == calls[name] == 1
        if plain and used_once and users[id(conv.weight)] == 1 and isinstance(bn.running_mean, torch.Tensor):
            pairs.append((str(conv_node.target), name))
    return pairs


def _plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is exactly torch's layer: not a subclass, no hooks, `forward` not patched."""
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
