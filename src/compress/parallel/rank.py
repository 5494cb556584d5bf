"""Which of several processes this one is, where a launcher has started them all: torchrun, or submitit on SLURM.

No torch here: the command asks before it loads any.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """A process among those that run one command; alone without a launcher."""

    rank: int = 0  # among all; 0 is the one that decides and writes
    world_size: int = 1
    local_rank: int = 0  # among those of its machine
    local_world_size: int = 1


def place() -> Rank:
    """From the environment, as torchrun sets it; submitit's tasks set it for themselves here."""
    if "SUBMITIT_EXECUTOR" in os.environ and "RANK" not in os.environ:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        return Rank()
    local = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return Rank(rank, world_size, *local)


def publish(rank: Rank) -> None:
    """Tell a process that was started here its rank, as a launcher would."""
    values = {
        "RANK": rank.rank,
        "WORLD_SIZE": rank.world_size,
        "LOCAL_RANK": rank.local_rank,
        "LOCAL_WORLD_SIZE": rank.local_world_size,
    }
    os.environ.update({name: str(value) for name, value in values.items()})
