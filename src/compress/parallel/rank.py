"""Rank and world size of this process, from the environment that a launcher sets: torchrun, or submitit on SLURM.

Imports no torch: the command reads the rank before it loads torch.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """Rank and world size; without a launcher 0 of 1."""

    rank: int = 0  # rank 0 decides and writes
    world_size: int = 1
    local_rank: int = 0  # among the processes of the same machine
    local_world_size: int = 1


def place() -> Rank:
    """The rank of this process by the variables of torchrun; in a task of submitit these are exported first."""
    if "SUBMITIT_EXECUTOR" in os.environ and "RANK" not in os.environ:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        return Rank()
    local = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return Rank(rank, world_size, *local)


def publish(rank: Rank) -> None:
    """Set the variables that a launcher would set, in a helper process that was spawned here."""
    values = {
        "RANK": rank.rank,
        "WORLD_SIZE": rank.world_size,
        "LOCAL_RANK": rank.local_rank,
        "LOCAL_WORLD_SIZE": rank.local_world_size,
    }
    os.environ.update({name: str(value) for name, value in values.items()})
