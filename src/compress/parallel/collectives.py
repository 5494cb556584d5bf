"""The processes that train one network together, and what they exchange by torch.distributed's collectives."""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """One process's place in a training. A team of more than one has a process group, whose rank 0 is this rank 0.

    What a process does outside of a training it does alone, whatever process group it is in.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes, and tells people."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each; of any shape, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: Tensor) -> Tensor:
        """What rank 0 has, of any shape; in place."""
        if self.world_size > 1:
            plain = tensor.byte() if tensor.dtype == torch.bool else tensor.contiguous()  # what gloo can send
            dist.broadcast(plain, src=0)
            tensor.copy_(plain)
        return tensor

    def broadcast_object(self, value: T) -> T:
        """What rank 0 has, of any kind that can be pickled."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]


ALONE = Team()
