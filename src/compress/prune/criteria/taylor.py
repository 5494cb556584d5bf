"""`taylor`: to first order, how much the loss changes when a channel goes.

Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, arXiv:1906.10771, section 3.2. A gate
z = 1 multiplies the channel; without the channel the loss differs by about dL/dz, the sum of weight x gradient over
the weights that the gate multiplies. A score is the mean over batches of the square of that sum, or of its absolute
value.

Where we differ: a group has one gate, so that what its layers contribute is added with its sign. By default the gate
stands where the channel is read. That is what a cut does, needs no batch norm, and equals the paper's gates behind
the batch norms, sum of gamma x gradient + beta x gradient, as long as only ReLUs, poolings and sums lie between (`of:
norms`). A gate on the filters stands before the batch norm, whose shift a cut removes too. The network runs in eval
mode, as it is cut.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from compress.data.base import Batch
from compress.graph.types import ChannelGraph
from compress.measure.macs import in_eval_mode
from compress.prune.criteria.criterion import Parts, Sample, Slices, makers, precise, readers, totals
from compress.prune.scales import Scale, scales_of
from compress.prune.scores import Scores
from compress.schema.bounds import Count

Gates = Mapping[str, Sequence[Slices]]  # by group what a gate multiplies


def effects(model: nn.Module, gates: Gates, batches: Iterable[Batch]) -> Iterator[Scores]:
    """The derivative of the mean cross entropy by the gate of every channel: for each batch, by group (width,).

    In eval mode. No gradient is left in the parameters, which may be frozen.
    """
    names = sorted({of.parameter for several in gates.values() for of in several})
    leaves = {name: model.get_parameter(name).detach().requires_grad_() for name in names}  # the same memory
    with in_eval_mode(model), torch.enable_grad():
        for images, labels in batches:
            loss = F.cross_entropy(functional_call(model, leaves, (images,)), labels)
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            products = {  # without a gradient: of a part of the network that does not run in eval mode
                name: precise(leaf) * (0 if gradient is None else precise(gradient))
                for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
            }
            yield totals(
                {name: [of.summed(products[of.parameter]) for of in several] for name, several in gates.items()}
            )


@dataclass(frozen=True, kw_only=True)
class Taylor:
    """conf/criterion/taylor.yaml explains every setting."""

    of: Literal["readers", "norms", "filters"]
    measure: Literal["square", "abs"]
    images: Count
    batch_size: Count

    def __call__(self, model: nn.Module, graph: ChannelGraph, sample: Sample) -> Parts:
        power = 2 if self.measure == "square" else 1
        sums: dict[str, Tensor] = {}
        count = 0
        for changes in effects(model, self._gates(model, graph), sample(self.images, self.batch_size)):
            for name, change in changes.items():
                sums[name] = sums.get(name, 0) + change.abs() ** power
            count += 1
        return {name: [(total / count)[:, None]] for name, total in sums.items()}

    def scored(self, model: nn.Module, graph: ChannelGraph) -> list[str]:
        return list(self._gates(model, graph))

    def _gates(self, model: nn.Module, graph: ChannelGraph) -> Gates:
        if self.of == "norms":
            scales = scales_of(model, graph, linear=True)
            return {name: [of for one in several for of in _of_norm(one)] for name, several in scales.items()}
        weights = readers if self.of == "readers" else makers
        return {group.name: found for group in graph if (found := weights(graph, group))}


def _of_norm(scale: Scale) -> list[Slices]:
    return [Slices(f"{scale.norm}.{name}", 0, scale.places) for name in ("weight", "bias")]
