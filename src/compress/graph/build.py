"""The channel graph: which channels of a network live and die together.

The network is run once on *channel numbers* instead of activations. A convolution or linear layer issues fresh
numbers for its outputs, an addition unites the numbers it adds, and cat, chunk, flatten, permute and their kind are
executed on the numbers as they are. At the end every axis of every weight carries a vector of numbers: that is the
dependency graph, exact per channel, without special cases for residuals, concatenation or squeeze-excite.

Whatever is not understood freezes the channels it touches, and the report says where: wrong surgery is worse than
none. Reshapes, slices and pads whose literal sizes would be stale after a cut freeze too.

Related: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv:2301.12900, which walks from layer
to layer with index mappings; executing the ops on numbers needs no mapping per layer type.
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
from compress.graph.deepcopy import shadow
from compress.graph.ids import FROZEN
from compress.graph.liveness import flow_of
from compress.graph.removable import why_never_empty
from compress.graph.tracing import OUTPUT, Channels, NumberRun, Tracer
from compress.graph.types import ChannelGraph, ChannelGroup


def traced(model: nn.Module) -> fx.GraphModule:
    """The network as a graph of calls.

    Raises:
        InputError: control flow that depends on values; names the line.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    rest = {p.name: p.default for p in parameters[1:] if p.default is not inspect.Parameter.empty}
    try:
        try:
            return fx.GraphModule(model, Tracer(True).trace(model, concrete_args=rest or None))
        except Exception:  # where a buffer decides, it is taken as it is
            return fx.GraphModule(model, Tracer(False).trace(model, concrete_args=rest or None))
    except Exception as error:  # of torch.fx, or of the network, which meets values that are none yet
        library = str(Path(torch.__file__).parent)
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(library)]
        where = f" at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if len(frames) > 1 else ""
        raise InputError(
            f"{type(model).__name__} cannot be traced{where} ({first_line(error)}); move what depends on values or "
            "shapes out of forward, into __init__ or into a module of its own"
        ) from None


def channel_graph(model: nn.Module, shape: tuple[int, int, int]) -> ChannelGraph:
    """Find the groups of a network for images (C, H, W). The model is left as it was.

    Where training runs another way (auxiliary heads), a second run in train mode finds what reads channels there;
    layers that only it meets cost no MACs.

    Raises:
        InputError: the network cannot be traced, or cannot take such images.
    """
    found, twin = Channels(model), shadow(model)
    evaluates = traced(twin.eval())
    runs = [evaluates.graph]
    _run(twin, evaluates, shape, found, counted=True)
    why_idle = "is never run"
    try:
        trains = traced(twin.train())
        if trains.code != evaluates.code:
            runs.append(trains.graph)
        if found.idle() or trains.code != evaluates.code:
            _run(twin, trains, shape, found, counted=False)
    except InputError as error:
        why_idle = f"does not run in evaluation, and training {error}"
        runs = []
    groups = _groups(found)
    frozen = _frozen(found) | dict.fromkeys(found.idle(), why_idle)
    for group in groups:
        if group.width == 1:  # cannot be cut: worth a word where it is many channels
            for layer in found.layers.values():
                if len(found.axes[layer.out_axis]) > 1 and layer.out_axis in group.positions:
                    frozen.setdefault(layer.name, "has outputs that only live and die together")
    free = tuple(group for group in groups if group.width > 1)
    flows = tuple(flow_of(run) for run in runs)
    never_empty = (
        why_never_empty(twin, free, runs, flows)
        if runs
        else dict.fromkeys((group.name for group in free), "which may be read in training, which cannot be followed")
    )
    return ChannelGraph(free, tuple(found.layers.values()), frozen, found.norms, found.scaled_by, never_empty, flows)


def _run(
    model: nn.Module, calls: fx.GraphModule, shape: tuple[int, int, int], found: Channels, counted: bool
) -> None:
    images = torch.zeros(1, dtype=torch.int64).expand(1, *shape)
    defaults = [node.args[0] for node in calls.graph.nodes if node.op == "placeholder" and node.args]
    with torch.no_grad():
        NumberRun(model, calls, found, counted).run(images, *defaults)


def _groups(found: Channels) -> tuple[ChannelGroup, ...]:
    """Numbers that sit on the same axes, equally often on each, are channels of one group."""
    axes = list(found.axes)
    if not axes:
        return ()
    roots = found.numbers.roots(torch.cat(list(found.axes.values()))).numpy()
    lengths = [len(numbers) for numbers in found.axes.values()]
    on_axis = np.repeat(np.arange(len(axes)), lengths)
    position = np.concatenate([np.arange(length) for length in lengths])
    free = roots != FROZEN
    roots, on_axis, position = roots[free], on_axis[free], position[free]

    # One stretch per number, its places in the order of the axes.
    order = np.argsort(roots, kind="stable")
    on_axis, position = on_axis[order], position[order]
    starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
    ends = np.append(starts[1:], len(order))
    alike: dict[bytes, list[int]] = defaultdict(list)
    for stretch in np.lexsort((position[starts], on_axis[starts])):  # by first appearance in the network
        alike[on_axis[starts[stretch] : ends[stretch]].tobytes()].append(stretch)

    layers = list(found.layers.values())
    groups: list[ChannelGroup] = []
    names: Counter[str] = Counter()
    for stretches in alike.values():
        first = starts[stretches]
        places = position[first[:, None] + np.arange(ends[stretches[0]] - first[0])]  # (width, places of a channel)
        where = on_axis[first[0] : ends[stretches[0]]]
        positions = {axes[axis]: torch.from_numpy(places[:, where == axis]) for axis in np.unique(where)}
        consumers = tuple(layer.name for layer in layers if layer.in_axis in positions)
        if not consumers:
            continue  # computed and never read
        producer = axes[where[0]].tensor.rpartition(".")[0]
        names[producer] += 1
        name = producer if names[producer] == 1 else f"{producer}#{names[producer]}"
        outputs = [positions[layer.out_axis].shape[1] for layer in layers if layer.out_axis in positions]
        groups.append(ChannelGroup(name, len(stretches), positions, consumers, math.gcd(*outputs) or 1))
    return tuple(groups)


def _frozen(found: Channels) -> dict[str, str]:
    """Layers with outputs that cannot be cut, and why; the network's output is not worth a word."""
    reasons = {layer.name: found.numbers.why(found.axes[layer.out_axis]) for layer in found.layers.values()}
    return {name: why for name, why in reasons.items() if why is not None and why != OUTPUT}
