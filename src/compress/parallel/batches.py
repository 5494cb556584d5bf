"""How several processes train one network: each takes its share of every batch, and all take the same step.

The loss of a share counts as much as it has images, so that the averaged gradient is that of the whole batch,
whatever its size: without batch norm N processes train the weights that one does, to the rounding of floats. Batch
norm is another matter. Between GPUs it is synchronised, over the whole batch (SyncBatchNorm). Between CPUs, for which
torch has no such layer, each process normalises by its own share; the running statistics are the means of all
processes', taken after each epoch.
"""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from compress.parallel.collectives import Team


def share_of(team: Team) -> dict[str, Any]:
    """What a `Data` is asked for besides, where it is not the whole."""
    return {"share": (team.rank, team.world_size)} if team.world_size > 1 else {}


def seed_part(team: Team) -> tuple[int, ...]:
    """Part of a seed: dropout draws others for other images."""
    return (team.rank,) if team.rank else ()


def whole_size(team: Team, labels: Tensor, size: int) -> int:
    """Images of a batch in all shares: what one process has itself, or should be there."""
    return len(labels) if team.world_size == 1 else size


def least_batch(team: Team, model: nn.Module, device: torch.device) -> int:
    """A smaller last batch is left out: batch norm cannot train on one image, and shares cannot be shared further."""
    if team.world_size == 1 or not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return 2
    return max(2, team.world_size) if device.type == "cuda" else 2 * team.world_size


def never_empty(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """A share and how many images it counts as: one that has none takes part with one of zeros, which counts nothing.

    Collectives need every process, and not every network takes an empty batch.
    """
    if len(labels):
        return images, labels, len(labels)
    return images.new_zeros(1, *images.shape[1:]), labels.new_zeros(1), 0


def weighted(team: Team, loss: Tensor, count: int, size: int) -> Tensor:
    """The loss of a share of `count` among `size` images, such that DDP's mean of gradients is the whole batch's."""
    return loss if team.world_size == 1 else loss * (count * team.world_size / size)


def averaged(team: Team, model: nn.Module, device: torch.device) -> nn.Module:
    """What is called instead of the model while it trains: the same parameters, with gradients that are averaged over
    all processes.

    The model itself stays what it is; it is what hooks, masks, measuring and files see.
    """
    if team.world_size == 1:
        return model
    seen = synchronised(model) if device.type == "cuda" else model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has another name from torch 2.15 on
        return DistributedDataParallel(
            seen,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,  # `agree_on_buffers` does, once an epoch
            static_graph=True,  # parameters may be left out, the same ones at every step
        )


def synchronised(model: nn.Module) -> nn.Module:
    """The modules once more, over the very same parameters and buffers, with batch norms that see the whole batch."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    same: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model, tensors))
    return same


def synchronise(team: Team, adapters: nn.Module, device: torch.device) -> None:
    """Batch norms inside of modules that are only there to be trained see the whole batch from now on."""
    if team.world_size > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(adapters)


def agree_on_buffers(team: Team, model: nn.Module) -> None:
    """The statistics of batch norms become their means over all processes, other buffers those of rank 0."""
    if team.world_size == 1:
        return
    means = [t for m in model.modules() if isinstance(m, _BatchNorm) for t in (m.running_mean, m.running_var)]
    averaged = {id(tensor) for tensor in means}
    with torch.no_grad():
        for buffer in model.buffers():
            if id(buffer) in averaged:
                team.all_reduce(buffer).div_(team.world_size)
            else:
                team.broadcast(buffer)
