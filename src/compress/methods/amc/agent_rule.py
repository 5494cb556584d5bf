"""What amc and camc ask of an agent, whichever rule it follows: `walls` or `projected`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from compress.io.files import JSON
from compress.io.stage_folder import StageFolder

Strategy = tuple[int, ...]  # widths of all groups
Kind = Literal["uniform", "seen", "same_target", "policy"]


@dataclass(frozen=True)
class Wanted:
    """Which candidates `prune` scores."""

    kinds: list[Kind]
    rollouts: int
    rollout_sigma: float
    is_foreign: bool  # the agent is of another run, which has seen other weights


class AgentRule(Protocol):
    """An agent for one network. Targets are shares of MACs; outcomes are those of `ChannelEnv`."""

    constant_action: str  # in words: what a policy gives that answers the same whatever it is asked

    def train(self, work: StageFolder) -> dict[float, JSON]:
        """Search; the best outcome by target."""

    def state(self) -> JSON:
        """For the agent file: `agent`, and possibly further parts."""

    def load(self, saved: JSON, source: str) -> None:
        """Take over the state in an agent file, which `source` names.

        Raises:
            InputError: the networks in the file have other shapes.
        """

    def answer(self, target: float) -> Strategy:
        """The policy's own, without noise."""

    def constant(self, target: float) -> Strategy:
        """That of a policy which answers the same for every group."""

    def candidates(
        self, wanted: Wanted, seen: Mapping[float, JSON], share: float
    ) -> Iterator[tuple[str, Strategy, float]]:
        """Name, widths and target of every candidate for the run's budget, which comes to the share `share` of the
        MACs. `seen` are the best outcomes of the search by target."""
