"""Genes drawn uniformly from those that a budget allows, independent of each other.

Where the space is small, all its genes are listed. Where more than one in a thousand random genes fits, the others
are thrown away (rejection): exactly uniform. Else Gibbs sampling: all genes start at the uniform widths of the
budget, and in every step one random pair of places gets new options, drawn uniformly from all pairs that keep the
price within the budget. Two at once, since at a tight limit no group can grow unless another shrinks. After `SWEEPS`
times as many steps as there are free places no trace of the start is left (tests/search/test_sampling.py compares
with exact draws). Each chain gives one gene, so the genes are independent. What no change of two places can reach
without leaving the budget is never drawn: that takes a band narrower than the steps of the widths.

The price does not fall when a group gets wider. So for one width of the first group those of the second that fit are
neighbours, and two bisections find them, for all chains at once. Where the price is quadratic in the widths, as MACs
and parameters are, nothing is priced on the way: its coefficients, found once, tell what a pair costs. Of several
limits each has its own, and the tightest one counts.

Related: Geman and Geman, "Stochastic Relaxation, Gibbs Distributions, and the Bayesian Restoration of Images", IEEE
TPAMI 6 (1984). The published search (Liu et al., "MetaPruning", ICCV 2019, arXiv:1903.10258) draws again until a gene
fits, which at its tightest limits takes a billion draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.prune.budget import Price, Tightest
from compress.search.feasible import AT_ONCE, Feasible
from compress.search.space import Genes, WidthSpace

PROBES = (1_000, 10_000, 100_000)  # random genes that decide how to draw; few will do where many fit
SHARE = 1e-3  # of them that must fit for rejection
LISTED = 100_000  # spaces of at most so many genes are listed
SWEEPS = 10  # steps of a Gibbs chain per free place
EXAMPLES = 8  # random genes on which it is tried whether a price is quadratic
CELLS = 1 << 20  # chains at once times options of a place: bounds the memory

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def draw(feasible: Feasible, count: int, generator: np.random.Generator) -> Genes:
    """(count, places), uniform over the genes that `feasible` holds. The same generator state gives the same genes.

    Raises:
        ValueError: no gene is feasible, which is never so where `feasible` made the set.
    """
    if feasible.space.sizes.astype(float).prod() <= LISTED:
        return drawn_from_list(feasible, count, generator)
    hits = feasible.space.random(0, generator)
    for size in PROBES:
        genes = feasible.space.random(size, generator)
        hits = np.concatenate([hits, genes[feasible.holds(genes)]])
        if len(hits) >= count:
            return hits[:count]
    if len(hits) > SHARE * sum(PROBES):
        return rejected(feasible, count, generator, hits)
    return chained(feasible, count, generator)


def drawn_from_list(feasible: Feasible, count: int, generator: np.random.Generator) -> Genes:
    """As `draw`, by listing every gene of the space.

    Raises:
        ValueError: no gene is feasible.
    """
    sizes = feasible.space.sizes
    every = np.stack(np.unravel_index(np.arange(sizes.prod()), tuple(sizes)), 1).astype(np.int64)
    fits = every[feasible.holds(every)]
    if not len(fits):
        raise _nothing(feasible)
    return fits[generator.integers(0, len(fits), count)]


def rejected(feasible: Feasible, count: int, generator: np.random.Generator, hits: Genes | None = None) -> Genes:
    """As `draw`, by throwing away what does not fit; `hits` are genes that were drawn so already. For a set that a
    fair share of random genes is in: else it takes for ever."""
    found = [] if hits is None else [hits]
    while sum(map(len, found)) < count:
        genes = feasible.space.random(PROBES[-1], generator)
        found.append(genes[feasible.holds(genes)])
    return np.concatenate(found)[:count] if found else feasible.space.random(0, generator)


def chained(feasible: Feasible, count: int, generator: np.random.Generator, sweeps: int = SWEEPS) -> Genes:
    """As `draw`, by Gibbs sampling on pairs of places: `sweeps` times as many pairs as there are free places.

    Raises:
        ValueError: the uniform widths of the budget are not feasible.
    """
    free = np.flatnonzero(feasible.space.sizes > 1)
    if len(free) < 2:
        return drawn_from_list(feasible, count, generator)
    start = feasible.uniform()
    if not feasible.holds(start).all():
        raise _nothing(feasible)
    space = feasible.space
    limits = feasible.price.prices if isinstance(feasible.price, Tightest) else (feasible.price,)
    made = [_maker(space, price, start) for price in limits]
    at_once = max(1, CELLS // int(space.sizes.max()))
    parts = [
        _chains(feasible, made, start, min(at_once, count - first), sweeps * len(free), free, generator)
        for first in range(0, count, at_once)
    ]
    genes = np.concatenate(parts) if parts else space.random(0, generator)
    assert feasible.holds(genes).all(), "a price does not fall when a group gets wider"
    return genes


def _nothing(feasible: Feasible) -> ValueError:
    return ValueError(f"no gene costs between {feasible.low:,.6g} and {feasible.high:,.6g}")


# -- the price as a polynomial ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Quadratic:
    """A price: constant + linear . w + w . square w, for the width w that each place of a gene chooses."""

    constant: float
    linear: Floats  # (places,)
    square: Floats  # (places, places), symmetric

    def __call__(self, widths: Floats) -> Floats:
        """(n, places) -> (n,)."""
        total: Floats = self.constant + widths @ self.linear + ((widths @ self.square) * widths).sum(1)
        return total


def quadratic(price: Price, examples: Floats) -> Quadratic | None:
    """The coefficients of a price from its values at few widths: `price` maps (n, places) to (n,), and `examples`
    (n, places) are where the result is compared with it. None: it is not quadratic."""
    places = examples.shape[1]
    unit = np.eye(places)
    none, one, two = (price(scale * unit) for scale in (0, 1, 2))
    constant = none[0]
    square = np.diag((two - 2 * one + constant) / 2)
    rows, columns = np.triu_indices(places, 1)
    for first in range(0, len(rows), AT_ONCE):
        at = rows[first : first + AT_ONCE], columns[first : first + AT_ONCE]
        both = price(unit[at[0]] + unit[at[1]])
        square[at] = square[at[::-1]] = (both - one[at[0]] - one[at[1]] + constant) / 2
    found = Quadratic(float(constant), one - constant - np.diag(square), square)
    return found if np.allclose(found(examples), price(examples), rtol=1e-12) else None


# -- Gibbs sampling --------------------------------------------------------------------------------------------------


PairPrice = Callable[[Floats, Floats], Floats]  # of two widths of every chain: (chains,) or (chains, n) -> the same


class _Priced(Protocol):
    """One price of all chains, which move."""

    def pair(self, i: int, j: int) -> PairPrice:
        """Every chain's price as a function of its widths at two places."""

    def move(self, at: int, widths: Floats) -> None:
        """Every chain gets another width (chains,) at one place."""


def _chains(
    feasible: Feasible,
    made: Sequence[Callable[[Floats], _Priced]],
    start: Genes,
    count: int,
    steps: int,
    free: Ints,
    generator: np.random.Generator,
) -> Genes:
    """The ends of `count` chains from one start: (count, places). `made` are the prices of widths (count, places)."""
    options = feasible.space.options
    genes = np.tile(start, (count, 1))
    limits = [make(feasible.space.chosen(genes).astype(np.float64)) for make in made]
    for _ in range(steps):
        i, j = generator.choice(free, 2, replace=False)
        if len(options[i]) > len(options[j]):
            i, j = j, i  # fewer bisections
        pair = _tightest(feasible.price, [limit.pair(i, j) for limit in limits])
        genes[:, i], genes[:, j] = _draw_pair(
            count, pair, options[i], options[j], feasible.low, feasible.high, generator
        )
        for at in (i, j):
            for limit in limits:
                limit.move(at, options[at][genes[:, at]].astype(np.float64))
    return genes


def _tightest(price: Price, pairs: Sequence[PairPrice]) -> PairPrice:
    if not isinstance(price, Tightest):
        return pairs[0]
    return lambda a, b: price.of([pair(a, b) for pair in pairs])


def _maker(space: WidthSpace, price: Price, start: Genes) -> Callable[[Floats], _Priced]:
    """From widths of places (chains, places) to their price, by coefficients where it has some."""

    def of_places(chosen: NDArray[Any]) -> Floats:
        return price(chosen[:, list(space.places)])

    few = space.random(EXAMPLES, np.random.default_rng(0))
    examples = space.chosen(np.concatenate([few, [start, space.widest, space.narrowest]]))
    found = quadratic(of_places, examples.astype(np.float64))
    if found is None:
        return lambda widths: _AnyPrice(of_places, widths)
    return lambda widths: _QuadraticPrice(found, widths)


class _AnyPrice:
    """Asked anew for every pair of widths of every chain."""

    def __init__(self, price: Price, widths: Floats) -> None:
        self._price, self._widths = price, widths

    def pair(self, i: int, j: int) -> PairPrice:
        def price(a: Floats, b: Floats) -> Floats:
            each = a[0].size
            found = np.empty(a.size)
            chains = max(1, AT_ONCE // each)  # in bounded memory
            for first in range(0, len(a), chains):
                rows = slice(first, first + chains)
                widths = np.repeat(self._widths[rows], each, axis=0).astype(np.int64)
                widths[:, i], widths[:, j] = a[rows].ravel(), b[rows].ravel()
                found[first * each : first * each + len(widths)] = self._price(widths)
            return found.reshape(a.shape)

        return price

    def move(self, at: int, widths: Floats) -> None:
        self._widths[:, at] = widths


class _QuadraticPrice:
    """By coefficients, and the half of the derivative of the quadratic part at every chain."""

    def __init__(self, price: Quadratic, widths: Floats) -> None:
        self._price, self._widths = price, widths
        self._slopes = widths @ price.square  # (chains, places)
        self._spent = price(widths)

    def pair(self, i: int, j: int) -> "_Pair":
        return _pair(self._price, self._widths, self._slopes, self._spent, i, j)

    def move(self, at: int, widths: Floats) -> None:
        price, change = self._price, widths - self._widths[:, at]
        self._spent = self._spent + change * (
            price.linear[at] + 2 * self._slopes[:, at] + change * price.square[at, at]
        )
        self._slopes += np.outer(change, price.square[at])
        self._widths[:, at] = widths


@dataclass(frozen=True, eq=False)
class _Pair:
    """The price of every chain as a function of two widths, a and b: c0 + p a + q a^2 + s b + t b^2 + r a b."""

    c0: Floats  # (chains,)
    p: Floats  # (chains,)
    q: float
    s: Floats  # (chains,)
    t: float
    r: float

    def __call__(self, a: Floats, b: Floats) -> Floats:
        """Widths (chains,) or (chains, n) -> the same shape."""
        p, s, c0 = (x if a.ndim == 1 else x[:, None] for x in (self.p, self.s, self.c0))
        total: Floats = c0 + a * (p + self.q * a) + b * (s + self.t * b + self.r * a)
        return total


def _pair(price: Quadratic, widths: Floats, slopes: Floats, spent: Floats, i: int, j: int) -> _Pair:
    square, a, b = price.square, widths[:, i], widths[:, j]
    p = price.linear[i] + 2 * (slopes[:, i] - square[i, i] * a - square[i, j] * b)
    s = price.linear[j] + 2 * (slopes[:, j] - square[j, j] * b - square[i, j] * a)
    pair = _Pair(np.zeros(len(widths)), p, float(square[i, i]), s, float(square[j, j]), float(2 * square[i, j]))
    return _Pair(spent - pair(a, b), pair.p, pair.q, pair.s, pair.t, pair.r)


def _draw_pair(
    chains: int, price: PairPrice, first: Ints, second: Ints, low: float, high: float, generator: np.random.Generator
) -> tuple[Ints, Ints]:
    """Options of the two places, uniform over all pairs within the budget: two of (chains,).

    `first` and `second` are the widths of their options. For option a of the first place those of the second that fit
    are `begin[a]` to `end[a]`, exclusive.
    """
    a = np.broadcast_to(first.astype(np.float64), (chains, len(first)))
    wide = second.astype(np.float64)
    end = _count_below(lambda at: price(a, wide[at]) <= high, a.shape, len(second))
    begin = (
        np.zeros_like(end)
        if low == -np.inf
        else _count_below(lambda at: price(a, wide[at]) < low, a.shape, len(second))
    )
    upto = (end - begin).cumsum(1)  # pairs with this option of the first place, or one before it
    number = (generator.random(chains) * upto[:, -1]).astype(np.int64)
    option = (upto <= number[:, None]).sum(1)
    rows = np.arange(chains)
    return option, end[rows, option] - (upto[rows, option] - number)


def _count_below(holds: Callable[[Ints], NDArray[np.bool_]], shape: tuple[int, ...], most: int) -> Ints:
    """For each element of `shape` the number in [0, most] of indices for which `holds`, which is true for the first
    ones and then false."""
    low, high = np.zeros(shape, dtype=np.int64), np.full(shape, most, dtype=np.int64)
    for _ in range(most.bit_length()):
        middle = (low + high) // 2
        more = holds(np.minimum(middle, most - 1)) & (low < high)
        low, high = np.where(more, middle + 1, low), np.where(more, high, middle)
    return low
