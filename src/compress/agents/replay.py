"""Replay memory: past transitions in a ring buffer of tensors."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Transitions(NamedTuple):
    """A batch: states (B, S), actions (B, A), rewards (B,), next states (B, S), ends (B,), tasks (B,).

    `end` is 1 at the last step of an episode, else 0. `task` is an int64 number; rewards are comparable only within a
    task.
    """

    state: Tensor
    action: Tensor
    reward: Tensor
    next_state: Tensor
    end: Tensor
    task: Tensor


class Replay:
    """The last `capacity` transitions.

    `skips_first` reproduces the sampler of AMC's published code. It never draws the first step of an episode, as it
    mistakes the entry after an episode's end for padding, nor the newest entry. It draws without replacement if there
    are enough entries; one difference remains: the published sampler may repeat an entry when it redraws an excluded
    one.
    """

    def __init__(self, capacity: int, state_size: int, action_size: int, skips_first: bool = False) -> None:
        self.capacity = capacity
        self._skips_first = skips_first
        self._stored = 0
        self._ring = Transitions(
            torch.zeros(capacity, state_size),
            torch.zeros(capacity, action_size),
            torch.zeros(capacity),
            torch.zeros(capacity, state_size),
            torch.zeros(capacity),
            torch.zeros(capacity, dtype=torch.int64),
        )

    def __len__(self) -> int:
        return min(self._stored, self.capacity)

    def add(self, *transition: Any) -> None:
        """One transition, its values in the order of `Transitions`: (S,), (A,), reward, (S,), end, task."""
        at = self._stored % self.capacity
        for ring, value in zip(self._ring, transition, strict=True):
            ring[at] = value
        self._stored += 1

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """`count` transitions drawn uniformly with replacement, but as the class describes with `skips_first`."""
        if not self._skips_first:
            index = torch.randint(len(self), (count,), generator=generator)
            return Transitions(*(ring[index] for ring in self._ring))
        places = self._places_after_first()
        enough = len(places) >= count
        chosen = (
            torch.randperm(len(places), generator=generator)[:count]
            if enough
            else torch.randint(len(places), (count,), generator=generator)
        )
        return Transitions(*(ring[places[chosen]] for ring in self._ring))

    def _places_after_first(self) -> Tensor:
        """Places in the ring of the entries that are not the first step of an episode, without the newest; oldest
        first."""
        oldest = self._stored % self.capacity if self._stored > self.capacity else 0
        places = (oldest + torch.arange(len(self))) % self.capacity
        follows_an_end = torch.cat([torch.zeros(1), self._ring.end[places[:-1]]]).bool()
        return places[:-1][~follows_an_end[:-1]] if len(places) > 1 else places

    def state_dict(self) -> dict[str, Any]:
        return {"stored": self._stored, **{k: v[: len(self)] for k, v in self._ring._asdict().items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stored = state["stored"]
        for name, ring in self._ring._asdict().items():
            ring[: len(self)] = state[name]
