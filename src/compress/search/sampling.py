"""Genes drawn uniformly from those that a budget allows, independent of each other.

Where the space is small, all its genes are listed. Where more than one in a thousand random genes fits, the others
are thrown away (rejection): exactly uniform. Else Gibbs sampling: all genes start at the uniform widths of the
budget, and in every step one random pair of places gets new options, drawn uniformly from all pairs that keep the
price within the budget. Two at once, since at a tight limit no group can grow unless another shrinks. After `SWEEPS`
times as many steps as there are free places no trace of the start is left (tests/search/test_sampling.py compares
with exact draws). Each chain gives one gene, so the genes are independent. What no change of two places can reach
without leaving the budget is never drawn: that takes a band narrower than the steps of the widths.

The price is quadratic in the widths and does not fall when a group gets wider. So for one width of the first group
those of the second that fit are neighbours, and two bisections find them, for all chains at once. Nothing is priced
on the way: the coefficients of the price, found once, tell what a pair costs.

Related: Geman and Geman, "Stochastic Relaxation, Gibbs Distributions, and the Bayesian Restoration of Images", IEEE
TPAMI 6 (1984). The published search (Liu et al., "MetaPruning", ICCV 2019, arXiv:1903.10258) draws again until a gene
fits, which at its tightest limits takes a billion draws.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.search.feasible import AT_ONCE, Feasible, Price
from compress.search.space import Genes

PROBES = (1_000, 10_000, 100_000)  # random genes that decide how to draw; few will do where many fit
SHARE = 1e-3  # of them that must fit for rejection
LISTED = 100_000  # spaces of at most so many genes are listed
SWEEPS = 10  # steps of a Gibbs chain per free place
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
    space, places = feasible.space, list(feasible.space.places)
    examples = space.chosen(np.stack([start, space.widest, space.narrowest])).astype(np.float64)
    price = quadratic(lambda chosen: feasible.price(chosen[:, places]), examples)
    at_once = max(1, CELLS // int(space.sizes.max()))
    parts = [
        _chains(feasible, price, start, min(at_once, count - first), sweeps * len(free), free, generator)
        for first in range(0, count, at_once)
    ]
    genes = np.concatenate(parts) if parts else space.random(0, generator)
    assert feasible.holds(genes).all(), "the price is quadratic in the widths"
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


def quadratic(price: Price, examples: Floats) -> Quadratic:
    """The coefficients of a price from its values at few widths: `price` maps (n, places) to (n,), and `examples`
    (n, places) are where the result is compared with it."""
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
    assert np.allclose(found(examples), price(examples), rtol=1e-12), "the price is quadratic in the widths"
    return found


# -- Gibbs sampling --------------------------------------------------------------------------------------------------


def _chains(
    feasible: Feasible,
    price: Quadratic,
    start: Genes,
    count: int,
    steps: int,
    free: Ints,
    generator: np.random.Generator,
) -> Genes:
    """The ends of `count` chains from one start: (count, places)."""
    options = feasible.space.options
    genes = np.tile(start, (count, 1))
    widths = feasible.space.chosen(genes).astype(np.float64)
    slopes = widths @ price.square  # (count, places): half of the derivative of the quadratic part
    spent = price(widths)
    for _ in range(steps):
        i, j = generator.choice(free, 2, replace=False)
        if len(options[i]) > len(options[j]):
            i, j = j, i  # fewer bisections
        pair = _pair(price, widths, slopes, spent, i, j)
        genes[:, i], genes[:, j] = _draw_pair(pair, options[i], options[j], feasible.low, feasible.high, generator)
        for at in (i, j):
            new = options[at][genes[:, at]].astype(np.float64)
            slopes += np.outer(new - widths[:, at], price.square[at])
            widths[:, at] = new
        spent = pair(widths[:, i], widths[:, j])
    return genes


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
    price: _Pair, first: Ints, second: Ints, low: float, high: float, generator: np.random.Generator
) -> tuple[Ints, Ints]:
    """Options of the two places, uniform over all pairs within the budget: two of (chains,).

    `first` and `second` are the widths of their options. For option a of the first place those of the second that fit
    are `begin[a]` to `end[a]`, exclusive.
    """
    chains = len(price.c0)
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
