"""Which of several processes this one is, where a launcher has started them all: torchrun, or submitit on SLURM.

No torch here: the command asks before it loads any.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A process among those that run one command; alone without a launcher."""

    rank: int = 0  # among all, 0 is the one that decides and writes
    world: int = 1  # how many there are
    local_rank: int = 0  # among those of its machine
    local_world: int = 1


def place() -> Place:
    """From the environment, as torchrun sets it; submitit's tasks set it for themselves here."""
    if "SUBMITIT_EXECUTOR" in os.environ and "RANK" not in os.environ:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return Place()
    local = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return Place(rank, world, *local)


def publish(where: Place) -> None:
    """Tell a process that was started here its place, as a launcher would."""
    values = {
        "RANK": where.rank,
        "WORLD_SIZE": where.world,
        "LOCAL_RANK": where.local_rank,
        "LOCAL_WORLD_SIZE": where.local_world,
    }
    os.environ.update({name: str(value) for name, value in values.items()})
