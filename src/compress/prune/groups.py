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
import traceback
from collections import Counter, defaultdict

import torch
from torch import fx, nn

from compress.prune.graph import Axis, ChannelGraph, ChannelGroup
from compress.prune.numbers import FROZEN
from compress.prune.tracing import NumberRun, Tracer
from compress.settings import InputError


def _trace(model: nn.Module) -> fx.GraphModule:
    """
    Raises:
        InputError: control flow that depends on values; names the line.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    rest = {p.name: p.default for p in parameters[1:] if p.default is not inspect.Parameter.empty}
    try:
        return fx.GraphModule(model, Tracer().trace(model, concrete_args=rest or None))
    except (fx.proxy.TraceError, TypeError) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
        where = f" at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if len(frames) > 1 else ""
        raise InputError(
            f"{type(model).__name__} cannot be traced{where} ({error}); move what depends on values or shapes "
            "out of forward, into __init__ or into a module of its own"
        ) from None


def channel_graph(model: nn.Module, shape: tuple[int, int, int]) -> ChannelGraph:
    """Find the groups of a network for images (C, H, W). The model is left as it was.

    Raises:
        InputError: the network cannot be traced.
    """
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        run = NumberRun(_trace(model))
        images = torch.zeros(1, dtype=torch.int64).expand(1, *shape)
        defaults = [node.args[0] for node in run.graph.nodes if node.op == "placeholder" and node.args]
        with torch.no_grad():
            run.run(images, *defaults)
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]
    return _collect(run)


def _collect(run: NumberRun) -> ChannelGraph:
    """Group the numbers by the set of places they sit in."""
    places: dict[int, list[tuple[Axis, int]]] = defaultdict(list)
    order: dict[int, tuple[int, int]] = {}  # of the first axis that carries a number
    for rank, (axis, numbers) in enumerate(run.axes.items()):
        for position, root in enumerate(run.numbers.roots(numbers).tolist()):
            if root != FROZEN:
                places[root].append((axis, position))
                order.setdefault(root, (rank, position))
    alike: dict[tuple[tuple[Axis, int], ...], list[int]] = defaultdict(list)
    for root in sorted(places, key=order.__getitem__):
        count = Counter(axis for axis, _ in places[root])
        alike[tuple(sorted(count.items()))].append(root)

    groups: list[ChannelGroup] = []
    names: Counter[str] = Counter()
    for roots in alike.values():
        positions: dict[Axis, list[list[int]]] = {}
        for root in roots:
            mine: dict[Axis, list[int]] = defaultdict(list)
            for axis, position in places[root]:
                mine[axis].append(position)
            for axis, where in mine.items():
                positions.setdefault(axis, []).append(where)
        consumers = tuple(layer.name for layer in run.layers.values() if layer.in_axis in positions)
        if not consumers:
            continue  # computed and never read
        producer = next(iter(positions)).tensor.rpartition(".")[0]
        names[producer] += 1
        name = producer if names[producer] == 1 else f"{producer}#{names[producer]}"
        tensors = {axis: torch.tensor(where) for axis, where in positions.items()}
        groups.append(ChannelGroup(name, len(roots), tensors, consumers))

    frozen = {}
    for layer in run.layers.values():
        why = run.numbers.why(run.axes[layer.out_axis])
        if why is not None and why != "is the network's output":
            frozen[layer.name] = why
    return ChannelGraph(tuple(groups), tuple(run.layers.values()), frozen)
