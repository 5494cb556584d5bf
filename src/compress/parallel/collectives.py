"""`Team`: rank, world size and the collectives (all-reduce, broadcast) of the processes that train one network."""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """A process's rank and world size in a training; a world size above 1 needs torch's default process group.

    Outside of a training a process works with `ALONE`, even where a process group exists. Collectives are no-ops for
    a world size of 1.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, bit-identical on each; any shape, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The tensor of rank 0; any shape, in place."""
        if self.world_size > 1:
            plain = tensor.byte() if tensor.dtype == torch.bool else tensor.contiguous()  # gloo cannot send bool
            dist.broadcast(plain, src=0)
            tensor.copy_(plain)
        return tensor

    def broadcast_object(self, value: T) -> T:
        """The value of rank 0, sent by pickle."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]


ALONE = Team()
