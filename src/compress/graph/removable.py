"""Removable groups: those of which every channel may be cut.

A convolution without input channels outputs zeros and its bias. Where every reader of a group is a convolution, and
nothing else sees the group's channels, the network cut to none of them still equals the masked one: a residual block
without inner channels is its shortcut (in a post-activation block its shortcut plus the constant that the last batch
norm makes of zeros). Needed where one threshold for all channels leaves a block without any, as in Liu et al.,
"Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, arXiv:1708.06519.

Conservative: a removable group that is not recognised keeps one channel more than necessary; the opposite mistake
would give a wrong network.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from compress.graph.liveness import Calls, liveness_error
from compress.graph.tracing import ELEMENTWISE, ELEMENTWISE_MODULES, SPATIAL, SPATIAL_MODULES
from compress.graph.types import Axis, ChannelGroup

Uses = Mapping[str, Sequence[fx.Node]]  # module name -> nodes that call it or read one of its tensors


def why_not_removable(
    model: nn.Module, groups: Sequence[ChannelGroup], traces: Sequence[fx.Graph], calls: Sequence[Calls]
) -> dict[str, str]:
    """For each group that is not removable the reason, as a relative clause.

    `traces` are the forward in eval mode and, where it differs, in train mode; `calls` are `calls_of` each.
    """
    owners = Counter(id(t) for m in model.modules() for t in [*m._parameters.values(), *m._buffers.values()])
    uses = [_uses(trace) for trace in traces]
    reasons = {}
    for group in groups:
        seen = next(_other_readers(model, group, owners, uses), None)
        errors = (error for forward in calls if (error := liveness_error(forward, group.consumers)))
        if why := next(errors, None) if seen is None else f"which {seen}":
            reasons[group.name] = why
    return reasons


def _other_readers(
    model: nn.Module, group: ChannelGroup, owners: Counter[int], uses: Sequence[Uses]
) -> Iterator[str]:
    """What sees the group's channels besides the convolutions and batch norms that they are produced by, and the
    convolutions that read them. `owners` counts in how many modules a tensor (by its id) is."""
    names = sorted({_owner(axis) for axis in group.positions})
    yield from (why for axis, indices in group.positions.items() if (why := _other_axis(model, axis, indices)))
    yield from (f"shares weights of {name}" for name in names if _shares_weights(model, name, owners))
    yield from (why for use in uses if (why := _other_calls(model, group, names, use)))


def _owner(axis: Axis) -> str:
    return axis.tensor.rpartition(".")[0]


def _uses(trace: fx.Graph) -> Uses:
    found = defaultdict(list)
    for node in trace.nodes:
        if node.op == "call_module":
            found[str(node.target)].append(node)
        elif node.op == "get_attr":
            found[str(node.target).rpartition(".")[0]].append(node)
    return found


def _other_axis(model: nn.Module, axis: Axis, indices: Tensor) -> str | None:
    """Why an axis is anything else than the whole axis of a convolution or batch norm, each channel once."""
    name, _, attribute = axis.tensor.rpartition(".")
    module = model.get_submodule(name)
    if type(module) not in (nn.Conv2d, nn.BatchNorm2d):
        return f"runs through {name or 'the network itself'}, a {type(module).__name__}"
    value: Any = getattr(module, attribute)  # an int (num_features) where a norm has no tensors
    length = value.shape[axis.dim] if isinstance(value, Tensor) else value
    if tuple(indices.shape) != (length, 1):
        return f"is not all that {name} {'reads' if axis.dim == 1 else 'holds'}, each channel once"
    return None


def _shares_weights(model: nn.Module, name: str, owners: Counter[int]) -> bool:
    module = model.get_submodule(name)
    tensors = [*module._parameters.values(), *module._buffers.values()]
    return any(owners[id(tensor)] > 1 for tensor in tensors if tensor is not None)


def _other_calls(model: nn.Module, group: ChannelGroup, names: Sequence[str], uses: Uses) -> str | None:
    """Why the calls between the group's producers and its consumers are not channelwise operations only."""
    for name in names:
        calls = uses.get(name, ())
        if len(calls) != 1 or calls[0].op != "call_module":
            return f"runs through {name}, which is not called once in evaluation and once in training"
    pending = [uses[name][0] for name in names if name not in group.consumers]
    while pending:
        for user in pending.pop().users:
            if user.op == "call_module" and user.target in names:
                continue
            if not _is_channelwise(model, user):
                return f"is read by {user.name}, which is no convolution"
            pending.append(user)
    return None


def _is_channelwise(model: nn.Module, node: fx.Node) -> bool:
    """Whether an operation treats every channel by itself, without weights and without a second operand."""
    if len(node.all_input_nodes) != 1:
        return False
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), ELEMENTWISE_MODULES + SPATIAL_MODULES)
    return node.op.startswith("call") and (node.target in ELEMENTWISE or node.target in SPATIAL)
