"""Builds the channel graph: which channels of a network are coupled, and have to be cut together.

The network is run once on *channel ids* instead of activations. A convolution or linear layer issues fresh ids for
its outputs, an addition unites the ids that it adds (union-find), and cat, chunk, flatten, permute and their kind are
executed on the ids as they are. At the end every axis of every weight carries a vector of ids: that is the dependency
graph, exact per channel, without special cases for residuals, concatenation or squeeze-excite.

`compress.graph.run` runs it; the operations that it knows are in `compress.graph.operations`, the layers in
`compress.graph.modules`. An operation that is not understood freezes the channels it touches and is named in
`ChannelGraph.frozen`: a layer left whole is better than one cut wrongly. Reshapes, slices and pads whose literal
sizes would be stale after a cut freeze too.

Related: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv:2301.12900, which walks from layer
to layer with index mappings; executing the operations on ids needs no mapping per layer type.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

from compress.errors import InputError
from compress.graph import caches
from compress.graph.ids import FROZEN, channel_dims
from compress.graph.record import Record
from compress.graph.removable import why_not_removable
from compress.graph.run import IS_OUTPUT, Run
from compress.graph.tape import Tape
from compress.graph.twin import Flag, set_training
from compress.graph.types import Axis, ChannelGraph, ChannelGroup
from compress.graph.values import Ids
from compress.models.inputs import Given, tensors_in


def channel_graph(model: nn.Module, given: Given) -> ChannelGraph:
    """Find the groups of a network for images of a shape (C, H, W), or other inputs. The model is not changed.

    Where the forward asks whether it is in training (auxiliary heads), it is run in train mode as well, to find what
    reads channels there; layers that run only in train mode cost no MACs.

    Raises:
        InputError: the network decides by values, or cannot take such images.
    """
    run, first, filled = _evaluated(model, given)
    found = run.found
    tapes: tuple[Tape, ...] = (first,)
    cannot_train = ""
    try:
        if found.idle() or _may_differ_in_training(model):
            set_training(run.twin, True)
            caches.empty(run.twin, filled)
            before = caches.held(run.twin)
            trained = run(given, counted=False)
            after = caches.held(run.twin)
            filled |= _were_there(model, _of_channels(run, after, caches.filled(before, after)))
            tapes += (trained,) if trained != tapes[0] else ()
    except InputError as error:
        cannot_train = str(error)
    found.close()
    groups = _groups(found)
    frozen = _frozen(found) | dict.fromkeys(
        found.idle(), f"does not run in evaluation, and training {cannot_train}" if cannot_train else "is never run"
    )
    for group in groups:
        if group.width == 1:  # cannot be cut; reported as frozen where it is several outputs of a layer
            for layer in found.layers.values():
                if len(found.axes[layer.out_axis]) > 1 and layer.out_axis in group.positions:
                    frozen.setdefault(layer.name, "has outputs that only live and die together")
    free = tuple(group for group in groups if group.width > 1)
    never_empty = (
        dict.fromkeys((group.name for group in free), "which may be read in training, which cannot be followed")
        if cannot_train
        else why_not_removable(model, free, tapes)
    )
    layers, products = tuple(found.layers.values()), _product_macs(found, free)
    return ChannelGraph(
        free, layers, frozen, found.norms, found.scaled_by, never_empty, tapes, products, filled,
        frozenset(found.computed),
    )  # fmt: skip


def _evaluated(model: nn.Module, given: Given) -> tuple[Run, Tape, dict[str, bool]]:
    """The run in eval mode, its tape, and the caches that it fills. What the network's earlier forwards have left in
    attributes is taken away first; where that was no cache, all is as with the tensors as constants."""
    run = Run(model)
    constants = caches.held(run.twin)
    maps = [name for name, value in constants.items() if isinstance(value, dict)]
    for attempt, names in enumerate(dict.fromkeys((tuple(constants), tuple(maps), ()))):
        run = run if attempt == 0 else Run(model)
        set_training(run.twin, False)
        caches.empty(run.twin, dict.fromkeys(names, True))
        before = caches.held(run.twin)
        try:
            tape = run(given)
        except InputError:
            if not names:
                raise
            continue
        after = caches.held(run.twin)
        filled = caches.filled(before, after)
        if all(name in filled and caches.are_alike(constants[name], after[name]) for name in names):
            break
    return run, tape, _were_there(model, _of_channels(run, after, filled))


def _of_channels(run: Run, held: caches.Held, names: Iterable[str]) -> list[str]:
    """The caches that a cut makes narrow. Any other, such as a grid of anchors, is right as it is; and what tells a
    network that it is, such as the size of the images that it was made for, is not known to be a part of it."""
    ids = {name: [tensor for tensor in tensors_in(held[name]) if isinstance(tensor, Ids)] for name in names}
    return [name for name, several in ids.items() if any(channel_dims(run.sets.roots(one)) for one in several)]


def _were_there(model: nn.Module, attributes: Iterable[str]) -> dict[str, bool]:
    parts = ((name, *name.rpartition(".")[::2]) for name in attributes)
    return {name: key in vars(model.get_submodule(owner)) for name, owner, key in parts}


def _may_differ_in_training(model: nn.Module) -> bool:
    """Whether the run that was made in eval mode could be another one in train mode."""
    return Flag.asked or any(type(module).train is not nn.Module.train for module in model.modules())


def _groups(found: Record) -> tuple[ChannelGroup, ...]:
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
    roots = found.ids.roots(torch.cat(list(found.axes.values()))).numpy()
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
    # Names of groups are of layers, where one writes the channels; outputs of a layer by row of its weight
    written = {layer.out_axis: layer.outputs_per_row for layer in layers}
    readers: dict[Axis | None, list[int]] = defaultdict(list)  # places of layers
    for place, layer in enumerate(layers):
        readers[layer.in_axis].append(place)
    groups: list[ChannelGroup] = []
    names: Counter[str] = Counter()
    for runs in by_axes.values():
        begin, length = starts[runs], ends[runs[0]] - starts[runs[0]]
        indices = index[begin[:, None] + np.arange(length)]  # (width, length)
        on = axis[begin[0] : begin[0] + length]  # (length,)
        found_on, counts = np.unique(on, return_counts=True)  # `on` ascends
        parts = torch.from_numpy(indices).split(counts.tolist(), dim=1)
        positions = {axes[at]: part for at, part in zip(found_on, parts, strict=True)}
        consumers = tuple(layers[at].name for at in sorted(at for axis in positions for at in readers.get(axis, ())))
        if not consumers:
            continue  # computed and never read
        first = next((axis for axis in positions if axis in written), axes[on[0]])
        producer = first.tensor.rpartition(".")[0]
        names[producer] += 1
        name = producer if names[producer] == 1 else f"{producer}#{names[producer]}"
        outputs = [part.shape[1] * written[axis] for axis, part in positions.items() if axis in written]
        groups.append(ChannelGroup(name, len(runs), positions, consumers, math.gcd(*outputs) or 1))
    return tuple(groups)


def _product_macs(found: Record, groups: Sequence[ChannelGroup]) -> dict[str, int]:
    """MACs of products of activations that one channel of a group costs, such as a head of attention."""
    owner = torch.full((len(found.ids.all_roots()),), -1)
    for at, group in enumerate(groups):
        axis, places = next(iter(group.positions.items()))
        owner[found.ids.roots(found.axes[axis][places.flatten()])] = at
    macs: Counter[str] = Counter()
    for ids, each in found.products:
        for at, count in zip(*owner[found.ids.roots(ids)].unique(return_counts=True), strict=True):
            if at >= 0:
                macs[groups[at].name] += int(count) * each // groups[at].width
    return {name: count for name, count in macs.items() if count}


def _frozen(found: Record) -> dict[str, str]:
    """Layers whose outputs cannot be cut, and other modules with weights that stay whole, and why; that of the
    network's own output is not reported."""
    produced = {**found.tables, **{layer.name: layer.out_axis for layer in found.layers.values()}}
    reasons = {name: found.ids.reason(found.axes[axis]) for name, axis in produced.items()}
    frozen = {name: why for name, why in reasons.items() if why is not None and why != IS_OUTPUT}
    return {**found.whole, **frozen}
