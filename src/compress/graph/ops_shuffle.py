"""Shuffles: between channels and pixels, and of channels among groups.

A pixel shuffle by r makes one channel of r * r consecutive ones, which live and die together; the other way round all
r * r are the channel they come from. A channel shuffle among g groups puts the channels of one place in every group
side by side, and these live and die together, so that every group keeps equally many.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from compress.graph.ids import spread
from compress.graph.values import Operation

if TYPE_CHECKING:
    from compress.graph.run import Run


def _pixel_shuffle(run: "Run", op: Operation) -> Any:
    """(..., C * r * r, H, W) -> (..., C, H * r, W * r)."""
    x, factor = op.x, _number(run, op, 1, "upscale_factor")
    several = run.channels_along(x, -3, op.name).reshape(-1, factor**2)
    run.sets.union(several, several[:, :1])
    return _resized(run, x, several[:, 0], x.shape[-2] * factor, x.shape[-1] * factor)


def _pixel_unshuffle(run: "Run", op: Operation) -> Any:
    """(..., C, H * r, W * r) -> (..., C * r * r, H, W)."""
    x, factor = op.x, _number(run, op, 1, "downscale_factor")
    if x.shape[-2] % factor or x.shape[-1] % factor:
        raise ValueError(f"a factor of {factor} for images of {tuple(x.shape[-2:])}")
    channels = run.channels_along(x, -3, op.name).repeat_interleave(factor**2)
    return _resized(run, x, channels, x.shape[-2] // factor, x.shape[-1] // factor)


def _channel_shuffle(run: "Run", op: Operation) -> Any:
    """(B, C, ...) -> (B, C, ...): channel j of group i goes to place i of j."""
    x, groups = op.x, _number(run, op, 1, "groups")
    by_group = run.channels_along(x, 1, op.name).reshape(groups, -1)
    run.sets.union(by_group, by_group[:1])
    return spread(run.sets.roots(by_group.t().flatten()), x.shape)


def _number(run: "Run", op: Operation, at: int, name: str) -> int:
    given = op.get(at, name)
    run.freeze_counts([given])
    return int.__index__(given)


def _resized(run: "Run", x: Tensor, channels: Tensor, height: int, width: int) -> Tensor:
    return spread(run.sets.roots(channels), [*x.shape[:-3], len(channels), height, width], -3)


ON_IDS: Mapping[str, Callable[["Run", Operation], Any]] = {
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _channel_shuffle),
}
