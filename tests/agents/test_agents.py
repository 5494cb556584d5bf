"""Replay keeps the last transitions, noise stays in range, and DDPG learns a toy whose optimum is known."""

import math
from dataclasses import replace

import pytest
import torch

from compress.agents.ddpg import DDPG, DDPGSettings
from compress.agents.noise import decayed_sigma, truncated_normal
from compress.agents.replay import Replay, Transitions

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
    assert decayed_sigma(0.5, 0.9, 3) == pytest.approx(0.3645)
    assert decayed_sigma(0.5, 0.9, 0) == 0.5


def test_baselines_move_halfway_and_are_kept_per_task() -> None:
    agent = DDPG(1, 1, SETTINGS, seed=0)
    tasks = torch.tensor([0, 0, 1, 1])
    first = agent.centred(torch.tensor([1.0, 3.0, 10.0, 10.0]), tasks)
    assert agent.baselines == {0: 2.0, 1: 10.0}
    assert first.tolist() == [-1, 1, 0, 0]
    second = agent.centred(torch.tensor([4.0, 4.0, 20.0, 20.0]), tasks)
    assert agent.baselines == {0: 3.0, 1: 15.0}
    assert second.tolist() == [1, 1, 5, 5]


WISHES = [0.9, 0.1, 0.6, 0.3, 0.75, 0.2, 0.5, 0.85, 0.4, 0.65]


def seen(step: int) -> torch.Tensor:
    """What the toy shows of a step: where it is, and what would be right."""
    return torch.tensor([step / len(WISHES), WISHES[step]])


def play(agent: DDPG, replay: Replay, episodes: int, seed: int, learn: bool) -> None:
    """Ten actions in [0, 1]; the reward is 1 - mean |action - wish|, told to every step at the end."""
    random, last = torch.Generator().manual_seed(seed), len(WISHES) - 1
    for episode in range(episodes):
        states = [seen(step) for step in range(len(WISHES))]
        sigma = 0.5 * 0.98**episode
        actions = [agent.act(s, sigma, random) if learn else torch.rand(1, generator=random) for s in states]
        reward = 1 - sum(abs(float(a) - w) for a, w in zip(actions, WISHES, strict=True)) / len(WISHES)
        for step, (state, action) in enumerate(zip(states, actions, strict=True)):
            replay.add(state, action, reward, states[min(step + 1, last)], step == last, 0)
            if learn:
                agent.update(replay.sample(64, random))


def chance(error: float, steps: int) -> float:
    """At most so likely do uniform actions come as near as this, in the sum of |action - wish|.

    The volume of the ball of that radius in the sum norm, (2 e)^n / n!, of a cube of volume 1.
    """
    return (2 * error) ** steps / math.factorial(steps)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_it_learns_what_chance_would_find_once_in_a_hundred_thousand_times(seed: int) -> None:
    agent, replay = DDPG(2, 1, replace(SETTINGS, tau=0.02), seed), Replay(6000, 2, 1)
    play(agent, replay, 300, seed, learn=False)
    play(agent, replay, 120, seed + 100, learn=True)
    error = sum(abs(float(agent.act(seen(step))) - wish) for step, wish in enumerate(WISHES))
    assert chance(error, len(WISHES)) < 1e-5, error


def test_the_published_sampler_passes_over_what_follows_an_end() -> None:
    """Entries of episodes of three steps: 0 1 2 | 3 4 5 | 6 7 8 | 9; 3, 6 and 9 are first steps."""
    replay = Replay(100, 1, 1, skips_first=True)
    for i in range(10):
        replay.add(torch.tensor([float(i)]), torch.zeros(1), float(i), torch.zeros(1), i % 3 == 2, 0)
    drawn = replay.sample(2000, torch.Generator().manual_seed(0))
    assert sorted(set(drawn.reward.tolist())) == [0, 1, 2, 4, 5, 7, 8]
    few = replay.sample(7, torch.Generator().manual_seed(0))
    assert sorted(few.reward.tolist()) == [0, 1, 2, 4, 5, 7, 8]  # without repetition where there are enough
    replay.add(torch.tensor([10.0]), torch.zeros(1), 10.0, torch.zeros(1), False, 0)  # the newest, and no first step
    drawn = replay.sample(2000, torch.Generator().manual_seed(0))
    assert sorted(set(drawn.reward.tolist())) == [0, 1, 2, 4, 5, 7, 8]
    full = Replay(6, 1, 1, skips_first=True)  # holds 4 .. 9: what came before the oldest is forgotten
    for i in range(10):
        full.add(torch.tensor([float(i)]), torch.zeros(1), float(i), torch.zeros(1), i % 3 == 2, 0)
    assert sorted(set(full.sample(2000, torch.Generator().manual_seed(0)).reward.tolist())) == [4, 5, 7, 8]


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


def test_an_update_by_hand() -> None:
    """Algorithm 1: the critic's loss is against the target networks' values, none of which follows an end; then the
    target networks take a step of tau towards the learned ones."""
    settings = replace(SETTINGS, discount=0.7, tau=0.1, baseline_rate=0.5, hidden=8)
    agent = DDPG(3, 1, settings, seed=0)
    for learned, target in ((agent.actor, agent.actor_target), (agent.critic, agent.critic_target)):
        pairs = list(zip(learned.parameters(), target.parameters(), strict=True))
        assert all(torch.equal(one, other) for one, other in pairs)
        with torch.no_grad():  # as they are after a while
            for _, other in pairs:
                other.mul_(1.5).add_(0.1)
    random = torch.Generator().manual_seed(1)
    states, following = (torch.rand(6, 3, generator=random) for _ in range(2))
    ends = torch.tensor([0.0, 1, 0, 0, 1, 0])
    actions, rewards = torch.rand(6, 1, generator=random), torch.rand(6, generator=random)
    batch = Transitions(states, actions, rewards, following, ends, torch.zeros(6, dtype=torch.int64))
    agent.baselines = {0: 2.0}
    with torch.no_grad():
        baseline = 2.0 + 0.5 * (float(rewards.mean()) - 2.0)
        later = agent.critic_target(following, agent.actor_target(following))
        wanted = [
            float(reward) - baseline + (0.0 if end else 0.7 * float(value))
            for reward, end, value in zip(rewards, ends, later, strict=True)
        ]
        expected = float(((agent.critic(states, actions) - torch.tensor(wanted)) ** 2).mean())
    before = [[p.detach().clone() for p in net.parameters()] for net in (agent.actor_target, agent.critic_target)]
    assert agent.update(batch) == pytest.approx(expected, rel=1e-5)
    assert agent.baselines[0] == pytest.approx(baseline)
    for old, target, learned in zip(
        before, (agent.actor_target, agent.critic_target), (agent.actor, agent.critic), strict=True
    ):
        for was, is_now, other in zip(old, target.parameters(), learned.parameters(), strict=True):
            assert torch.allclose(is_now, 0.9 * was + 0.1 * other, atol=1e-6)


def test_the_actor_goes_where_the_critic_sees_more() -> None:
    settings = replace(SETTINGS, hidden=8, actor_lr=1e-2, critic_lr=1e-12)
    agent, random = DDPG(3, 1, settings, seed=0), torch.Generator().manual_seed(1)
    batch = Transitions(
        torch.rand(32, 3, generator=random), torch.rand(32, 1, generator=random), torch.rand(32, generator=random),
        torch.rand(32, 3, generator=random), torch.zeros(32), torch.zeros(32, dtype=torch.int64),
    )  # fmt: skip

    def value() -> float:
        with torch.no_grad():
            return float(agent.critic(batch.state, agent.actor(batch.state)).mean())

    values = [value()]
    for _ in range(5):
        agent.update(batch)
        values.append(value())
    assert values == sorted(values)
    assert values[-1] > values[0] + 1e-4


def test_draws_are_of_what_is_stored_from_the_first_transition_on() -> None:
    replay = Replay(50, 1, 1)
    replay.add(torch.tensor([4.0]), torch.zeros(1), 4.0, torch.zeros(1), False, 0)
    assert set(replay.sample(100, torch.Generator().manual_seed(0)).reward.tolist()) == {4.0}
