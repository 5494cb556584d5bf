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

from torch import Tensor, nn

from compress.graph import modules
from compress.graph.liveness import Liveness
from compress.graph.ops_elementwise import ONE_OPERAND
from compress.graph.ops_layers import IN_SPACE
from compress.graph.tape import Call, Tape, users
from compress.graph.types import Axis, ChannelGroup

Uses = Mapping[str, Sequence[int]]  # module name -> places of the calls that call it or take one of its tensors
Readers = Sequence[Sequence[int]]  # places of the calls that take the result of a call


def why_not_removable(model: nn.Module, groups: Sequence[ChannelGroup], tapes: Sequence[Tape]) -> dict[str, str]:
    """For each group that is not removable the reason, as a relative clause.

    `tapes` are those of the forward in eval mode and, where it differs, in train mode.
    """
    owners = Counter(id(t) for m in model.modules() for t in [*m._parameters.values(), *m._buffers.values()])
    calls = [(tape, _uses(tape), users(tape)) for tape in tapes]
    liveness = [Liveness(tape) for tape in tapes]
    reasons = {}
    for group in groups:
        seen = next(_other_readers(model, group, owners, calls), None)
        errors = (error for tape in liveness if (error := tape.error(group.consumers)))
        if why := next(errors, None) if seen is None else f"which {seen}":
            reasons[group.name] = why
    return reasons


def _other_readers(
    model: nn.Module, group: ChannelGroup, owners: Counter[int], calls: Sequence[tuple[Tape, Uses, Readers]]
) -> Iterator[str]:
    """What sees the group's channels besides the convolutions and batch norms that they are produced by, and the
    convolutions that read them. `owners` counts in how many modules a tensor (by its id) is."""
    names = sorted({_owner(axis) for axis in group.positions})
    yield from (why for axis, indices in group.positions.items() if (why := _other_axis(model, axis, indices)))
    yield from (f"shares weights of {name}" for name in names if _shares_weights(model, name, owners))
    yield from (why for call in calls if (why := _other_calls(model, group, names, *call)))


def _owner(axis: Axis) -> str:
    return axis.tensor.rpartition(".")[0]


def _uses(tape: Tape) -> Uses:
    found = defaultdict(list)
    for at, call in enumerate(tape):
        for name in {call.layer, *call.reads}:
            found[name].append(at)
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


def _other_calls(
    model: nn.Module, group: ChannelGroup, names: Sequence[str], tape: Tape, uses: Uses, readers: Readers
) -> str | None:
    """Why the calls between the group's producers and its consumers are not channelwise operations only."""
    for name in names:
        calls = uses.get(name, ())
        if len(calls) != 1 or tape[calls[0]].layer != name:
            return f"runs through {name}, which is not called once in evaluation and once in training"
    pending = [uses[name][0] for name in names if name not in group.consumers]
    while pending:
        for at in readers[pending.pop()]:
            if (user := tape[at]).layer in names:
                continue
            if not _is_channelwise(model, user):
                return f"is read by {user.name}, which is no convolution"
            pending.append(at)
    return None


def _is_channelwise(model: nn.Module, call: Call) -> bool:
    """Whether an operation treats every channel by itself, without weights and without a second operand."""
    if len(call.inputs) != 1 or call.reads:
        return False
    if call.layer:
        return isinstance(model.get_submodule(call.layer), modules.SAME + modules.IN_SPACE)
    return call.op in ONE_OPERAND or call.op in IN_SPACE
