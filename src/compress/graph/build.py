"""Builds the channel graph: which channels of a network are coupled, and have to be cut together.

The network is run once on *channel ids* instead of activations. A convolution or linear layer issues fresh ids for
its outputs, an addition unites the ids that it adds (union-find), and cat, chunk, flatten, permute and their kind are
executed on the ids as they are. At the end every axis of every weight carries a vector of ids: that is the dependency
graph, exact per channel, without special cases for residuals, concatenation or squeeze-excite.

An operation that is not understood freezes the channels it touches and is named in `ChannelGraph.frozen`: a layer
left whole is better than one cut wrongly. Reshapes, slices and pads whose literal sizes would be stale after a cut
freeze too.

Related: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv:2301.12900, which walks from layer
to layer with index mappings; executing the operations on ids needs no mapping per layer type.
"""

import inspect
import math
import traceback
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import fx, nn

from compress.errors import InputError, first_line
from compress.graph.deepcopy import copy_sharing_tensors
from compress.graph.ids import FROZEN
from compress.graph.liveness import calls_of
from compress.graph.removable import why_not_removable
from compress.graph.tracing import OUTPUT, IdInterpreter, IdRecord, Tracer
from compress.graph.types import ChannelGraph, ChannelGroup


def traced(model: nn.Module) -> fx.GraphModule:
    """The network's forward as a graph of calls (torch.fx), in the mode that it is in.

    Raises:
        InputError: control flow that depends on values; names the user's line.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    rest = {p.name: p.default for p in parameters[1:] if p.default is not inspect.Parameter.empty}
    try:
        try:
            return fx.GraphModule(model, Tracer(True).trace(model, concrete_args=rest or None))
        except Exception:  # control flow may depend on a buffer, which is then taken as a constant
            return fx.GraphModule(model, Tracer(False).trace(model, concrete_args=rest or None))
    except Exception as error:  # of torch.fx, or of the network itself, which gets proxies instead of values
        library = str(Path(torch.__file__).parent)
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(library)]
        where = f" at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if len(frames) > 1 else ""
        raise InputError(
            f"{type(model).__name__} cannot be traced{where} ({first_line(error)}); move what depends on values or "
            "shapes out of forward, into __init__ or into a module of its own"
        ) from None


def channel_graph(model: nn.Module, shape: tuple[int, int, int]) -> ChannelGraph:
    """Find the groups of a network for images of `shape` (C, H, W). The model is not changed.

    Where the forward in train mode differs (auxiliary heads), it is run as well, to find what reads channels there;
    layers that run only in train mode cost no MACs.

    Raises:
        InputError: the network cannot be traced, or cannot take such images.
    """
    found, twin = IdRecord(model), copy_sharing_tensors(model)
    evaluates = traced(twin.eval())
    traces = [evaluates.graph]
    _run(twin, evaluates, shape, found, counted=True)
    why_idle = "is never run"
    try:
        trains = traced(twin.train())
        if trains.code != evaluates.code:
            traces.append(trains.graph)
        if found.idle() or trains.code != evaluates.code:
            _run(twin, trains, shape, found, counted=False)
    except InputError as error:
        why_idle = f"does not run in evaluation, and training {error}"
        traces = []
    groups = _groups(found)
    frozen = _frozen(found) | dict.fromkeys(found.idle(), why_idle)
    for group in groups:
        if (
            group.width == 1
        ):  # cannot be cut; reported as frozen where the one "channel" is several outputs of a layer
            for layer in found.layers.values():
                if len(found.axes[layer.out_axis]) > 1 and layer.out_axis in group.positions:
                    frozen.setdefault(layer.name, "has outputs that only live and die together")
    free = tuple(group for group in groups if group.width > 1)
    calls = tuple(calls_of(trace) for trace in traces)
    never_empty = (
        why_not_removable(twin, free, traces, calls)
        if traces
        else dict.fromkeys((group.name for group in free), "which may be read in training, which cannot be followed")
    )
    return ChannelGraph(free, tuple(found.layers.values()), frozen, found.norms, found.scaled_by, never_empty, calls)


def _run(
    model: nn.Module, calls: fx.GraphModule, shape: tuple[int, int, int], found: IdRecord, counted: bool
) -> None:
    """Run one image of frozen ids; parameters of `forward` that have defaults get these."""
    images = torch.zeros(1, dtype=torch.int64).expand(1, *shape)
    defaults = [node.args[0] for node in calls.graph.nodes if node.op == "placeholder" and node.args]
    with torch.no_grad():
        IdInterpreter(model, calls, found, counted).run(images, *defaults)


def _groups(found: IdRecord) -> tuple[ChannelGroup, ...]:
    """Channels whose ids occur on the same axes, equally often on each, make one group.

    For a convolution of 2 channels, read by a linear layer behind a flatten of 2 pixels, all ids of all axes in a row
    are the first table. Sorted by root (stable, so in the order of axes and indices within a root) each channel is
    one run of consecutive columns:

        root   7 8 | 7 8 | 7 7 8 8                      root    7 7 7 7 | 8 8 8 8
        axis   0 0 | 1 1 | 2 2 2 2     -- sort -->      axis    0 1 2 2 | 0 1 2 2      equal axes: channels of one
        group index  0 1 | 0 1 | 0 1 2 3                      index   0 0 0 1 | 1 1 2 3      where each channel is on
        them

    axis 0: conv.weight, dimension 0; axis 1: conv.bias; axis 2: linear.weight, dimension 1.
    """
    axes = list(found.axes)
    if not axes:
        return ()
    roots = found.ids.find_all(torch.cat(list(found.axes.values()))).numpy()
    lengths = [len(ids) for ids in found.axes.values()]
    axis = np.repeat(np.arange(len(axes)), lengths)
    index = np.concatenate([np.arange(length) for length in lengths])
    free = roots != FROZEN
    roots, axis, index = roots[free], axis[free], index[free]

    order = np.argsort(roots, kind="stable")
    axis, index = axis[order], index[order]
    starts = np.flatnonzero(np.diff(roots[order], prepend=-1))  # of the runs, one per channel
    ends = np.append(starts[1:], len(order))
    by_axes: dict[bytes, list[int]] = defaultdict(list)  # the axes of a run -> the runs that have exactly these
    for run in np.lexsort((index[starts], axis[starts])):  # by first appearance in the network
        by_axes[axis[starts[run] : ends[run]].tobytes()].append(run)

    layers = list(found.layers.values())
    groups: list[ChannelGroup] = []
    names: Counter[str] = Counter()
    for runs in by_axes.values():
        first, length = starts[runs], ends[runs[0]] - starts[runs[0]]
        indices = index[first[:, None] + np.arange(length)]  # (width, length)
        on = axis[first[0] : first[0] + length]  # (length,)
        positions = {axes[at]: torch.from_numpy(indices[:, on == at]) for at in np.unique(on)}
        consumers = tuple(layer.name for layer in layers if layer.in_axis in positions)
        if not consumers:
            continue  # computed and never read
        producer = axes[on[0]].tensor.rpartition(".")[0]
        names[producer] += 1
        name = producer if names[producer] == 1 else f"{producer}#{names[producer]}"
        outputs = [positions[layer.out_axis].shape[1] for layer in layers if layer.out_axis in positions]
        groups.append(ChannelGroup(name, len(runs), positions, consumers, math.gcd(*outputs) or 1))
    return tuple(groups)


def _frozen(found: IdRecord) -> dict[str, str]:
    """Layers whose outputs cannot be cut, and why; that of the network's own output is not reported."""
    reasons = {layer.name: found.ids.reason(found.axes[layer.out_axis]) for layer in found.layers.values()}
    return {name: why for name, why in reasons.items() if why is not None and why != OUTPUT}
