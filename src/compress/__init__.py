"""compress: a smaller image classifier, from one configured command or from Python.

compress.load("outputs/2026-11-20/10-00-00-000000")   # the run's network, an nn.Module in eval mode

groups = compress.channel_groups(model, images)       # of any nn.Module; each with .name and .width
plan = compress.Plan({groups[0].name: range(8)})      # the channels that stay
small = compress.cut(model, plan)                     # a new module
with compress.masked(model, plan): ...                # the same outputs, nothing copied
compress.cost(model, images).macs(plan)               # without building anything
compress.counts(compress.zoo("resnet20_cs"), images)  # the shipped networks, and every convention of counting

scores = compress.scores(model, "taylor", batches)    # how much every channel matters, by any criterion
plan = compress.select(groups, scores, percent=0.5)   # the smallest go until the budget is met

env = compress.environment("method=sample", "preserve_ratio=0.5")  # a search of widths, for agents of any library
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.api import (
        channel_groups,
        cost,
        counts,
        cut,
        environment,
        export_onnx,
        load,
        masked,
        scores,
        select,
        uniform_plan,
        unsafe_in_channels_last,
        zoo,
    )
    from compress.graph.plan import Plan

__all__ = [
    "Plan", "channel_groups", "cost", "counts", "cut", "environment", "export_onnx", "load", "masked",
    "scores", "select", "uniform_plan", "unsafe_in_channels_last", "zoo",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Loaded on first use: `compress --help` must not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'compress' has no attribute {name!r}; it has {', '.join(__all__)}")
    from compress import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return __all__
