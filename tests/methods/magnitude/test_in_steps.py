"""Iterative pruning: when its masks grow, how far, and what is left for the last step. The training is a stand-in."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import CPU, compose_config
from torch import nn

from compress.config.build import make
from compress.methods.magnitude.magnitude import Magnitude
from compress.models.masks import masks_of, set_masks
from compress.prune.method import Problem
from compress.prune.weight_masks import share_masked
from compress.schema.settings import Budget, Recipe
from compress.train.loop import Hooks


def method(**changes: Any) -> Magnitude:
    made: Magnitude = make(compose_config("method=magnitude", "method.schedule=linear", "method.steps=4")["method"])
    return replace(made, retraining=Recipe(**{**vars(made.retraining), "epochs": 3}), **changes)


def test_masks_grow_when_a_step_begins_and_the_last_step_is_left_to_the_plan() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 20, 5), nn.ReLU(), nn.Conv2d(20, 20, 5), nn.Flatten(), nn.Linear(320, 10))
    shares, trained = list[float](), list[Recipe]()

    def train(recipe: Recipe, hooks: Hooks, network: object = None) -> Any:
        trained.append(recipe)
        assert share_masked(masks_of(model)) == 0  # the masks are there before the first step
        for epoch in range(1, recipe.epochs + 1):
            hooks.begin_epoch(model, epoch)
            shares.append(share_masked(masks_of(model)))
        return {"epochs": recipe.epochs}

    problem = Problem(model, None, None, None, Budget("percent", 0.8), CPU, 0, train=train)  # type: ignore[arg-type]
    told = method().learn(problem, None)  # type: ignore[arg-type]
    assert told["percents"] == pytest.approx([0.2, 0.4, 0.6])
    assert trained == [Recipe(**{**vars(method().retraining), "epochs": 9})]
    assert shares == pytest.approx([0.2] * 3 + [0.4] * 3 + [0.6] * 3, abs=1e-3)
    last = method().plan(problem, None)
    assert last.evidence.percent == pytest.approx(0.8, abs=1e-3)
    before = masks_of(model)
    set_masks(model, last.masks)
    assert all(bool((mask <= before[name]).all()) for name, mask in last.masks.items())  # nested
