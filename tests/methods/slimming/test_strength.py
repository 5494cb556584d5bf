"""Slimming tells before its training that its penalty is too weak for it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import CPU, compose_config, make_recipe

from compress.config.build import make
from compress.data.memory import MemoryData
from compress.io.files import JSON
from compress.io.stage_folder import StageFolder
from compress.methods.slimming.strength import distance, least_strength, rounded_up
from compress.models.resnet_cifar import resnet
from compress.run.job import make_problem
from compress.schema.settings import Budget
from compress.train.schedule import learning_rate


def test_the_least_strength_takes_a_scale_to_zero_by_hand() -> None:
    """Steps of plain SGD on `strength * sign(scale)` alone, against the closed form."""
    recipe = make_recipe(epochs=3, lr=0.1, momentum=0.0, weight_decay=0.01, schedule="cosine", warmup_epochs=1.0)
    steps = 200
    strength = least_strength(0.8, recipe, steps)
    for times, ends_above in ((0.98, True), (1.02, False)):
        scale = 0.8
        for step in range(3 * steps):
            rate = learning_rate(recipe, (step + 0.5) / steps)
            scale -= rate * (times * strength + recipe.weight_decay * scale)
        assert (scale > 0) is ends_above
    assert distance(replace(recipe, momentum=0.9), steps) == pytest.approx(10 * distance(recipe, steps))
    assert least_strength(0.8, replace(recipe, weight_decay=0.0), steps) == pytest.approx(
        0.8 / distance(recipe, steps)
    )
    assert [rounded_up(value) for value in (0.00123, 0.002, 0.96, 3.0e-5)] == ["0.002", "0.002", "1", "3e-05"]


def test_a_penalty_that_is_too_weak_is_told_before_the_training(
    digit_data: MemoryData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(*_: Any) -> JSON:
        raise KeyError("the training begins")

    told = []
    model = resnet(depth=8, width=8, shortcut="conv", in_channels=1, num_classes=10)
    problem = replace(make_problem(model, digit_data, Budget("percent", 0.5), CPU, 0, lambda: model), train=stop)
    for strength in (1e-5, 1e-2):
        method = make(compose_config("method=slimming", f"method.l1={strength}")["method"])
        caplog.clear()
        with pytest.raises(KeyError, match="begins"):
            method.learn(problem, StageFolder(tmp_path))
        told.append(
            [record.message for record in caplog.records if "cannot make the scales sparse" in record.message]
        )
    assert [len(lines) for lines in told] == [1, 0]
    asked = re.search(r"it takes l1=(\S+) at least", told[0][0])
    assert asked is not None
    assert 1e-3 < float(asked[1]) <= 1e-2
