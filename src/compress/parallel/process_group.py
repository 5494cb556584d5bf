"""A process group: torch's collectives (gloo on CPUs, NCCL on GPUs), and tasks announced through a key-value store.

Rank 0 announces the next task of all ranks. Announcements go through the store and not through collectives, so that
the other ranks can wait for hours without load, and cannot get out of order.
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
PATIENCE = timedelta(seconds=10)  # how long a failed rank waits for rank 0, which may have met the same error


class ProcessGroup:
    """Membership of this process in torch's default process group."""

    def __init__(self, store: Any, rank: Rank, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        self.team = Team(rank.rank, rank.world_size)
        self._store = store
        self._announced = 0
        dist.init_process_group(backend, store=store, rank=rank.rank, world_size=rank.world_size, timeout=FOREVER)

    def announce(self, order: Any) -> None:
        """By rank 0: the next task of all ranks, pickled; None ends their `serve`."""
        self._store.set(f"order {self._announced}", pickle.dumps(order))
        self._announced += 1

    def serve(self, perform: Callable[[Any, Team], None]) -> None:
        """On other ranks: perform the tasks that rank 0 announces, until it announces None.

        Raises:
            Exception: an error of `perform`, unless rank 0 goes on to announce: then it has met and reported the
            error.
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
        except RuntimeError as timeout_error:
            raise problem or timeout_error from None
        self._announced += 1
        return pickle.loads(self._store.get(key))

    def agree(self, word: str) -> bool:
        """On rank 0: whether all ranks gave the same `word`; waits for them. Other ranks return True at once."""
        self._store.set(f"word {self.team.rank}", word)
        words = (self._store.get(f"word {rank}").decode() for rank in range(self.team.world_size))
        return not self.team.is_main or all(other == word for other in words)

    def leave(self) -> None:
        dist.destroy_process_group()


_joined = 0  # number of groups joined so far: a prefix of the keys of each in the launcher's one store


def join_launched(rank: Rank, device: torch.device) -> ProcessGroup:
    """The process group of all processes that a launcher (torchrun, submitit) started."""
    global _joined
    store, _, _ = next(iter(rendezvous("env://", timeout=FOREVER)))
    _joined += 1
    return ProcessGroup(PrefixStore(f"group {_joined}", store), rank, device)
