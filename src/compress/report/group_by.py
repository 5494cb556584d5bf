"""Things in groups."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def group_by(things: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """What has the same key, together; groups and their members in the order of the things.

    >>> group_by(["amc", "camc", "slimming", "auto"], len)
    {3: ['amc'], 4: ['camc', 'auto'], 8: ['slimming']}
    """
    groups: dict[K, list[T]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return groups
