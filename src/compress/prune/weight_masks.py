"""Masks of single weights by magnitude: where a budget in weights becomes a threshold, and that a mask.

All weights of the convolutions (first, 1x1 and depthwise ones too) are one pool, all weights of the linear layers
another; biases and batch norms are not pruned. In a pool of n weights

    threshold = sorted(|w|)[int(n * sparsity)],  kept: |w| > threshold, strictly

so that without ties int(n * sparsity) + 1 weights are removed. The product is in floating point, as in the code
behind the published tables: int(100 * 0.29) is 28. With sparsity 0 nothing is removed, and the threshold is 0.
`scope=layer` makes every layer a pool.

`criterion=std` is that of Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS
2015, arXiv:1506.02626, section 3: the threshold of a layer is q times the standard deviation of its weights. There q
is chosen by hand; here it is the one that removes the requested share of the pool: the percentile rule on |w| / std.

A weight that is already masked counts as a zero of the pool and stays masked, so that the masks of growing shares are
nested, however training changed the weights in between.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compress.errors import OWN, SettingError
from compress.io.files import JSON
from compress.models.masks import MASK, masked_layers, masks_of

Pool = Literal["conv", "fc"]
Scope = Literal["global", "layer"]
WeightCriterion = Literal["percentile", "std"]
OnEmpty = Literal["keep_max", "error"]
KINDS: dict[Pool, type[nn.Module]] = {"conv": nn.Conv2d, "fc": nn.Linear}


@dataclass(frozen=True)
class Masked:
    """Masks, and the thresholds that they were computed from."""

    masks: dict[str, Tensor]  # by layer; bool of the weight's shape, True is kept, on the CPU
    thresholds: dict[str, float]  # by layer: of |w|
    levels: dict[str, float]  # by pool (by layer with scope=layer): the threshold of |w|; q with criterion=std
    limits: dict[Pool, float]  # below this share (strictly) no layer of the pool is emptied
    refilled: list[str]  # layers where on_empty=keep_max kept weights that are not above the threshold


def _none(_: str) -> float:
    return 0.0


def pools(
    model: nn.Module, objects: Sequence[Pool], kept_share: Callable[[str], float] = _none
) -> dict[Pool, dict[str, Tensor]]:
    """The prunable weights, pool -> layer -> weight, in module order, without those of which all must stay.

    A weight shared by two layers is listed once, under the first; one computed from other parameters (a
    parametrisation) is not listed.
    """
    by_pool: dict[Pool, dict[str, Tensor]] = {pool: {} for pool in KINDS if pool in objects}
    seen: set[int] = set()
    for name, layer in model.named_modules():
        for pool, weights in by_pool.items():
            weight = layer._parameters.get("weight") if isinstance(layer, KINDS[pool]) else None
            if weight is not None and id(weight) not in seen and kept_share(name) < 1:
                seen.add(id(weight))
                weights[name] = weight
    return by_pool


def weight_masks(
    model: nn.Module,
    sparsity: float,
    *,
    objects: Sequence[Pool],
    scope: Scope,
    criterion: WeightCriterion,
    on_empty: OnEmpty,
    min_weights: int,
    kept_share: Callable[[str], float] = _none,
) -> Masked:
    """Masks that remove the share `sparsity`, in [0, 1), of the weights of each pool; the model is not changed.

    With `on_empty` keep_max every layer keeps at least its `min_weights` largest (all, if it has fewer). Of a layer
    at least `kept_share(name)` of the weights stay, its largest; where that is all of them, it is in no pool.

    Raises:
        SettingError: no layer to prune, or with `on_empty` error a layer would keep no weight.
    """
    assert 0 <= sparsity < 1
    assert min_weights >= 1
    by_pool = pools(model, objects, kept_share)
    if not any(by_pool.values()):
        raise SettingError(f"{OWN}objects=[{', '.join(objects)}]: the network has no such layers to prune")
    old = masks_of(model)
    masked = Masked({}, {}, {}, {}, [])
    for pool, weights in by_pool.items():
        if not weights:
            continue
        layers = [_Layer.of(name, weight, old.get(name), criterion) for name, weight in weights.items()]
        parts = {pool: layers} if scope == "global" else {layer.name: [layer] for layer in layers}
        masked.limits[pool] = min(map(_limit, parts.values()))
        for part, ranked in parts.items():
            level = masked.levels[part] = _level(ranked, sparsity)
            for layer in ranked:
                masked.thresholds[layer.name] = level * layer.unit
                keep = layer.score > level if sparsity else layer.alive
                if on_empty == "error" and not keep.any():
                    raise SettingError(_emptied(layer, sparsity, level, pool, masked.limits[pool]))
                if on_empty == "keep_max" and int(keep.sum()) < min(min_weights, int(layer.alive.sum())):
                    keep = layer.largest(min_weights)
                    if not keep.all():
                        masked.refilled.append(layer.name)
                least = math.ceil(kept_share(layer.name) * keep.numel() - 1e-9)
                if int(keep.sum()) < min(least, int(layer.alive.sum())):
                    keep = layer.largest(least)
                masked.masks[layer.name] = keep
    return masked


@dataclass(frozen=True)
class _Layer:
    """The scores of the weights of one layer; every tensor has the weight's shape."""

    name: str
    score: Tensor  # |w| / unit, 0 where masked
    alive: Tensor  # bool: not masked
    unit: float  # 1, or the standard deviation

    @staticmethod
    def of(name: str, weight: Tensor, mask: Tensor | None, criterion: WeightCriterion) -> "_Layer":
        weight = weight.detach().cpu().float()
        alive = torch.ones(weight.shape, dtype=torch.bool) if mask is None else mask.cpu().clone()
        weight = weight.masked_fill(~alive, 0)
        if criterion == "percentile":
            return _Layer(name, weight.abs(), alive, 1.0)
        # In float64, so that two different weights still differ after the division.
        deviation = float(weight.double().std(correction=0))
        unit = max(deviation, torch.finfo(torch.float32).tiny)  # the deviation of equal weights is 0
        return _Layer(name, weight.double().abs() / unit, alive, unit)

    def largest(self, count: int) -> Tensor:
        """A mask of the `count` largest weights that are not masked; among equal ones the first."""
        order = self.score.masked_fill(~self.alive, -1).flatten().sort(descending=True, stable=True).indices
        best = torch.zeros(self.alive.numel(), dtype=torch.bool)
        best[order[:count]] = True
        return best.view_as(self.alive) & self.alive


def _level(layers: Sequence[_Layer], sparsity: float) -> float:
    """sorted(scores)[int(n * sparsity)]."""
    if sparsity == 0:
        return 0.0
    scores = torch.cat([layer.score.flatten() for layer in layers])
    return float(scores.kthvalue(int(len(scores) * sparsity) + 1).values)  # kthvalue counts from 1


def _limit(layers: Sequence[_Layer]) -> float:
    """The share strictly below which every layer has a score above the threshold: with m the smallest of the layers'
    largest scores, the share of scores below m."""
    least = min(float(layer.score.max()) for layer in layers)
    below = sum(int((layer.score < least).sum()) for layer in layers)
    return below / sum(layer.score.numel() for layer in layers)


def _emptied(layer: _Layer, sparsity: float, level: float, pool: Pool, limit: float) -> str:
    safe = math.floor(limit * 1e6) / 1e6  # rounding up would not be safe
    return (
        f"percent={sparsity:g}: leaves layer {layer.name} no weight (threshold {level * layer.unit:.4g}, "
        f"its largest |w| {float(layer.score.max()) * layer.unit:.4g}); every {pool} layer keeps some with percent "
        f"below {safe:g}, or choose {OWN}on_empty=keep_max"
    )


def uniform_masks(
    model: nn.Module, sparsity: float, objects: Sequence[Pool], kept_share: Callable[[str], float] = _none
) -> Masked:
    """Masks that remove the same share of every layer; a layer that would lose all keeps its largest weight."""
    return weight_masks(
        model,
        sparsity,
        objects=objects,
        scope="layer",
        criterion="percentile",
        on_empty="keep_max",
        min_weights=1,
        kept_share=kept_share,
    )


def random_masks(model: nn.Module, masks: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Masks that keep as many weights of every layer as `masks`, drawn at random among those not yet masked.

    The random order depends on the seed and the shapes only, so that with one seed the masks of two shares are
    nested.
    """
    random = torch.Generator().manual_seed(seed)
    old = {name: mask.cpu() for name, mask in masks_of(model).items()}
    drawn = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=random)
        if name in old:
            order = order[old[name].flatten()[order]]
        drawn[name] = torch.zeros(mask.numel(), dtype=torch.bool)
        drawn[name][order[: int(mask.sum())]] = True
        drawn[name] = drawn[name].view(mask.shape)
    return drawn


def share_masked(masks: Mapping[str, Tensor]) -> float:
    """Share of weights that masks remove, over all of their layers: in [0, 1]."""
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def sparsity_report(model: nn.Module) -> JSON:
    """Numbers of zero weights: of each masked layer, of each pool, of all pools, and of all parameters.

    `nonzero` counts values; `kept` counts the mask, and is larger where a kept weight is zero.
    """
    prunable = pools(model, tuple(KINDS))
    layers = {}
    for name, layer in masked_layers(model).items():
        weight, mask = layer.get_parameter("weight"), layer.get_buffer(MASK)
        layers[name] = {"shape": list(weight.shape), "kept": int(mask.sum()), **_counted([weight])}
    by_pool = {pool: list(weights.values()) for pool, weights in prunable.items() if weights}
    return {
        "layers": layers,
        "pools": {pool: _counted(weights) for pool, weights in by_pool.items()},
        "prunable": _counted([weight for weights in by_pool.values() for weight in weights]),
        "parameters": _counted(list(model.parameters())),
    }


def _counted(tensors: Sequence[Tensor]) -> JSON:
    total = sum(tensor.numel() for tensor in tensors)
    nonzero = sum(int(tensor.count_nonzero()) for tensor in tensors)
    return {
        "total": total,
        "nonzero": nonzero,
        "share_zero": (total - nonzero) / total if total else 0.0,
        "compression": total / nonzero if nonzero else None,  # JSON has no infinity
    }
