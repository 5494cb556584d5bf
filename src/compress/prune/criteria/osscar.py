"""`osscar`: what the layers that read a channel lose without it, when all that is left is refitted.

Meng et al., "OSSCAR: One-Shot Structured Pruning in Vision and Language Models with Combinatorial Optimization", ICML
2024, arXiv:2403.12983. With the Gram matrix G = X^T X of a reading layer's inputs and its weight W (rows: inputs),
the outputs lose, at least,

    s(c) = tr( W_c^T [(G^-1)_cc]^-1 W_c )

in squared error when the rows W_c of channel c become zero and all others are refitted by least squares. The channel
of the smallest s goes, the others are refitted (W -= G^-1[:, c] [(G^-1)_cc]^-1 W_c), G^-1 becomes that of what is
left, and so on. Every set on the way has its least-squares weights, those of `compress.prune.refit`.

The factor 1/2 of the paper is left out, and its further search after the greedy removal. A score is the loss after
the channel and all that went before it are gone, as a share of the squared outputs: in [0, 1], in the order of
removal, and comparable between groups. Several readers of a group: the mean of their shares, as each counts alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.graph.types import ChannelGraph, ChannelGroup
from compress.prune.criteria.criterion import Parts, Sample, readers
from compress.prune.refit import Moments, can_be_refitted, factored, input_moments
from compress.schema.bounds import Count


class Reader:
    """The least squares of one layer, while it loses inputs. All float64.

    `rows` (width, m) are the rows of W of every channel that may go; m is the same for all of them.
    """

    def __init__(self, weight: Tensor, gram: Tensor, rows: Tensor) -> None:
        factor, ridge = factored(gram)
        self.inverse = torch.cholesky_inverse(factor)  # (n, n)
        self.weight = weight.detach().flatten(1).double().T.contiguous()  # (n, outputs)
        energy = (self.weight * (gram @ self.weight + ridge * self.weight)).sum()
        self._scale = 1 / energy.clamp_min(torch.finfo(torch.float64).tiny)
        self.rows = rows.to(gram.device)

    def losses(self) -> Tensor:
        """The share of the outputs that is lost with each channel that is left, alone: (channels left,)."""
        blocks = self.inverse[self.rows[:, :, None], self.rows[:, None, :]]  # channels, m, m
        own = self.weight[self.rows]  # channels, m, outputs
        lost: Tensor = (own * torch.linalg.solve(blocks, own)).sum((1, 2)) * self._scale
        return lost

    def remove(self, channels: Tensor) -> float:
        """Take channels (d,), places among those that are left, out, and refit the rest; the share that is lost."""
        stays = torch.ones(len(self.inverse), dtype=torch.bool, device=self.inverse.device)
        gone = self.rows[channels].flatten()
        stays[gone] = False
        mixed = self.inverse[stays][:, gone]  # n left, d * m
        solved = torch.linalg.solve(self.inverse[gone][:, gone], torch.cat([self.weight[gone], mixed.T], 1))
        outputs = self.weight.shape[1]
        lost = (self.weight[gone] * solved[:, :outputs]).sum() * self._scale
        self.weight = self.weight[stays] - mixed @ solved[:, :outputs]
        self.inverse = self.inverse[stays][:, stays] - mixed @ solved[:, outputs:]
        is_left = torch.ones(len(self.rows), dtype=torch.bool, device=self.rows.device)
        is_left[channels] = False
        self.rows = (stays.cumsum(0) - 1)[self.rows[is_left]]
        return float(lost)


def losses_in_order(systems: Sequence[Reader], width: int, block: int) -> Tensor:
    """Of every channel the share of the outputs that is lost when it and all that went before it are gone: (width,).

    `block` channels go at a time; what they lose together is shared out in the order of their own losses.
    """
    left = torch.arange(width)
    lost = torch.zeros(width, dtype=torch.float64)
    before = 0.0
    while len(left):
        steps = torch.stack([one.losses() for one in systems]).mean(0).cpu().clamp_min(0)
        gone = steps.argsort(stable=True)[:block]
        together = max(0.0, sum(one.remove(gone.to(one.rows.device)) for one in systems) / len(systems))
        shares = steps[gone].cumsum(0)
        lost[left[gone]] = before + together * (shares / shares[-1] if shares[-1] > 0 else 1)
        before += together
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[gone] = False
        left = left[stays]
    return lost


@dataclass(frozen=True, kw_only=True)
class Osscar:
    """conf/criterion/osscar.yaml explains every setting. Groups none of whose readers can be refitted have no
    scores."""

    images: Count
    batch_size: Count
    points: Count
    block: Count

    def __call__(self, model: nn.Module, graph: ChannelGraph, sample: Sample) -> Parts:
        images = (images for images, _ in sample(self.images, self.batch_size))
        generator = torch.Generator().manual_seed(sample.seed)
        moments = input_moments(model, graph, images, self.points, generator)
        parts = {}
        for group in graph:
            systems = _systems(model, graph, group, moments)
            if systems:
                parts[group.name] = [losses_in_order(systems, group.width, self.block)[:, None]]
        return parts

    def scored(self, model: nn.Module, graph: ChannelGraph) -> list[str]:
        return [g.name for g in graph if any(can_be_refitted(model, name) for name in g.consumers)]


def _systems(model: nn.Module, graph: ChannelGraph, group: ChannelGroup, moments: dict[str, Moments]) -> list[Reader]:
    found = []
    for layer, of in zip(group.consumers, readers(graph, group), strict=True):
        if layer in moments:
            weight = model.get_parameter(of.parameter)
            area = weight[0, 0].numel()
            rows = (of.places[:, :, None] * area + torch.arange(area)).flatten(1)
            found.append(Reader(weight, moments[layer].gram, rows))
    return found
