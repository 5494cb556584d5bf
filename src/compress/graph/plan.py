"""Which channels stay: plain data that can be saved, compared, plotted and replayed."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Plan:
    """For each group by name the indices of its kept channels, ascending; a group that is not named keeps all.

    Any sequence of integers will do (list, range, tensor); it is stored as a tuple of ints. An empty one cuts the
    group as a whole, which is possible for removable groups only (`ChannelGraph.emptiable`).

    Raises:
        ValueError: indices that are not integers, repeated, or not ascending.
    """

    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.kept, Mapping):
            raise ValueError(f"a plan must map names of groups to the channels that stay; got {self.kept}")
        object.__setattr__(self, "kept", {name: _indices(name, given) for name, given in self.kept.items()})

    def to_json(self) -> dict[str, list[int]]:
        return {name: list(channels) for name, channels in self.kept.items()}


def _indices(name: str, given: Sequence[int]) -> tuple[int, ...]:
    try:
        listed = given.tolist() if hasattr(given, "tolist") else list(given)
        if bool in set(map(type, listed)):
            raise TypeError
        channels = tuple(map(operator.index, listed))
    except TypeError:
        raise ValueError(
            f"plan for {name} must be a list of whole numbers, the channels that stay; got {given}"
        ) from None
    if list(channels) != sorted(set(channels)):
        raise ValueError(f"plan for {name} must list kept channels once, ascending; got {list(channels)}")
    return channels


def check_plan(plan: Plan, widths: Mapping[str, int]) -> None:
    """Check a plan against the groups of a network: `widths`, number of channels by group name.

    Raises:
        ValueError: the plan names an unknown group, or an index that is not in [0, width).
    """
    for name, channels in plan.kept.items():
        if name not in widths:
            raise ValueError(f"plan names group {name!r}; there are {', '.join(widths)}")
        if channels and (channels[0] < 0 or channels[-1] >= widths[name]):
            raise ValueError(f"plan for {name}: channels must be in [0, {widths[name]}), got {list(channels)}")


def plan_from_json(content: Mapping[str, Any]) -> Plan:
    return Plan(content)
