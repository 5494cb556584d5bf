"""Unstructured magnitude pruning: single weights below a threshold are set to zero and masked in later training.

Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, arXiv:1506.02626.
Shapes do not change, so neither do the MACs of the table; the MACs of the nonzero weights are another column. With a
schedule of several steps the network is pruned iteratively: all steps but the last, each followed by training, are
the stage `sparsify`; the last step is the stage `prune`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from torch import nn

from compress.errors import OWN, SettingError
from compress.graph.plan import Plan
from compress.io.files import JSON
from compress.io.stage_folder import StageFolder
from compress.models.masks import set_masks
from compress.prune.limits import Limits, told
from compress.prune.method import Decision, Evidence, Problem, Traits
from compress.prune.schedule import Schedule, check_schedule, sparsities
from compress.prune.weight_masks import (
    Masked,
    OnEmpty,
    Pool,
    Scope,
    WeightCriterion,
    pools,
    share_masked,
    weight_masks,
)
from compress.schema.bounds import Bound, Count
from compress.schema.settings import Budget, Recipe
from compress.train.loop import Hooks

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Magnitude(Limits):
    """The method `magnitude`; conf/method/magnitude.yaml explains every setting."""

    objects: list[Pool]
    scope: Scope
    criterion: WeightCriterion
    on_empty: OnEmpty
    min_weights: Count
    schedule: Schedule
    steps: Annotated[int, Bound(ge=1, most=10_000)]
    retraining: Recipe

    def __post_init__(self) -> None:
        problems = []
        if not self.objects:
            problems.append(f"{OWN}objects=[]: must name at least one of conv, fc")
        problems += check_schedule(self.schedule, self.steps, self.retraining.epochs)
        if self.retraining.early_stop_epochs is not None:
            problems.append(
                f"{OWN}retraining.early_stop_epochs={self.retraining.early_stop_epochs}: a step that ends early "
                "would skip the ones after it; leave it null"
            )
        if problems:
            raise SettingError(*problems)

    @property
    def traits(self) -> Traits:
        is_iterative = self.steps > 1
        return Traits(
            budgets=("percent",),
            cuts="weights",
            learns=is_iterative,
            needs_learned=is_iterative,
            learns_for_budget=True,
            trains="network",
        )

    def check(self, problem: Problem) -> Budget:
        prunable = pools(problem.model, self.objects)
        if not any(prunable.values()):
            raise SettingError(f"{OWN}objects=[{', '.join(self.objects)}]: this network has no such layers")
        self.check_limits(name for weights in prunable.values() for name in weights)
        if not any(pools(problem.model, self.objects, self._kept_share).values()):
            raise SettingError(f"{told(self)}: leave no weight of these layers that may go")
        return problem.budget

    def _masks(self, model: nn.Module, sparsity: float) -> Masked:
        """
        Raises:
            InputError: a layer would lose all of its weights and `on_empty` is error.
        """
        return weight_masks(
            model,
            sparsity,
            objects=self.objects,
            scope=self.scope,
            criterion=self.criterion,
            on_empty=self.on_empty,
            min_weights=self.min_weights,
            kept_share=self._kept_share,
        )

    def _kept_share(self, layer: str) -> float:
        return self.kept_share([layer])

    # -- learn -------------------------------------------------------------------------------------------------

    def learn(self, problem: Problem, work: StageFolder) -> JSON:
        """All steps but the last as one training, at whose start and every `retraining.epochs` epochs the masks
        grow."""
        step_sparsities = sparsities(self.schedule, self.steps, problem.budget.value)[:-1]
        recipe = self.step_recipe()

        def begin_epoch(model: nn.Module, epoch: int) -> None:
            step, within = divmod(epoch - 1, self.retraining.epochs)
            if within == 0:
                set_masks(model, self._masks(model, step_sparsities[step]).masks)
                log.info(
                    "sparsify: step %d of %d, %.2f %% of the weights are zero",
                    step + 1,
                    self.steps,
                    100 * step_sparsities[step],
                )

        set_masks(
            problem.model, self._masks(problem.model, 0.0).masks
        )  # mask buffers, which a resumed training loads its masks into
        history = problem.train(recipe, Hooks(begin_epoch=begin_epoch))
        return {"made": "network pruned in steps", **history, "percents": step_sparsities}

    def step_recipe(self) -> Recipe:
        return Recipe(**{**vars(self.retraining), "epochs": (self.steps - 1) * self.retraining.epochs})

    # -- prune -------------------------------------------------------------------------------------------------

    def plan(self, problem: Problem, learned: Path | None, work: StageFolder | None = None) -> Decision:
        masked = self._masks(problem.model, problem.budget.value)
        # q of criterion=std gets another key: tables must not put it in the columns of thresholds of |w|
        unit = " std" if self.criterion == "std" else ""
        own = {
            "thresholds": {f"{part}{unit}": level for part, level in masked.levels.items()},
            "layer_thresholds": masked.thresholds,
            "largest_percent_without_empty": masked.limits,
            "refilled": masked.refilled,
            "pruned": _by_pool(problem.model, self.objects, masked),
        }
        # rounding removes at most one more weight per pool
        step = max(len(masked.levels), 1) / sum(mask.numel() for mask in masked.masks.values())
        warnings = []
        if masked.refilled:
            most = "lose all of their" if self.min_weights == 1 else f"keep fewer than {self.min_weights}"
            warnings = [
                f"{len(masked.refilled)} layers would {most} weights, {masked.refilled[0]} first; the "
                f"{self.min_weights} largest of each stay"
            ]
        return Decision(
            Plan(),
            masks=masked.masks,
            own=own,
            warnings=warnings,
            evidence=Evidence(percent=share_masked(masked.masks), rounding_step=step),
        )


def _by_pool(model: nn.Module, objects: list[Pool], masked: Masked) -> JSON:
    """Weights of each pool: removed, and in total."""
    report: JSON = {}
    for pool, weights in pools(model, objects).items():
        masks = [masked.masks[name] for name in weights if name in masked.masks]
        report[pool] = {"pruned": sum(int((~m).sum()) for m in masks), "total": sum(m.numel() for m in masks)}
    return report
