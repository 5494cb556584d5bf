"""Rewards by hand numbers, the conditional agent's by what its authors' log printed."""

import json
import math
from dataclasses import replace

import pytest
from conftest import ORACLES, compose_config

from compress.config.build import make
from compress.errors import InputError
from compress.search.agent.rewards import Outcome, acc, acc_flops, acc_normalize, acc_params, acc_pres

OUTCOME = Outcome(accuracy=58.5333, reference=73.0, target=0.5, macs=49_480, full_macs=100_000, params=1000)
PUBLISHED = {0.3: 0.09, 0.5: 0.73, 0.7: 0.91}
PRINTED = json.loads((ORACLES / "amc_seed.json").read_text())["acc_normalize_check"]


def test_by_hand() -> None:
    assert acc(OUTCOME) == pytest.approx(0.585333)
    assert acc_flops(OUTCOME) == pytest.approx(-0.414667 * math.log(49_480))
    assert acc_params(OUTCOME) == pytest.approx(-0.414667 * math.log(1000))
    assert acc_pres(OUTCOME) == pytest.approx(0.009 * 58.5333 + 0.1 * (1 - 0.0104))
    assert acc_normalize(OUTCOME, references="measured", published={}) == pytest.approx(0.8018, abs=1e-4)


def test_references_of_nothing_make_no_wonders() -> None:
    lost = replace(OUTCOME, accuracy=50.0, reference=0.0)
    assert acc_normalize(lost, references="measured", published={}) == 50


def test_published_references_give_the_printed_rewards() -> None:
    assert len(PRINTED) == 3
    for row in PRINTED:
        outcome = replace(OUTCOME, accuracy=row["acc5"], target=row["target"])
        assert acc_normalize(outcome, references="published", published=PUBLISHED) == pytest.approx(
            row["reward"], abs=5e-5
        )
    with pytest.raises(InputError, match=r"^references=published: knows the targets 0.3, 0.5, 0.7, not 0.4;"):
        acc_normalize(replace(OUTCOME, target=0.4), references="published", published=PUBLISHED)


@pytest.mark.parametrize("name", ["acc", "acc_flops", "acc_params", "acc_normalize", "acc_pres"])
def test_every_shipped_reward_takes_an_outcome(name: str) -> None:
    config = compose_config("method=camc", f"reward={name}")
    assert config["method"]["reward"]["name"] == name
    worse = make(config["reward"])(replace(OUTCOME, accuracy=40.0))
    assert worse < make(config["reward"])(OUTCOME)


def test_methods_bring_their_reward_and_seed_its_constants() -> None:
    assert compose_config("method=amc")["reward"]["name"] == "acc"
    assert compose_config("method=camc")["reward"]["references"] == "measured"
    assert compose_config("method=camc", "method.compat=seed")["reward"]["references"] == "published"
    assert compose_config("method=camc", "reward=acc")["method"]["reward"]["name"] == "acc"
