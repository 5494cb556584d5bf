"""The price of widths by the counters of published tables, for any network, without building the cut one.

A counter (`compress.measure.counts` defines them) adds to the MACs the elements of some activations: the outputs of
batch norms, the inputs of poolings, ... Their number is affine in the widths of the groups, so a price is the
bilinear one of `CostModel` plus one constant per channel of every group, and equals the count of the cut network to
the unit. One run of the network on channel ids tells the constants (`compress.graph.elements`).

| counter | column of `Counts` |
|---|---|
| `macs` | `macs` |
| `fvcore` | `fvcore` |
| `search` | `metapruning`: what the search of MetaPruning compares with its limit |
| `ptflops` | `ptflops` |
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from compress.errors import OWN, SettingError
from compress.graph.elements import Counted, PerGroup, elements
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.measure.counts import BATCH_NORMS, POOLS, RELUS, counts
from compress.prune.cost import CostModel
from compress.prune.surgery import cut

Counter = Literal["macs", "fvcore", "search", "ptflops"]
_COLUMNS: dict[Counter, str] = {"macs": "macs", "fvcore": "fvcore", "search": "metapruning", "ptflops": "ptflops"}


@dataclass(frozen=True, eq=False)
class CountedPrice:
    """What widths cost by one counter, in multiply-adds for one image."""

    counter: Counter
    cost: CostModel
    per_channel: PerGroup  # (groups,): counted per kept channel, besides the MACs
    fixed: float

    def __call__(self, widths: ArrayLike) -> NDArray[np.float64]:
        """(n, groups) -> (n,). Whole numbers, exact up to 2^53, for whole widths."""
        batch = np.atleast_2d(np.asarray(widths, dtype=np.float64))
        return self.cost.divisible_macs(batch) + batch @ self.per_channel + self.fixed


def counted_price(
    counter: Counter, model: nn.Module, graph: ChannelGraph, cost: CostModel, shape: tuple[int, int, int]
) -> CountedPrice:
    """The price of `counter` for images of `shape` (C, H, W). Any but `macs` is compared with the count of the whole
    network, which gives the part that no plan changes, and of one that is cut.

    Raises:
        SettingError: the counter counts something in this network that its widths alone do not tell.
        InputError: the network cannot be followed, or cannot take such images.
    """
    if counter == "macs":
        return CountedPrice(counter, cost, np.zeros(len(graph)), 0.0)
    terms = np.zeros(len(graph))
    for call in elements(model, graph, shape):
        terms = terms + _TERMS[counter](call)
    bare = CountedPrice(counter, cost, terms, 0.0)
    column = _COLUMNS[counter]
    fixed = getattr(counts(model, shape), column) - float(bare(cost.full_widths)[0])
    price = CountedPrice(counter, cost, terms, fixed)
    plan = Plan({group.name: range(1 + (group.width - 1) * (at % 7) // 7) for at, group in enumerate(graph)})
    counted = getattr(counts(cut(model, graph, plan), shape), column)
    priced = float(price(graph.widths(plan))[0])
    if counted != priced:
        raise SettingError(
            f"{OWN}counter={counter}: of {type(model).__name__}, cut, it counts {counted:,}, and its widths tell "
            f"{priced:,.0f}: it counts operations that are not followed here; use {OWN}counter=macs"
        )
    return price


# -- what one call adds, per channel of every group ---------------------------------------------------------------


def _search(call: Counted) -> PerGroup:
    is_counted = isinstance(call.layer, BATCH_NORMS) or _has_bias(call, nn.Linear)
    return call.written * is_counted


def _ptflops(call: Counted) -> PerGroup:
    if isinstance(call.layer, BATCH_NORMS):
        return call.written * (1 + call.layer.affine)
    if isinstance(call.layer, POOLS):
        return call.read
    return call.written * (isinstance(call.layer, RELUS) or _has_bias(call, nn.Conv2d))


def _has_bias(call: Counted, kind: type[nn.Module]) -> bool:
    return isinstance(call.layer, kind) and call.layer.bias is not None


_WEIGHT_AT = {"batch_norm": 3, "layer_norm": 2, "group_norm": 2}  # among the arguments of these functions
_UPSAMPLING = {"nearest": 1, "bilinear": 4}


def _fvcore(call: Counted) -> PerGroup:
    """As the handles of fvcore 0.1.5 in eval mode: batch norm 2 per element, 1 without weights; other norms 5 and 4;
    adaptive average pooling its inputs; resizing 1 (nearest) or 4 (bilinear) per output."""
    layer, function = call.layer, call.function
    name = "" if function is None else function.name
    if isinstance(layer, nn.AdaptiveAvgPool2d) or name == "adaptive_avg_pool2d":
        return call.read
    if isinstance(layer, nn.Upsample):
        return call.written * _UPSAMPLING.get(layer.mode, 0)
    if function is not None and name == "interpolate":
        return call.written * _UPSAMPLING.get(str(function.get(3, "mode", default="nearest")), 0)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm):
        return call.written * (2 if layer.affine else 1)
    if isinstance(layer, nn.LayerNorm | nn.GroupNorm | nn.InstanceNorm2d):
        return call.written * (5 if layer.weight is not None else 4)
    if function is not None and name in _WEIGHT_AT:
        has_weight = function.get(_WEIGHT_AT[name], "weight") is not None
        least = 1 if name == "batch_norm" else 4
        return call.written * (least + has_weight)
    return call.written * 0


_TERMS: dict[Counter, Callable[[Counted], Any]] = {"search": _search, "ptflops": _ptflops, "fvcore": _fvcore}
