"""Laws of the policy of preferences: where it starts, what it learns, and that it goes on as it would have."""

import numpy as np
import pytest
import torch

from compress.agents.preferences import PreferencePolicy, PreferenceSettings

SETTINGS = PreferenceSettings(hidden=32, lr=1e-2, steps=10, bound=1.5)
FEATURES = np.random.default_rng(0).random((6, 3))
TASKS = np.array([-0.4, 0.0, 0.4])
WANTED = np.outer([-1.0, 0.2, 1.0], [0.6, 0.4, 0.2, -0.2, -0.4, -0.6])  # of another sign at the first task


def make(seed: int = 0) -> PreferencePolicy:
    return PreferencePolicy(FEATURES, SETTINGS, seed)


def test_a_new_policy_prefers_nothing_whatever_the_task() -> None:
    for task in TASKS:
        assert make().preferences(task) == pytest.approx(np.zeros(6), abs=1e-7)


def test_it_learns_what_it_imitates_and_between_tasks_what_lies_between() -> None:
    policy = make()
    errors = [policy.imitate(TASKS, WANTED) for _ in range(60)]
    assert errors[-1] < 1e-3 < 0.05 < errors[0]
    for task, wanted in zip(TASKS, WANTED, strict=True):
        assert policy.preferences(task) == pytest.approx(wanted, abs=0.1)
    assert (np.diff(policy.preferences(0.2)) < 0).all()


def test_preferences_have_mean_0_and_are_bounded() -> None:
    policy, unbounded = make(), np.array([[9.0, -9.0, 0, 0, 0, 0]])
    for _ in range(80):
        policy.imitate(np.zeros(1), unbounded)
    found = policy.preferences(0.0)
    assert found.mean() == pytest.approx(0, abs=1e-6)
    assert 2.5 < np.ptp(found) <= 2 * SETTINGS.bound


def test_the_seed_decides_and_the_state_is_all_there_is() -> None:
    one, other, resumed = make(), make(1), make(2)
    for policy in (one, other):
        policy.imitate(TASKS, WANTED)
    assert not np.array_equal(one.preferences(0.1), other.preferences(0.1))
    resumed.load_state_dict(one.state_dict())
    for policy in (one, resumed):
        policy.imitate(TASKS, WANTED)
    assert np.array_equal(one.preferences(0.1), resumed.preferences(0.1))


def test_other_random_numbers_are_left_alone() -> None:
    torch.manual_seed(5)
    first = torch.rand(2)
    torch.manual_seed(5)
    make().imitate(TASKS, WANTED)
    assert torch.equal(torch.rand(2), first)
