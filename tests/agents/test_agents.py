"""Replay keeps the last transitions, noise stays in range, and DDPG learns a toy whose optimum is known."""

import math

import pytest
import torch

from compress.agents.ddpg import DDPG, DDPGSettings
from compress.agents.noise import decayed_sigma, truncated_normal
from compress.agents.replay import Replay

SETTINGS = DDPGSettings(
    hidden=64, actor_lr=1e-3, critic_lr=1e-2, discount=1.0, tau=0.05, batch_size=64, baseline_rate=0.5
)


def test_the_ring_holds_exactly_the_last_ones() -> None:
    replay = Replay(5, 1, 1)
    for i in range(12):
        replay.add(torch.tensor([float(i)]), torch.tensor([0.5]), float(i), torch.zeros(1), i % 3 == 2, i % 2)
    assert len(replay) == 5
    drawn = replay.sample(500, torch.Generator().manual_seed(0))
    assert sorted(set(drawn.reward.tolist())) == [7, 8, 9, 10, 11]
    assert torch.equal(drawn.state[:, 0], drawn.reward)
    assert torch.equal(drawn.task, drawn.reward.long() % 2)
    assert torch.equal(drawn.end.bool(), drawn.reward.long() % 3 == 2)


def test_a_saved_ring_goes_on_as_the_old_one() -> None:
    one = Replay(4, 1, 1)
    for i in range(6):
        one.add(torch.tensor([float(i)]), torch.zeros(1), float(i), torch.zeros(1), False, 0)
    two = Replay(4, 1, 1)
    two.load_state_dict(one.state_dict())
    for ring in (one, two):
        ring.add(torch.tensor([9.0]), torch.zeros(1), 9.0, torch.zeros(1), True, 0)
    draws = [ring.sample(50, torch.Generator().manual_seed(1)) for ring in (one, two)]
    assert all(torch.equal(a, b) for a, b in zip(*draws, strict=True))


@pytest.mark.parametrize("mean", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("sigma", [0.001, 0.1, 0.5, 5.0])
def test_noise_stays_in_range_and_around_its_mean(mean: float, sigma: float) -> None:
    draws = truncated_normal(torch.full((4000,), mean), sigma, torch.Generator().manual_seed(0))
    assert float(draws.min()) >= 0
    assert float(draws.max()) <= 1
    a, b = (0 - mean) / sigma, (1 - mean) / sigma

    def density(x: float) -> float:
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    def mass(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    expected = mean + sigma * (density(a) - density(b)) / (mass(b) - mass(a))
    assert float(draws.mean()) == pytest.approx(expected, abs=0.02)


def test_no_noise_is_the_mean_and_decay_is_geometric() -> None:
    assert truncated_normal(torch.tensor([0.3]), 0.0, torch.Generator()).item() == pytest.approx(0.3)
    assert decayed_sigma(0.5, 0.95, 1) == pytest.approx(0.475)


def test_baselines_move_halfway_and_are_kept_per_task() -> None:
    agent = DDPG(1, 1, SETTINGS, seed=0)
    tasks = torch.tensor([0, 0, 1, 1])
    first = agent.centred(torch.tensor([1.0, 3.0, 10.0, 10.0]), tasks)
    assert agent.baselines == {0: 2.0, 1: 10.0}
    assert first.tolist() == [-1, 1, 0, 0]
    second = agent.centred(torch.tensor([4.0, 4.0, 20.0, 20.0]), tasks)
    assert agent.baselines == {0: 3.0, 1: 15.0}
    assert second.tolist() == [1, 1, 5, 5]


def play(agent: DDPG, replay: Replay, episodes: int, seed: int, learn: bool) -> None:
    """Three steps, action a_t in [0, 1]; the reward is 1 - mean |a_t - wish_t|, with wishes that the state shows."""
    random = torch.Generator().manual_seed(seed)
    wishes = [0.9, 0.1, 0.6]
    for episode in range(episodes):
        states = [torch.tensor([step / 2, wish]) for step, wish in enumerate(wishes)]
        sigma = 0.5 * 0.98**episode
        actions = [agent.act(s, sigma, random) if learn else torch.rand(1, generator=random) for s in states]
        reward = 1 - sum(abs(float(a) - w) for a, w in zip(actions, wishes, strict=True)) / 3
        for step in range(3):
            last = step == 2
            replay.add(states[step], actions[step], reward, states[min(step + 1, 2)], last, 0)
            if learn:
                agent.update(replay.sample(64, random))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_where_chance_has_no_chance(seed: int) -> None:
    """Chance's reward 1 - mean|a - w| exceeds 0.97 with probability below (2 * 0.09)^3 * ... < 1e-3; three seeds and
    the greedy policy above 0.9 in every step put it below 1e-5."""
    agent, replay = DDPG(2, 1, SETTINGS, seed), Replay(600, 2, 1)
    play(agent, replay, 30, seed, learn=False)
    play(agent, replay, 170, seed + 100, learn=True)
    errors = [
        abs(float(agent.act(torch.tensor([step / 2, wish]))) - wish) for step, wish in enumerate([0.9, 0.1, 0.6])
    ]
    assert max(errors) < 0.12, errors


def test_a_saved_agent_goes_on_as_the_old_one() -> None:
    one, two = DDPG(2, 1, SETTINGS, 0), DDPG(2, 1, SETTINGS, 7)
    replay = Replay(100, 2, 1)
    play(one, replay, 10, 0, learn=True)
    two.load_state_dict(one.state_dict())
    batch = replay.sample(64, torch.Generator().manual_seed(5))
    assert one.update(batch) == two.update(batch)
    assert torch.equal(one.act(torch.ones(2)), two.act(torch.ones(2)))


def test_making_an_agent_leaves_the_callers_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    DDPG(2, 1, SETTINGS, 0)
    assert torch.equal(torch.rand(2), expected)
