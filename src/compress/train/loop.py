"""The one training loop: SGD under a schedule, resumable after any epoch, bit for bit on a CPU.

Everything random in an epoch (order, crops, dropout) comes from (seed, epoch), so that a resumed run needs no
generator state. Several processes take their shares of the same batches (`compress.parallel.batches`): what is
here is written for one, and holds for all.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from compress.data.base import Data
from compress.errors import InputError
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import count_correct
from compress.models.masks import apply_masks
from compress.parallel import batches as shares
from compress.parallel import processes as distributed
from compress.schema.settings import Recipe
from compress.train.memory_format import KIND, guarded, training_format, unsafe_layers

log = logging.getLogger(__name__)

# Of the loss of heads that only exist in training: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015,
# arXiv:1409.4842, section 5.
AUXILIARY_WEIGHT = 0.3

# (logits (B, C), labels (B,), images (B, C, H, W)) -> scalar, the mean over the images
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _nothing(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Hooks:
    """What a method does while its network trains. Masks of weights need none: they are always kept."""

    begin_epoch: Callable[[nn.Module, int], None] = _nothing  # epochs count from 1
    on_gradient: Callable[[nn.Module], None] = _nothing  # after the backward pass and clipping, before the step
    row: Callable[[nn.Module], JSON] = lambda _: {}  # what it adds to an epoch's row


NO_HOOKS = Hooks()


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The rate at a point of the training, in epochs from its start; steps fall on whole epochs.

    Warm-up rises linearly to `lr`, which stays until `hold_epochs` are over (warm-up is part of them); then the
    schedule runs to the end: cosine to 0 (Loshchilov and Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, eq. 5, without
    restarts), or steps: a drop every `step_epochs` after the hold, so that a hold of 120 with steps of 30 drops at
    150, 180, 210, whatever the warm-up (drops that would fall into it are left out).
    """
    if epoch < recipe.warmup_epochs:
        return recipe.lr * epoch / recipe.warmup_epochs
    if epoch < recipe.hold_epochs or recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "step":
        covered = math.ceil((recipe.warmup_epochs - recipe.hold_epochs) / recipe.step_epochs) - 1
        drops = (epoch - recipe.hold_epochs) // recipe.step_epochs - max(0, covered)
        return recipe.lr * float(recipe.step_factor**drops)
    start = max(recipe.warmup_epochs, recipe.hold_epochs)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * min((epoch - start) / max(recipe.epochs - start, 1e-9), 1)))


def cross_entropy(recipe: Recipe) -> Loss:
    def loss(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)

    return loss


def _autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if recipe.amp == "bf16" else nullcontext()


def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    loss: Loss,
    *,
    stage: str,
    seed: int,
    device: torch.device,
    work: StageFolder,
    hooks: Hooks = NO_HOOKS,
    recipe_key: str = "",
) -> JSON:
    """Train `model` in place to its last epoch; returns what there is to report.

    `recipe_key` is where the recipe stands in the config, if not under the name of the stage.

    The best weights by held-out top-1 come beside the last ones (`best_weights`), never instead of them.

    Raises:
        InputError: the loss is no longer a number, or the network no longer finite.
    """
    model.to(device)
    layout = training_format(model, recipe, device, recipe_key or stage)
    model.to(memory_format=layout)
    if recipe.channels_last == "auto" and layout is torch.contiguous_format and distributed.is_main():
        unsafe = unsafe_layers(model)
        log.info(
            "%s: in the contiguous layout, since channels_last is not safe on a CPU for %s (%s)",
            stage,
            KIND,
            unsafe[0],
        )
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )
    start, best, best_epoch, best_weights = 0, -1.0, 0, _copy(model)
    top1 = 0.0
    resumed = distributed.from_main(work.resumed)
    if resumed is not None:
        model.load_state_dict(resumed["model"])
        optimizer.load_state_dict(resumed["optimizer"])
        start, best, best_epoch = (resumed[key] for key in ("epoch", "best", "best_epoch"))
        best_weights, top1 = resumed["best_weights"], resumed["top1"]
        log.info("%s: continues after epoch %d", stage, start)

    meant = _not_finite(model)  # before any step: an attention mask, say
    trained = shares.averaged(model, device)
    is_main = distributed.is_main()
    hidden = None if is_main else True  # None: unless it is a terminal
    bar = tqdm(total=recipe.epochs, initial=start, desc=stage, unit="epoch", disable=hidden, leave=False)
    ended = start
    with bar:
        for epoch in range(start + 1, recipe.epochs + 1):
            if recipe.early_stop_epochs and ended - best_epoch >= recipe.early_stop_epochs:
                log.info("%s: stopped after epoch %d, best held-out top-1 was epoch %d's", stage, ended, best_epoch)
                break
            began = time.perf_counter()
            hooks.begin_epoch(model, epoch)
            mean_loss, train_top1 = _epoch(
                model, trained, data, recipe, layout, loss, optimizer, hooks, stage, epoch, seed, device
            )
            rate = optimizer.param_groups[0]["lr"]
            shares.agree_on_buffers(model)
            broken = sorted(_not_finite(model) - meant)
            if broken or not math.isfinite(mean_loss):
                key = recipe_key or stage
                is_loss = not math.isfinite(mean_loss)
                what = f"the loss became {mean_loss}" if is_loss else f"{broken[0]} is no longer finite"
                raise InputError(
                    f"{stage}: {what} in epoch {epoch} at learning rate {rate:.3g}; "
                    f"try {key}.lr={recipe.lr / 10:g}, {key}.warmup_epochs=5 or {key}.clip_norm=1"
                )
            top1 = _held_out_top1(model, data, device)
            if top1 > best:
                best, best_epoch, best_weights = top1, epoch, _copy(model)
            ended = epoch
            if not is_main:
                continue
            work.row(
                stage=stage,
                epoch=epoch,
                loss=round(mean_loss, 6),
                train_top1=round(train_top1, 4),
                held_out_top1=round(top1, 4),
                lr=rate,
                seconds=round(time.perf_counter() - began, 3),
                **hooks.row(model),
            )
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epoch": epoch,
                "best": best,
                "best_epoch": best_epoch,
                "best_weights": best_weights,
                "top1": top1,
            }
            work.progress(lambda state=state: state)  # type: ignore[misc]
            bar.update()
            bar.set_postfix(loss=f"{mean_loss:.3f}", held_out=f"{top1:.2f} %")
    if ended == 0:
        top1 = best = _held_out_top1(model, data, device)
    return {
        "epochs": ended,
        "held_out_top1": top1,
        "best_held_out_top1": best,
        "best_epoch": best_epoch,
        "best_weights": best_weights,
    }


def training_loss(
    output: Tensor | tuple[Tensor | None, ...], labels: Tensor, images: Tensor, recipe: Recipe, loss: Loss
) -> tuple[Tensor, Tensor]:
    """Logits (B, C) and the loss; heads that only exist in training add theirs, from the labels alone."""
    logits, *heads = [o for o in output if o is not None] if isinstance(output, tuple) else [output]
    value = loss(logits, labels, images)
    for head in heads:
        value = value + AUXILIARY_WEIGHT * cross_entropy(recipe)(head, labels, images)
    return logits, value


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _not_finite(model: nn.Module) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not bool(tensor.isfinite().all())}


def _held_out_top1(model: nn.Module, data: Data, device: torch.device) -> float:
    """In percent, each process looking at its share."""
    batches = data.ordered("held_out", 512, device, **shares.mine())
    first, _, images = map(float, distributed.summed(count_correct(model, batches)))
    return 100 * first / images


def _epoch(
    model: nn.Module,
    trained: nn.Module,
    data: Data,
    recipe: Recipe,
    layout: torch.memory_format,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    hooks: Hooks,
    stage: str,
    epoch: int,
    seed: int,
    device: torch.device,
) -> tuple[float, float]:
    """One pass over the training images: mean loss and top-1 in percent, both as seen while training.

    `trained` is the model, or what stands for it where several processes train it.
    """
    trained.train()
    model.train()
    torch.manual_seed(derive_seed(seed, stage, epoch, "layers", *shares.apart()))
    sums = torch.zeros(3, device=device, dtype=torch.float64)  # of the loss, of hits, of images
    count = len(data.split()["train"])
    steps, least = math.ceil(count / recipe.batch_size), shares.least_batch(model, device)
    batches = data.shuffled(recipe.batch_size, derive_seed(seed, stage, epoch, "images"), device, **shares.mine())
    for step, (images, labels) in enumerate(batches):
        size = shares.whole_size(labels, min(recipe.batch_size, count - step * recipe.batch_size))
        if size < least and steps > 1:
            continue
        images, labels, own = shares.never_empty(images, labels)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch - 1 + (step + 0.5) / steps)
        images = images.contiguous(memory_format=layout)
        with _autocast(recipe, device), guarded(recipe, device):
            logits, value = training_loss(trained(images), labels, images, recipe, loss)
        optimizer.zero_grad(set_to_none=True)
        shares.weighted(value, own, size).backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        hooks.on_gradient(model)
        optimizer.step()
        apply_masks(model)
        if own:
            sums[0] += value.detach() * own
            sums[1] += (logits.detach().argmax(1) == labels).sum()
            sums[2] += own
    total, right_ones, seen = distributed.summed(sums).tolist()
    return total / seen, 100 * right_ones / seen
