"""Which channels stay: plain data that can be saved, compared, plotted and replayed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Plan:
    """For each group the kept channels, ascending; a group that is not named keeps all of its channels."""

    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, channels in self.kept.items():
            if not channels:
                raise ValueError(f"plan for {name} keeps no channel; every group must keep at least one")
            if list(channels) != sorted(set(channels)):
                raise ValueError(f"plan for {name} must list kept channels once, ascending; got {list(channels)}")

    def to_json(self) -> dict[str, list[int]]:
        return {name: list(channels) for name, channels in self.kept.items()}


def plan_from_json(content: Mapping[str, Any]) -> Plan:
    return Plan({name: tuple(channels) for name, channels in content.items()})
