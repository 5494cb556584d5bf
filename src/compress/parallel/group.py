"""A process group: torch's collectives (gloo between CPUs, NCCL between GPUs), and orders through a key-value store.

Rank 0 announces what all do next. Announcements go through the store, not through collectives: who waits for one
waits for hours at no cost, and nobody can get out of step.
"""

import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from compress.parallel.collectives import Team
from compress.parallel.rank import Rank

FOREVER = timedelta(days=14)  # rank 0 may search for days while the others wait
PATIENCE = timedelta(seconds=10)  # of a helper that failed: rank 0 may have failed of the same


class ProcessGroup:
    """This process's part in a process group."""

    def __init__(self, store: Any, rank: Rank, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        self.team = Team(rank.rank, rank.world_size)
        self._store = store
        self._announced = 0
        dist.init_process_group(backend, store=store, rank=rank.rank, world_size=rank.world_size, timeout=FOREVER)

    def announce(self, order: Any) -> None:
        """What all do next; None: nothing more."""
        self._store.set(f"order {self._announced}", pickle.dumps(order))
        self._announced += 1

    def serve(self, perform: Callable[[Any, Team], None]) -> None:
        """Do what rank 0 announces, until there is nothing more.

        Raises:
            Exception: of `perform`, unless rank 0 failed too: then it is the one to tell.
        """
        problem: Exception | None = None
        while (order := self._next(problem)) is not None:
            try:
                perform(order, self.team)
            except Exception as error:
                problem = error

    def _next(self, problem: Exception | None) -> Any:
        key = f"order {self._announced}"
        try:
            self._store.wait([key], FOREVER if problem is None else PATIENCE)
        except RuntimeError as silence:
            raise problem or silence from None
        self._announced += 1
        return pickle.loads(self._store.get(key))

    def agree(self, word: str) -> bool:
        """Whether all processes say the same; asked by rank 0, the others go on at once."""
        self._store.set(f"word {self.team.rank}", word)
        words = (self._store.get(f"word {rank}").decode() for rank in range(self.team.world_size))
        return not self.team.is_main or all(said == word for said in words)

    def leave(self) -> None:
        dist.destroy_process_group()


_joined = 0  # groups that this process was in: two of one launcher must not read each other's keys


def join_launched(rank: Rank, device: torch.device) -> ProcessGroup:
    """The group of all processes that a launcher started."""
    global _joined
    store, _, _ = next(iter(rendezvous("env://", timeout=FOREVER)))
    _joined += 1
    return ProcessGroup(PrefixStore(f"group {_joined}", store), rank, device)
