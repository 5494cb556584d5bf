"""Top-1 and top-5 accuracy in percent, and the mean cross entropy."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.measure.macs import in_eval_mode


class Accuracy(NamedTuple):
    """In percent."""

    top1: float
    top5: float


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many labels are their image's largest logit, and among its five largest: (B, classes), (B,) -> (2,), int64,
    on their device, which is not waited for."""
    best = [logits.topk(min(k, logits.shape[1]), dim=1).indices for k in (1, 5)]
    return torch.stack([(indices == labels[:, None]).sum() for indices in best])


def count_correct(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Images that are right among the top 1, among the top 5, and all images: int64 (3,), on the CPU.

    The model runs in eval mode; the mode that every module had is restored. `batches` are of (images, labels).
    """
    found, images = list[Tensor](), 0
    with torch.inference_mode(), in_eval_mode(model):
        for x, y in batches:
            if len(y):  # this rank's shard of a small batch may be empty
                found.append(correct(model(x), y))
                images += len(y)
    right = torch.stack(found).sum(0).tolist() if found else [0, 0]  # the one transfer
    return torch.tensor([*right, images])


def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
    """Accuracy over all images of `batches`, in eval mode.

    Raises:
        ZeroDivisionError: no image.
    """
    first, five, images = count_correct(model, batches).tolist()
    return Accuracy(100 * first / images, 100 * five / images)


class Score(NamedTuple):
    """What a candidate of a search is worth: accuracies in percent, and the mean cross entropy, which breaks ties."""

    top1: float
    top5: float
    loss: float


def score_of(
    logits_of: Callable[[Tensor], Tensor], batches: Sequence[tuple[Tensor, Tensor]], least_top1: float = 0.0
) -> Score | None:
    """The score of a function from images (B, C, H, W) to logits (B, classes) over all `batches`.

    None as soon as so many images are wrong that its top-1 will be below `least_top1`, whatever the others are. On a
    GPU, which is waited for once, this is found after the last batch.
    """
    total = sum(len(y) for _, y in batches)
    images, found = 0, torch.zeros(3)
    with torch.inference_mode():
        for at, (x, y) in enumerate(batches, 1):
            logits = logits_of(x)
            loss = F.cross_entropy(logits.float(), y, reduction="sum")
            of_batch = torch.cat([correct(logits, y).double(), loss.double()[None]])
            found = of_batch if at == 1 else found + of_batch
            images += len(y)
            looks = logits.device.type == "cpu" or at == len(batches)
            if looks and 100 * (total - images + float(found[0])) / total < least_top1:
                return None
    first, five, of_all = found.tolist()
    return Score(100 * first / total, 100 * five / total, of_all / total)
