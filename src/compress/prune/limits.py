"""Layers to leave alone, and how much of the others has to stay: limits by the names of layers.

A pattern is the name of a module (`layer4.0.conv1`), of one that holds others (`layer4`: all in it), or has the wild
cards of a shell (`layer4.*.conv1`). The channels of a layer are those that it makes: what it reads is its
predecessors'. Coupled channels, such as those of a residual stream, have the strictest limit of the layers that make
them. In a method that masks single weights the limits are on the weights of a layer.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import Tensor

from compress.errors import OWN, SettingError, few, nearest
from compress.graph.types import ChannelGraph, ChannelGroup
from compress.prune.method import Method
from compress.schema.bounds import Share


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Settings that every method takes; docs/budgets.md explains them.

    Raises:
        SettingError: `skip` and `only` both given, or nothing named by `only`.
    """

    skip: list[str] | None = None  # layers that keep everything
    only: list[str] | None = None  # all others keep everything
    keep: dict[str, Share] | None = None  # at least this share stays

    @property
    def are_set(self) -> bool:
        return not (self.skip is None and self.only is None and self.keep is None)

    def check_limits(self, names: Iterable[str]) -> None:
        """Check that every pattern names something among `names`, the layers and modules of a network.

        Raises:
            SettingError: names the patterns that match nothing, each with the nearest name.
        """
        known = sorted(set(names))
        parts = {name.rsplit(".", depth)[0] for name in known for depth in range(1 + name.count("."))}
        given = {"skip": self.skip or [], "only": self.only or [], "keep": list(self.keep or {})}
        problems = [
            f"{OWN}{key}={pattern}: no layer of this network; {_nearest(pattern, parts)}"
            for key, patterns in given.items()
            for pattern in patterns
            if not any(matches(pattern, name) for name in known)
        ]
        if self.only == []:
            problems.append(f"{OWN}only=[]: must name at least one layer, or be null: all of them")
        if problems:
            raise SettingError(*problems)

    def kept_share(self, names: Iterable[str]) -> float:
        """The smallest share that may stay of what these layers make together, in [0, 1]."""
        names = list(names)

        def named(patterns: Iterable[str]) -> bool:
            return any(matches(pattern, name) for pattern in patterns for name in names)

        if named(self.skip or ()) or (self.only is not None and not named(self.only)):
            return 1.0
        return max((share for pattern, share in (self.keep or {}).items() if named([pattern])), default=0.0)


NO_LIMITS = Limits()


def channel_limits(method: Method) -> Limits:
    """The limits on channels of a method: none of one that takes none, or that masks single weights."""
    return method if isinstance(method, Limits) and method.traits.cuts == "channels" else NO_LIMITS


def _nearest(pattern: str, names: Collection[str]) -> str:
    told = nearest(pattern, names)
    return told if told.startswith("did you mean") else f"there are {few(sorted(names), 8)}"


def matches(pattern: str, name: str) -> bool:
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def makers(graph: ChannelGraph, group: ChannelGroup) -> list[str]:
    """The layers and modules that make the channels of a group, or pass them on one by one, such as batch norms."""
    read = {layer.in_axis for layer in graph.layers}
    named = {axis.tensor.rpartition(".")[0] for axis in group.positions if axis not in read}
    return sorted({*named, *(layer.name for layer in graph.layers if layer.out_axis in group.positions)} - {""})


def limited(graph: ChannelGraph, limits: Limits) -> ChannelGraph:
    """The same graph, with the fewest channels that may stay of every group.

    Raises:
        SettingError: a pattern matches nothing, or no channel may go.
    """
    if not limits.are_set:
        return graph
    made_by = {group.name: makers(graph, group) for group in graph}
    layers = [layer.name for layer in graph.layers]
    limits.check_limits([*layers, *graph.frozen, *(name for names in made_by.values() for name in names)])
    shares = {name: limits.kept_share(names) for name, names in made_by.items()}
    groups = [
        replace(group, least=max(1, math.ceil(shares[group.name] * group.width - 1e-9))) for group in graph.groups
    ]
    if all(group.least == group.width for group in groups):
        raise SettingError(f"{told(limits)}: leave no channel of this network that may go")
    return replace(graph, groups=tuple(groups))


def told(limits: Limits) -> str:
    """The limits that are set, as on the command line."""
    lists = [f"{OWN}{key}=[{','.join(value)}]" for key in ("skip", "only") if (value := getattr(limits, key))]
    shares = ",".join(f"{name}:{share:g}" for name, share in (limits.keep or {}).items())
    return " ".join([*lists, *([f"{OWN}keep={{{shares}}}"] if shares else [])])


@contextmanager
def within_limits(limits: Limits) -> Iterator[None]:
    """Within the block, what is out of reach is so by these limits too, and says that."""
    try:
        yield
    except SettingError as error:
        why = f" ({told(limits)})" if limits.are_set else ""
        raise SettingError(*(line.replace("out of reach", f"out of reach{why}") for line in error.lines)) from None


def free(graph: ChannelGraph, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scores of groups that may lose channels."""
    limits = {group.name: group.least < group.width for group in graph}
    return {name: score for name, score in scores.items() if limits[name]}
