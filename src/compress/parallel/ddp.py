"""Data-parallel training with torch's DistributedDataParallel (DDP): each rank takes its shard of every batch.

The loss of a shard is weighted by its number of images, so that the averaged gradient is that of the whole batch,
whatever its size: without batch norm, N processes train the same weights as one, up to float rounding. On GPUs batch
norm is synchronised over the whole batch (SyncBatchNorm). On CPUs, which torch's SyncBatchNorm does not support, each
process normalises by its own shard, and the running statistics are averaged over the processes after each epoch.
"""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from compress.parallel.collectives import Team


def shard_argument(team: Team) -> dict[str, Any]:
    """The keyword argument `shard` of `Data.shuffled` and `.ordered`; none in a single process."""
    return {"shard": (team.rank, team.world_size)} if team.world_size > 1 else {}


def rank_seed(team: Team) -> tuple[int, ...]:
    """The rank as a part of a seed, so that dropout masks differ between ranks; nothing for rank 0."""
    return (team.rank,) if team.rank else ()


def full_batch_size(team: Team, labels: Tensor, size: int) -> int:
    """Images of a batch over all ranks: `size` by the batch size; in a single process those it really has."""
    return len(labels) if team.world_size == 1 else size


def smallest_batch(team: Team, model: nn.Module, device: torch.device) -> int:
    """The smallest batch, over all ranks, to train on; a smaller last batch is skipped. Batch norm needs two images:
    per rank on CPUs, in total on GPUs, where also no shard may be empty."""
    if team.world_size == 1 or not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return 2
    return max(2, team.world_size) if device.type == "cuda" else 2 * team.world_size


def padded_shard(*shard: Tensor) -> tuple[Tensor, ...]:
    """A shard of a batch: images, labels and what else there is of each image. Of an empty one, one image of zeros,
    which is not to count.

    Every rank must take part in the collectives of a step, and not every network accepts an empty batch.
    """
    return shard if len(shard[0]) else tuple(part.new_zeros(1, *part.shape[1:]) for part in shard)


def scaled_loss(team: Team, loss: Tensor, count: int, size: int) -> Tensor:
    """The mean loss of a shard of `count` of `size` images, scaled so that DDP's mean of gradients over the ranks is
    the gradient of the mean loss of the whole batch."""
    return loss if team.world_size == 1 else loss * (count * team.world_size / size)


def wrapped(team: Team, model: nn.Module, device: torch.device) -> nn.Module:
    """The module to call in training: DDP around the same parameters; in a single process the model itself.

    Hooks, masks, measurements and saved files still use the bare model.
    """
    if team.world_size == 1:
        return model
    converted = with_sync_batch_norm(model) if device.type == "cuda" else model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has another name from torch 2.15 on
        return DistributedDataParallel(
            converted,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,  # done by `average_buffers`, once per epoch
            static_graph=True,  # parameters may be unused, but the same ones at every step
        )


def with_sync_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of the modules that shares all parameters and buffers, with SyncBatchNorm for every batch norm."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    same: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model, tensors))
    return same


def synchronise_adapters(team: Team, adapters: nn.Module, device: torch.device) -> None:
    """Convert the batch norms of an objective's adapters to SyncBatchNorm, in place; on GPUs only."""
    if team.world_size > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(adapters)


def average_buffers(team: Team, model: nn.Module) -> None:
    """All-reduce running statistics of batch norms to their means over the ranks; broadcast other buffers from rank
    0."""
    if team.world_size == 1:
        return
    means = [t for m in model.modules() if isinstance(m, _BatchNorm) for t in (m.running_mean, m.running_var)]
    statistics = {id(tensor) for tensor in means}
    with torch.no_grad():
        for buffer in model.buffers():
            if id(buffer) in statistics:
                team.all_reduce(buffer).div_(team.world_size)
            else:
                team.broadcast(buffer)
