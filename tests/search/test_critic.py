"""Laws of the Gaussian process and of the critic that foretells accuracies."""

import numpy as np
import pytest

from compress.search import critic as critic_module
from compress.search.critic import CHOOSE_EVERY, Critic, GaussianProcess, Kernel, likeliest

FULL = (16, 16, 32, 32, 64, 64)


def accuracy(widths: np.ndarray) -> np.ndarray:
    """Percent; narrow groups cost accuracy, each in its own way."""
    loss = np.array([0.02, 0.05, 0.01, 0.04, 0.02, 0.08]) * (np.array(FULL) / widths - 1)
    return 99 * np.exp(-loss.sum(-1))


def some(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.stack([random.integers(full // 8, full + 1, count) for full in FULL], 1)


def taught(widths: np.ndarray) -> Critic:
    critic = Critic(FULL)
    for one in widths:
        critic.add(one.tolist(), float(accuracy(one)))
    return critic


def test_a_process_by_hand() -> None:
    """One observation of 1 at 0, noise 1/4: mean k / 1.25, variance 1 - k^2 / 1.25, likelihood that of N(0, 1.25)."""
    process = GaussianProcess(np.zeros((1, 1)), np.ones(1), Kernel(1.0, 0.25, 0.0))
    root = np.sqrt(5.0)
    k = (1 + root + 5 / 3) * np.exp(-root)  # Matern 5/2 at distance 1
    mean, deviation = process(np.array([[0.0], [1.0]]))
    assert mean == pytest.approx([0.8, k / 1.25])
    assert deviation == pytest.approx([np.sqrt(0.2), np.sqrt(1 - k**2 / 1.25)])
    assert process.log_likelihood == pytest.approx(-0.5 / 1.25 - 0.5 * np.log(2 * np.pi * 1.25))


def test_the_kernel_that_drew_is_found() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 2))
    for true in (Kernel(0.7, 0.01, 0.0), Kernel(2.8, 0.2, 1.0)):
        covariance = true(x, x) + true.noise * np.eye(len(x))
        y = np.linalg.cholesky(covariance) @ random.normal(size=len(x))
        assert likeliest(x, y) == true


def test_it_foretells_what_it_has_not_seen() -> None:
    critic, unseen = taught(some(120)), some(200, seed=1)
    error = np.abs(critic.foretold(unseen) - accuracy(unseen)).mean()
    assert error < 0.2 * np.abs(accuracy(unseen) - accuracy(some(120)).mean()).mean()
    assert np.corrcoef(critic.promise(unseen, 0.0), accuracy(unseen))[0, 1] > 0.97


def test_what_is_not_known_promises_more_the_more_optimistic_one_is() -> None:
    seen = some(40)
    critic = taught(seen)
    far = np.array([[2, 16, 4, 32, 8, 64]])
    gain = [float(critic.promise(widths, 1.0)[0] - critic.promise(widths, 0.0)[0]) for widths in (seen[:1], far)]
    assert 0 < gain[0] < gain[1]


def test_it_depends_on_the_candidates_and_not_on_when_it_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a kernel that tells by how many it was chosen."""
    monkeypatch.setattr(critic_module, "likeliest", lambda x, y: Kernel(len(x) / 10, 0.05, float(y.std())))
    widths, asked = some(3 * CHOOSE_EVERY + 5), some(32, seed=1)
    late, often = taught(widths), Critic(FULL)
    for one in widths:
        often.add(one.tolist(), float(accuracy(one)))
        often.promise(asked, 0.5)
    assert np.array_equal(late.promise(asked, 0.5), often.promise(asked, 0.5))


def test_equal_accuracies_are_no_error() -> None:
    critic = Critic(FULL)
    for one in some(25):
        critic.add(one.tolist(), 10.0)
    assert critic.foretold(some(5, seed=1)) == pytest.approx(np.full(5, 10.0), abs=0.1)


def test_it_looks_at_the_last_candidates_alone_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critic_module, "LEARN_FROM", 30)
    seen, asked = some(90), some(32, seed=1)
    critic = taught(seen)
    assert critic.foretold(seen[60:]) == pytest.approx(accuracy(seen[60:]), abs=3)
    early, late = (float(np.abs(critic.foretold(part) - accuracy(part)).mean()) for part in (seen[:60], seen[60:]))
    assert late < early
    monkeypatch.setattr(critic_module, "LEARN_FROM", 90)
    assert not np.array_equal(critic.promise(asked, 0.5), taught(seen).promise(asked, 0.5))
