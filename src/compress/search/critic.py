"""A model of accuracy over whole candidates: it foretells which of many proposals is worth an evaluation.

A Gaussian process over the logarithms of the kept shares. Accuracy does not depend on what the budget was, so that
candidates of all targets teach one critic. Rasmussen and Williams, "Gaussian Processes for Machine Learning", MIT
Press 2006: algorithm 2.1 (prediction, marginal likelihood), equation 4.17 (Matern kernel, nu = 5/2). Proposals are
ranked by an upper confidence bound: Srinivas et al., "Gaussian Process Optimization in the Bandit Setting", ICML
2010, arXiv:0912.3995, with a constant factor.

Everything is a function of the candidates in the order in which they were scored: a resumed search, which adds them
again, has the same critic to the bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LENGTHS = (0.7, 1.4, 2.8, 5.6)  # of the Matern kernel, in units of log shares
NOISES = (0.01, 0.05, 0.2)  # variance of the noise, as a share of the variance of what was observed
LINEAR = (0.0, 1.0)  # weight of a linear term: wider is better
CHOOSE_EVERY = 20  # candidates between two choices among these
CHOOSE_BY = 200  # candidates, the last ones, that a choice looks at: it costs their third power
LEARN_FROM = 1000  # candidates, the last ones, that a prediction looks at, for the same reason
CEILING = 1.02  # accuracies are observed as -log(CEILING - accuracy): differences near 100 % count more
LOWEST = 2.5  # standard deviations below the mean at which observations are cut off: how bad does not matter


@dataclass(frozen=True)
class Kernel:
    """Matern 5/2 of unit variance, plus a linear term."""

    length: float
    noise: float
    linear: float

    def __call__(self, left: Floats, right: Floats) -> Floats:
        """Covariances of points (n, d) and (m, d), without noise: (n, m)."""
        squares = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2 * left @ right.T
        scaled = np.sqrt(5 * np.maximum(squares, 0)) / self.length
        matern: Floats = (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
        return matern + self.linear * (left @ right.T)


class GaussianProcess:
    """The posterior of observations `y` (n,) at `x` (n, d), of mean 0 and variance about 1."""

    def __init__(self, x: Floats, y: Floats, kernel: Kernel) -> None:
        self._x, self._y, self.kernel = x, y, kernel
        self._factor = torch.linalg.cholesky(torch.from_numpy(kernel(x, x) + kernel.noise * np.eye(len(x))))
        self._weights: Floats = torch.cholesky_solve(torch.from_numpy(y)[:, None], self._factor)[:, 0].numpy()

    @property
    def log_likelihood(self) -> float:
        """Of the observations, given the kernel."""
        fit = float(self._y @ self._weights) / 2
        return -fit - float(self._factor.diagonal().log().sum()) - len(self._y) / 2 * math.log(2 * math.pi)

    def __call__(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation without noise at points (m, d): both (m,)."""
        between = self.kernel(x, self._x)
        explained = torch.linalg.solve_triangular(self._factor, torch.from_numpy(between.T), upper=False).numpy()
        prior = 1 + self.kernel.linear * (x**2).sum(1)
        return between @ self._weights, np.sqrt(np.maximum(prior - (explained**2).sum(0), 0))


def likeliest(x: Floats, y: Floats) -> Kernel:
    """The kernel under which observations `y` (n,) at `x` (n, d) are most likely."""
    kernels = [Kernel(*values) for values in product(LENGTHS, NOISES, LINEAR)]
    return max(kernels, key=lambda kernel: GaussianProcess(x, y, kernel).log_likelihood)


@dataclass(frozen=True)
class Scale:
    """Makes what a critic sees of mean 0 and accuracies of variance 1."""

    origin: Floats  # (groups,): mean log shares
    mean: float
    spread: float

    @classmethod
    def of(cls, points: Floats, accuracies: Floats) -> "Scale":
        observed = _observed(accuracies)
        return cls(points.mean(0), float(observed.mean()), float(observed.std()) or 1.0)

    def inputs(self, points: Floats) -> Floats:
        return points - self.origin

    def outputs(self, accuracies: Floats) -> Floats:
        return np.maximum((_observed(accuracies) - self.mean) / self.spread, -LOWEST)

    def accuracies(self, outputs: Floats) -> Floats:
        """In percent."""
        return np.clip(100 * (CEILING - np.exp(-(outputs * self.spread + self.mean))), 0, 100)


def _observed(accuracies: Floats) -> Floats:
    observed: Floats = -np.log(CEILING - accuracies / 100)
    return observed


class Critic:
    """Foretells the held-out accuracy of widths. `full_widths` are those of all groups, uncut."""

    def __init__(self, full_widths: Sequence[int]) -> None:
        self._full = np.array(full_widths, dtype=np.float64)
        self._points: list[Floats] = []
        self._accuracies: list[float] = []
        self._kernel, self._chosen_by = Kernel(LENGTHS[1], NOISES[1], LINEAR[0]), 0
        self._learned: tuple[Scale, GaussianProcess] | None = None

    def __len__(self) -> int:
        return len(self._points)

    def add(self, widths: Sequence[int], accuracy: float) -> None:
        """Widths (groups,) that were scored, and their held-out accuracy in percent."""
        self._points.append(self._point(np.array(widths)))
        self._accuracies.append(accuracy)
        self._learned = None

    def promise(self, widths: NDArray[np.int64], optimism: float) -> Floats:
        """How good widths (n, groups) may be: mean plus `optimism` standard deviations, in a unit of its own that
        rises with accuracy: (n,)."""
        scale, process = self._process()
        mean, deviation = process(scale.inputs(self._point(widths)))
        return mean + optimism * deviation

    def foretold(self, widths: NDArray[np.int64]) -> Floats:
        """Expected held-out accuracy in percent of widths (n, groups): (n,)."""
        scale, process = self._process()
        return scale.accuracies(process(scale.inputs(self._point(widths)))[0])

    def _point(self, widths: NDArray[np.int64]) -> Floats:
        point: Floats = np.log(widths / self._full)
        return point

    def _process(self) -> tuple[Scale, GaussianProcess]:
        """From all candidates so far; needs one."""
        if self._learned is None:
            self._choose_kernel()
            scale, inputs, outputs = self._scaled(len(self))
            self._learned = scale, GaussianProcess(inputs[-LEARN_FROM:], outputs[-LEARN_FROM:], self._kernel)
        return self._learned

    def _choose_kernel(self) -> None:
        """By the candidates up to the last multiple of `CHOOSE_EVERY`: it depends on nothing else."""
        count = len(self) // CHOOSE_EVERY * CHOOSE_EVERY
        if count != self._chosen_by:
            _, inputs, outputs = self._scaled(count)
            self._kernel, self._chosen_by = likeliest(inputs[-CHOOSE_BY:], outputs[-CHOOSE_BY:]), count

    def _scaled(self, count: int) -> tuple[Scale, Floats, Floats]:
        points, accuracies = np.stack(self._points[:count]), np.array(self._accuracies[:count])
        scale = Scale.of(points, accuracies)
        return scale, scale.inputs(points), scale.outputs(accuracies)
