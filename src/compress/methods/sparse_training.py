"""A sparse training: under a penalty that pulls what channels are scored by to zero; how sparse it made them, and
whether that is enough for a cut."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from compress.errors import OWN, InputError, SettingError
from compress.io.files import JSON
from compress.prune.method import Decision, Problem
from compress.schema.settings import Recipe
from compress.train.penalty import Penalty

SMALL = 0.01  # times the largest value (the median may be zero itself): below it a value counts as zero
BINS = 50


def train_sparsely(problem: Problem, recipe: Recipe, penalty: Penalty, row: Callable[[nn.Module], JSON]) -> JSON:
    """Train the network of the problem under a penalty; `row` has entries for the metrics of every epoch.

    Raises:
        SettingError: the training diverged; the penalty may be too strong.
    """
    try:
        return problem.train(recipe, penalty.hooks(row))
    except InputError as error:
        advice = f"or a {OWN}{penalty.name} below {penalty.strength:g}"
        raise SettingError(*(f"{line}, {advice}" for line in error.lines)) from None


def distribution(name: str, values: Tensor) -> JSON:
    """The part of a row of metrics on values (N,) >= 0 of which `name` is one: `<name>_median`, `<name>_small_share`
    (near zero) and a histogram, `<name>s`."""
    median, top = float(values.median()), float(values.max())
    counts, edges = torch.histogram(values, BINS, range=(0.0, top or 1.0))
    return {
        f"{name}_median": float(f"{median:.6g}"),
        f"{name}_small_share": round(float((values < SMALL * top).float().mean()), 4),
        f"{name}s": {
            "edges": [round(edge, 6) for edge in edges.tolist()],
            "counts": [int(n) for n in counts.tolist()],
        },
    }


def diagnosis(decision: Decision, name: str, strength: str, sparse: float) -> list[str]:
    """A warning where the threshold removes scores that are not near zero: above `sparse` times the median of those
    that stay. `name` is what one is called, `strength` the setting that makes them smaller."""
    scored = decision.evidence.scores
    assert scored is not None
    for part, threshold in decision.own["thresholds"].items():
        pool = torch.cat([score for group, score in scored.items() if part in ("all", group)])
        kept = pool[pool > threshold]
        where = "" if part == "all" else f" of {part}"
        if threshold > 0 and not len(kept):
            return [
                f"no {name}{where} is above the threshold {threshold:.3g}, not even one of those that stay; expect a "
                "collapse before fine-tuning"
            ]
        median = float(kept.median()) if len(kept) else 0.0
        if threshold > sparse * median:
            return [
                f"the {name}s{where} are not sparse: the threshold {threshold:.3g} is {threshold / median:.2f} of "
                f"the median of those kept, {median:.3g}; expect a collapse before fine-tuning. More {OWN}{strength} "
                f"or a longer {OWN}training makes them sparser"
            ]
    return []
