"""The environment of amc and camc: the budget holds in every episode, and the state is what it says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.measure.accuracy import Accuracy
from compress.models.mobilenetv1 import mobilenetv1
from compress.models.resnet_cifar import resnet
from compress.prune.cost import cost_model
from compress.prune.widths import all_choices
from compress.search.agent.action_bounds import BudgetMode, RoundedBounds
from compress.search.agent.environment import ChannelEnv, check_target
from compress.search.agent.observations import CleanObserver
from compress.search.agent.rewards import Outcome, acc, acc_normalize


def make_env(
    mode: BudgetMode = "exact", lbound: float = 0.2, round_to: int = 4, net: str = "resnet", **more: Any
) -> ChannelEnv:
    torch.manual_seed(0)
    if net == "resnet":
        model: torch.nn.Module = resnet(depth=20, width=16, shortcut="conv", in_channels=3, num_classes=10)
    else:
        model = mobilenetv1(width=1.0, stem_stride=2, in_channels=3, num_classes=10)
    graph = channel_graph(model, (3, 32, 32))
    cost = cost_model(model, graph, (3, 32, 32))

    def score(widths: tuple[int, ...]) -> Accuracy:
        share = 100 * float(np.mean(np.array(widths) / cost.full_widths))
        return Accuracy(share, min(100.0, share + 5))

    choices = all_choices(graph, round_to, lbound, 1.0)
    state = CleanObserver(model, graph, cost, choices, "scalar", [0.5])
    return ChannelEnv(cost, choices, state, RoundedBounds(cost, choices, mode), score, **({"reward": acc} | more))


@pytest.mark.parametrize("net", ["resnet", "mobilenet"])
@pytest.mark.parametrize("target", [0.3, 0.5, 0.7])
def test_random_episodes_meet_the_budget_to_a_rounding_step(net: str, target: float) -> None:
    env = make_env("exact", net=net)
    random = np.random.default_rng(0)
    for _ in range(30):
        outcome = env.play(target, lambda step, seen: random.random())
        step = env.rounding_step(outcome["widths"])
        assert outcome["ratio"] <= target
        assert target - outcome["ratio"] <= max(0.01 * target, step)


def test_the_upper_wall_alone_lets_an_agent_stay_below() -> None:
    env = make_env("upper")
    assert env.play(0.5, lambda step, seen: 0.0)["ratio"] == pytest.approx(env.reachable[0])
    assert env.play(0.5, lambda step, seen: 1.0)["ratio"] <= 0.5


def test_reachable_bounds_are_named() -> None:
    low, high = make_env(lbound=0.5).reachable
    assert 0.2 < low < 0.4
    assert high == 1
    with pytest.raises(InputError, match=f"ratio=0.1: out of reach; .* smallest share of MACs is {low:.4f}"):
        check_target("ratio=0.1", 0.1, (low, high))


def states(env: ChannelEnv, target: float, share: float) -> list[Any]:
    """What a policy that always asks for `share` sees in an episode."""
    seen: list[Any] = []

    def policy(step: int, observation: Any) -> float:
        seen.append(observation)
        return share

    env.walk(target, policy)
    return seen


def test_a_state_is_a_vector_of_shares_for_each_step() -> None:
    env = make_env()
    seen = states(env, 0.5, 0.6)
    assert len(seen) == env.steps
    for observation in seen:
        assert observation.shape == (env.observation_size,)
        assert observation.dtype == np.float32
        assert (observation >= -1e-6).all()
        assert (observation <= 1 + 1e-6).all()


def test_the_state_counts_macs_and_carries_the_target() -> None:
    env = make_env("upper")
    first, second = states(env, 0.7, 0.5)[:2]
    assert first[7] == pytest.approx(0.7)
    assert first[8] == 0  # nothing removed yet
    assert first[9] == pytest.approx(1 - env.reachable[0])  # all of it still to decide
    assert first[10] == 1
    assert second[8] > 0
    assert second[10] == pytest.approx(0.5)
    assert second[0] > first[0]  # the index


def test_uniform_widths_nearly_use_the_budget() -> None:
    env = make_env(net="mobilenet", round_to=8)
    for target in (0.3, 0.5, 0.7):
        widths = env.uniform_widths(target)
        ratio = float(env._cost.macs(widths)[0] / env._cost.full_macs)
        assert target - env.rounding_step(widths) <= ratio <= target
        shares = np.array(widths) / env._cost.full_widths
        assert np.ptp(shares[:-2]) < 0.3


def test_an_outcome_is_of_the_metric_that_was_chosen_and_relative_to_uniform_widths() -> None:
    """The stand-in for an accuracy is the mean kept share, so that references are known."""
    told: list[Outcome] = []

    def reward(outcome: Outcome) -> float:
        told.append(outcome)
        return acc_normalize(outcome, references="measured", published={})

    for metric, more in (("top1", 0.0), ("top5", 5.0)):
        env = make_env(reward=reward, metric=metric)
        widths = env.walk(0.5, lambda step, seen: 0.9)
        full = env._cost.full_widths
        uniform = env.uniform_widths(0.5)
        mean, reference = (100 * float(np.mean(np.array(each) / full)) + more for each in (widths, uniform))
        outcome = env.scored(widths, 0.5)
        assert outcome["accuracy"] == pytest.approx(mean)
        assert outcome["top5"] == pytest.approx(outcome["top1"] + 5)
        assert outcome["reward"] == pytest.approx(mean / reference)
        assert told[-1] == replace(
            told[-1],
            reference=pytest.approx(reference),
            target=0.5,
            macs=int(env._cost.macs(widths)[0]),
            full_macs=env._cost.full_macs,
            params=int(env._cost.params(widths)[0]),
        )


def test_a_rounding_step_is_the_largest_one() -> None:
    env = make_env(round_to=4)
    widths = env.uniform_widths(0.5)
    steps = []
    for at, options in enumerate(env.choices):
        wider = [w for w in options.tolist() if w > widths[at]] or [
            max(w for w in options.tolist() if w < widths[at])
        ]
        other = (*widths[:at], wider[0], *widths[at + 1 :])
        steps.append(abs(int(env._cost.macs(other)[0]) - int(env._cost.macs(widths)[0])) / env._cost.full_macs)
    assert env.rounding_step(widths) == pytest.approx(max(steps))
    assert max(steps) > 2 * min(steps)


def test_an_action_as_it_was_carried_out_is_the_kept_share_and_asks_for_it_again() -> None:
    env = make_env("upper")  # the exact one spends what uniform widths leave over
    widths, full = env.uniform_widths(0.5), env._cost.full_widths.tolist()
    assert env.executed(widths) == pytest.approx([width / most for width, most in zip(widths, full, strict=True)])
    assert env.walk(0.5, env.replay(widths)) == widths
