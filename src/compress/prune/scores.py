"""Scores of channels: what is larger stays longer. How several of one channel become one, and thresholds among them.

The percentile is that of network slimming (Liu et al., ICCV 2017, arXiv:1708.06519, section 3): with the scores of
all groups in one pool of N, ascending, `threshold = s[int(N * p)]`, and what is above it stays, strictly.
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
Threshold = Literal["threshold", "rank"]

# Of each group (width,). A group that is not named keeps all of its channels.
Scores = Mapping[str, Tensor]

TIED, FEW = 0.01, 4  # share of scores that equal the threshold, and how many, above which it is no rule


def producers(graph: ChannelGraph, group: ChannelGroup) -> int:
    """How many layers make the channels of a group: several in a residual stream. Depthwise ones pass them on."""
    return sum(layer.in_axis is not None and layer.out_axis in group.positions for layer in graph.layers)


def per_channel(parts: Mapping[str, Sequence[Tensor]], graph: ChannelGraph, coupled: Coupled) -> Scores:
    """One score per channel from the several, (width, m) each, that a group has.

    `sum` counts their mean as often as layers make the channel: all of a residual stream's scores, but one for a
    channel that a depthwise convolution passes on, or that a dense block normalises again and again. `keep` leaves
    out what several layers make.
    """
    groups = {group.name: group for group in graph}
    found = {}
    for name, several in parts.items():
        score = torch.cat(list(several), dim=1)
        made_by = producers(graph, groups[name])
        if coupled == "keep" and made_by > 1:
            continue
        if score.shape[1] == 1:
            found[name] = score[:, 0]  # as it is, to the bit
        else:
            found[name] = score.amax(1) if coupled == "max" else score.mean(1)
            if coupled == "sum":
                found[name] *= max(1, min(made_by, score.shape[1]))
    return found


def most_first(score: Tensor) -> Tensor:
    """Channels, most important first: (width,). Of equal ones those go first that come first, as in `kept_counts`."""
    return score.sort(stable=True).indices.flip(0)


def kept_counts(pool: Scores, percent: float, select: Literal["threshold", "rank"]) -> tuple[dict[str, int], float]:
    """How many of each group stay, perhaps none, and the threshold: the largest score that goes.

    `int(N * percent)` is taken in floating point, as published: 5504 * 0.7 is 3852.7999..., and so on.

    Raises:
        InputError: too many scores equal the threshold.
    """
    scores = torch.cat(list(pool.values()))
    gone = int(len(scores) * percent)
    if percent == 0:
        return {name: len(score) for name, score in pool.items()}, 0.0
    ordered = scores.sort(stable=True)
    if select == "rank":
        stays = torch.ones(len(scores), dtype=torch.bool)
        stays[ordered.indices[:gone]] = False
        threshold = ordered.values[gone - 1] if gone else torch.zeros(())
    else:
        threshold = ordered.values[min(gone, len(scores) - 1)]  # the product may round up to N
        stays = scores > threshold
        check_ties(scores, float(threshold), Budget("percent", percent))
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


def largest_percent(pool: Scores, select: Literal["threshold", "rank"] = "threshold") -> float:
    """The largest percent, rounded down to four digits, at which every group of a pool keeps something.

    A group is empty once the threshold reaches its largest score: with r scores below the smallest of those largest
    ones that is at int(N * p) = r, and by rank one later at the earliest.
    """
    scores = torch.cat(list(pool.values())).sort().values
    least = torch.stack([score.max() for score in pool.values()]).min()
    below = int((scores < least).sum()) - (select == "threshold")
    if below < 0:
        return 0.0
    percent = math.floor(1e4 * (below + 1) / len(scores)) / 1e4
    while percent > 0 and int(len(scores) * percent) > below:
        percent = round(percent - 1e-4, 4)
    return percent
