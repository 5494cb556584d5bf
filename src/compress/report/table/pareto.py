"""The Pareto front of MACs and top-1."""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float | None, float | None]]) -> list[int]:
    """Indices of the points (MACs, top-1) that no other point beats.

    A point beats another with no more MACs and no less top-1, if it is better in one of the two. Points that lack one
    are not on the front.

    >>> pareto_front([(1.0, 90.0), (2.0, 95.0), (2.0, 94.0), (0.5, None)])
    [0, 1]
    """
    known = [(at, macs, top1) for at, (macs, top1) in enumerate(points) if macs is not None and top1 is not None]
    return [
        at
        for at, macs, top1 in known
        if not any(m <= macs and t >= top1 and (m < macs or t > top1) for _, m, t in known)
    ]


def macs_on_front(networks: Sequence[tuple[float | None, float | None]]) -> list[float | None]:
    """The MACs that a network enters a front with, from its (MACs, nonzero MACs); the latter only networks with masks
    have.

    Zeros alone make no network faster. So networks with masks have no place among cut networks (None); where there
    are no others, they are compared by their nonzero MACs.
    """
    if all(nonzero is not None for macs, nonzero in networks if macs is not None):
        return [nonzero for _, nonzero in networks]
    return [macs if nonzero is None else None for macs, nonzero in networks]
