"""Preferences projected on a budget: which place wants to be how much wider than the others, turned into a gene.

At a level l a place with preference x wishes the share exp(x + l) of its largest width. When l rises, each place goes
from option to option, always to the one nearest to its wish; the gene is the last one that the price allows. No other
decision is overruled on the way, as AMC's action bounds do (He et al., ECCV 2018, arXiv:1802.03494, algorithm 1, cut
one group after another, and the last ones take what is left), and no preference asks for more than all the others do:
adding a number to all of them changes nothing. Preferences of 0 are uniform widths.

What holds, and is tested: the price is at most the budget, and the next step would exceed it; a larger budget narrows
no place; a larger preference does not narrow its place; of two places with the same options that with the larger
preference is at least as wide.
"""

import numpy as np
from numpy.typing import NDArray

from compress.prune.budget import Price
from compress.search.space import Genes, WidthSpace

Preferences = NDArray[np.float64]  # (n, places), or (places,): log of the wished share, up to a constant


def projected(space: WidthSpace, price: Price, high: float, preferences: Preferences) -> Genes:
    """Genes whose price is at most `high`: (n, places) -> (n, places), a single one (places,) -> (places,). The
    narrowest gene where even that costs more."""
    batch = np.atleast_2d(preferences)
    levels, places = _steps(space)
    order = np.argsort(levels - batch[:, places], axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(len(levels)), order.shape), axis=1)
    steps_of = np.eye(len(space.options), dtype=np.int64)[places]

    def after(count: NDArray[np.int64]) -> Genes:
        return (rank < count[:, None]).astype(np.int64) @ steps_of

    low, most = np.zeros(len(batch), dtype=np.int64), np.full(len(batch), len(levels), dtype=np.int64)
    while (low < most).any():  # bisection of all rows at once: the price does not fall when a place gets wider
        middle = (low + most + 1) // 2
        fits = price(space.widths(after(middle))) <= high
        low, most = np.where(fits, middle, low), np.where(fits, most, middle - 1)
    return after(low).reshape(np.shape(preferences))


def _steps(space: WidthSpace) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of every step from an option to the next: the log of the share halfway, and its place. Both (steps,)."""
    found = [
        (np.log((widths[:-1] + widths[1:]) / 2 / widths[-1]), np.full(len(widths) - 1, place))
        for place, widths in enumerate(space.options)
    ]
    levels, places = zip(*found, strict=True)
    return np.concatenate(levels), np.concatenate(places).astype(np.int64)


def preferences_of(space: WidthSpace, genes: Genes) -> Preferences:
    """The preferences of given genes, of mean 0: (n, places) -> (n, places). Projected on the price of a gene they
    give about this gene."""
    return preferences_of_widths(space, space.chosen(genes))


def preferences_of_widths(space: WidthSpace, widths: NDArray[np.int64]) -> Preferences:
    """The same of the widths that the places have, which need not be options: (n, places) -> (n, places)."""
    shares = np.log(widths / space.chosen(space.widest))
    centred: Preferences = shares - shares.mean(-1, keepdims=True)
    return centred
