"""Which channels stay: plain data that can be saved, compared, plotted and replayed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Plan:
    """For each group the kept channels, ascending; a group that is not named keeps all of its channels.

    Any whole numbers will do (a list, a range, a tensor); they are kept as tuples of ints.

    Raises:
        ValueError: a group that keeps nothing, or channels that are not whole numbers, each once, ascending.
    """

    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", {name: _indices(name, given) for name, given in self.kept.items()})

    def to_json(self) -> dict[str, list[int]]:
        return {name: list(channels) for name, channels in self.kept.items()}


def _indices(name: str, given: Sequence[int]) -> tuple[int, ...]:
    listed = given.tolist() if hasattr(given, "tolist") else list(given)
    if not listed:
        raise ValueError(f"plan for {name} keeps no channel; every group must keep at least one")
    if not all(type(channel) is int for channel in listed) or listed != sorted(set(listed)):
        raise ValueError(f"plan for {name} must list kept channels once, ascending, as whole numbers; got {listed}")
    return tuple(listed)


def check_names(plan: Plan, groups: Collection[str]) -> None:
    """
    Raises:
        ValueError: the plan names a group that is not there.
    """
    for name in plan.kept:
        if name not in groups:
            raise ValueError(f"plan names group {name!r}; there are {', '.join(groups)}")


def plan_from_json(content: Mapping[str, Any]) -> Plan:
    return Plan(content)
