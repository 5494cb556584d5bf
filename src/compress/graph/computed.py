"""Convolutions and linear layers that compute the weight they use of their own: standardised, normalised, scaled.

Weight standardisation: Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight
Standardization", arXiv:1903.10520; scaled: Brock et al., "Characterizing signal propagation to close the performance
gap in unnormalized ResNets", ICLR 2021, arXiv:2101.08692. Each output has a row of its own, computed of all inputs.
A row without some inputs has other statistics, which zeros would falsify: while masked, such a layer reads only the
channels that are kept, as it will when cut.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress.graph.values import Ids
from compress.models.unchanged import copy_replacing

if TYPE_CHECKING:
    from compress.graph.run import Run

FIXED_INPUTS = "which computes its weight of a fixed number of inputs"


def rows(run: "Run", weight: str, shape: torch.Size) -> Tensor:
    """A weight with the ids of its outputs for all elements of a row: (out, in / groups, ...)."""
    return run.found.issue(weight, 0, shape[0]).view(-1, *[1] * (len(shape) - 1)).expand(shape)


def weight_behind(run: "Run", weight: Any, x: Any) -> str | None:
    """The name of the weight that a layer whose forward is running has computed `weight` of, row by row, to use it on
    its own input's channels; None if it is anything else."""
    if not (run.computing and isinstance(weight, Ids) and isinstance(x, Ids)):
        return None
    owner, given = next(reversed(run.computing.items()))
    name = f"{owner}.weight" if owner else "weight"
    layer: Any = run.model.get_submodule(owner)
    dim = -1 if isinstance(layer, nn.Linear) else 1
    ids, own = run.activation(weight), run.sets.roots(rows(run, name, layer.weight.shape))
    if ids.shape != own.shape or not torch.equal(ids, own) or not own.any():
        return None
    there, here = (run.channels_along(run.activation(value), dim, owner) for value in (given, x))
    return name if torch.equal(run.sets.roots(there), run.sets.roots(here)) else None


def fits(layer: Any, given: torch.Size, gave: torch.Size) -> bool:
    """Whether a layer runs, and gives the same shape, once it has another number of inputs: twice as many, which no
    broadcasting hides. On the meta device, in a copy."""
    dim, attribute = (-1, "in_features") if isinstance(layer, nn.Linear) else (1, "in_channels")
    shape, images = list(layer.weight.shape), list(given)
    shape[1], images[dim] = 2 * shape[1], 2 * images[dim]
    new: dict[Tensor, Tensor] = {}
    for tensor in (*layer.parameters(), *layer.buffers()):
        size = shape if tensor is layer.weight else tensor.shape
        empty = torch.empty(size, dtype=tensor.dtype, device="meta")
        new[tensor] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    wide: Any = copy_replacing(layer, new)
    setattr(wide, attribute, 2 * getattr(layer, attribute))
    try:
        out = wide(torch.empty(images, dtype=layer.weight.dtype, device="meta"))
    except Exception:  # a network may raise anything
        return False
    return isinstance(out, Tensor) and out.shape == gave
