"""Which groups of channels may go as a whole.

A convolution that reads no channel gives zeros, and its bias. Where every reader of a group is such a convolution,
and nothing else sees its channels, the network without the group is exact: a residual block without inner channels
is its shortcut (in a post-activation block, and the constant that the following batch norm makes of zeros). Wanted
where one threshold for all channels leaves a block without any, as in network slimming (Liu et al., ICCV 2017,
arXiv:1708.06519).

What is not sure is refused: a group that could be emptied and is not costs a channel.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from compress.graph.liveness import Flow, what_is_lost
from compress.graph.tracing import ELEMENTWISE, ELEMENTWISE_MODULES, SPATIAL, SPATIAL_MODULES
from compress.graph.types import Axis, ChannelGroup

Uses = Mapping[str, Sequence[fx.Node]]  # by module: its calls, and where `forward` takes a tensor of it


def why_never_empty(
    model: nn.Module, groups: Sequence[ChannelGroup], runs: Sequence[fx.Graph], flows: Sequence[Flow]
) -> dict[str, str]:
    """For each group that must keep a channel a relative clause that says why.

    `runs` are the calls of evaluation and of training, `flows` the same as `flow_of` has them.
    """
    owners = Counter(id(t) for m in model.modules() for t in [*m._parameters.values(), *m._buffers.values()])
    uses = [_uses(run) for run in runs]
    reasons = {}
    for group in groups:
        seen = next(_seen_elsewhere(model, group, owners, uses), None)
        lost = (lost for flow in flows if (lost := what_is_lost(flow, group.consumers)))
        if why := next(lost, None) if seen is None else f"which {seen}":
            reasons[group.name] = why
    return reasons


def _seen_elsewhere(
    model: nn.Module, group: ChannelGroup, owners: Counter[int], uses: Sequence[Uses]
) -> Iterator[str]:
    """What sees the group's channels beside its own convolutions and batch norms, and convolutions that read it."""
    names = sorted({_owner(axis) for axis in group.positions})
    yield from (why for axis, places in group.positions.items() if (why := _other_axis(model, axis, places)))
    yield from (f"shares weights of {name}" for name in names if _shares(model, name, owners))
    yield from (why for use in uses if (why := _other_reader(model, group, names, use)))


def _owner(axis: Axis) -> str:
    return axis.tensor.rpartition(".")[0]


def _uses(run: fx.Graph) -> Uses:
    found = defaultdict(list)
    for node in run.nodes:
        if node.op == "call_module":
            found[str(node.target)].append(node)
        elif node.op == "get_attr":
            found[str(node.target).rpartition(".")[0]].append(node)
    return found


def _other_axis(model: nn.Module, axis: Axis, places: Tensor) -> str | None:
    """Why an axis is more than all channels of a convolution or a batch norm, each once."""
    name, _, attribute = axis.tensor.rpartition(".")
    module = model.get_submodule(name)
    if type(module) not in (nn.Conv2d, nn.BatchNorm2d):
        return f"runs through {name or 'the network itself'}, a {type(module).__name__}"
    value: Any = getattr(module, attribute)  # a number where a norm has no tensors
    length = value.shape[axis.dim] if isinstance(value, Tensor) else value
    if tuple(places.shape) != (length, 1):
        return f"is not all that {name} {'reads' if axis.dim == 1 else 'holds'}, each channel once"
    return None


def _shares(model: nn.Module, name: str, owners: Counter[int]) -> bool:
    module = model.get_submodule(name)
    tensors = [*module._parameters.values(), *module._buffers.values()]
    return any(owners[id(tensor)] > 1 for tensor in tensors if tensor is not None)


def _other_reader(model: nn.Module, group: ChannelGroup, names: Sequence[str], uses: Uses) -> str | None:
    """Why the group's channels go elsewhere than from its layers to its readers, one by one."""
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
    """Whether every channel passes by itself, through an op without weights and without another operand."""
    if len(node.all_input_nodes) != 1:
        return False
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), ELEMENTWISE_MODULES + SPATIAL_MODULES)
    return node.op.startswith("call") and (node.target in ELEMENTWISE or node.target in SPATIAL)
