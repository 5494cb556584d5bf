"""Scores of channels (importance: the smallest are removed first): combining coupled ones, and percentile thresholds.

The percentile is that of network slimming (Liu et al., ICCV 2017, arXiv:1708.06519, section 3): with the scores s of
all groups in one pool of N, ascending, `threshold = s[int(N * p)]`, and channels strictly above it are kept.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from compress.errors import OWN, SettingError
from compress.graph.types import ChannelGraph, ChannelGroup
from compress.schema.settings import Budget

Coupled = Literal["sum", "mean", "max", "keep"]
Select = Literal["threshold", "rank"]

# By group: (width,). A group without scores keeps all of its channels.
Scores = Mapping[str, Tensor]

TIED, FEW = 0.01, 4  # share and number of scores equal to the threshold, above both of which it is refused


def producers(graph: ChannelGraph, group: ChannelGroup) -> int:
    """How many layers produce the channels of a group: several in a residual stream. Depthwise convolutions,
    which pass channels on, do not count."""
    return sum(layer.in_axis is not None and layer.out_axis in group.positions for layer in graph.layers)


def may_lose(graph: ChannelGraph, group: ChannelGroup, coupled: Coupled) -> bool:
    """Whether a group may lose channels: with `keep` not if several layers produce them."""
    return coupled != "keep" or producers(graph, group) <= 1


def per_channel(parts: Mapping[str, Sequence[Tensor]], graph: ChannelGraph, coupled: Coupled) -> Scores:
    """Combine the scores of coupled channels into one per channel: for each group several (width, m) -> (width,).

    `mean` and `max` are over all scores of the channel. `sum` is their mean times the number of layers that produce
    the channel (at most the number of scores): in a residual stream the sum of all scores; but a single score's worth
    for a channel that a depthwise convolution passes on, or that several batch norms of a dense block normalise.
    `keep` leaves out groups that several layers produce: they keep all channels.
    """
    groups = {group.name: group for group in graph}
    combined = {}
    for name, several in parts.items():
        score = torch.cat(list(several), dim=1)
        if not may_lose(graph, groups[name], coupled):
            continue
        made_by = producers(graph, groups[name])
        if score.shape[1] == 1:
            combined[name] = score[:, 0]  # bit-identical
        else:
            combined[name] = score.amax(1) if coupled == "max" else score.mean(1)
            if coupled == "sum":
                combined[name] *= max(1, min(made_by, score.shape[1]))
    return combined


def most_first(score: Tensor) -> Tensor:
    """Channel indices, largest score first: (width,). Among equal scores the lower index is removed first, as in
    `kept_counts`."""
    return score.sort(stable=True).indices.flip(0)


def kept_counts(pool: Scores, removed_share: float, select: Select) -> tuple[dict[str, int], float]:
    """How many channels of each group are kept (0 is possible), and the threshold: the largest score that is removed.

    `removed_share` is in [0, 1). `int(N * removed_share)` is computed in floating point, as in the published code:
    5504 * 0.7 is 3852.7999...

    Raises:
        InputError: with `select` threshold, too many scores equal the threshold.
    """
    scores = torch.cat(list(pool.values()))
    gone = int(len(scores) * removed_share)
    if removed_share == 0:
        return {name: len(score) for name, score in pool.items()}, 0.0
    ordered = scores.sort(stable=True)
    if select == "rank":
        stays = torch.ones(len(scores), dtype=torch.bool)
        stays[ordered.indices[:gone]] = False
        threshold = ordered.values[gone - 1] if gone else torch.zeros(())
    else:
        threshold = ordered.values[min(gone, len(scores) - 1)]  # the product may round up to N
        stays = scores > threshold
        check_ties(scores, float(threshold), Budget("percent", removed_share))
    parts = stays.split([len(score) for score in pool.values()])
    return {name: int(part.sum()) for name, part in zip(pool, parts, strict=True)}, float(threshold)


def check_ties(scores: Tensor, threshold: float, budget: Budget) -> None:
    """
    Raises:
        InputError: too many scores equal the threshold, and are not zero.
    """
    tied = int((scores == threshold).sum())
    if tied > max(FEW, TIED * len(scores)) and threshold > 0:
        raise SettingError(
            f"{budget}: {tied} of {len(scores)} scores equal the threshold {threshold:.4g}, so it tells nothing "
            f"apart (an untrained network?); train first, or use {OWN}select=rank"
        )


def largest_share_without_empty(pool: Scores, select: Select = "threshold") -> float:
    """The largest share, rounded down to four digits, at which every group of a pool keeps at least one channel.

    A group becomes empty when the threshold reaches its largest score. Let m be the smallest of these largest scores,
    and r the number of scores below m: with a threshold that happens at int(N * p) = r, by rank not before r + 1.
    """
    scores = torch.cat(list(pool.values())).sort().values
    smallest_maximum = torch.stack([score.max() for score in pool.values()]).min()
    below = int((scores < smallest_maximum).sum()) - (select == "threshold")
    if below < 0:
        return 0.0
    share = math.floor(1e4 * (below + 1) / len(scores)) / 1e4
    while share > 0 and int(len(scores) * share) > below:
        share = round(share - 1e-4, 4)
    return share
