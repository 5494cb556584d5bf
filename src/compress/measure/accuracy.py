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


def correct(logits: Tensor, labels: Tensor, k: int) -> int:
    """How many labels are among their image's k largest logits: (B, classes), (B,)."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return int((best == labels[:, None]).sum())


def count_correct(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Images that are right among the top 1, among the top 5, and all images: int64 (3,), on the CPU.

    The model runs in eval mode; the mode that every module had is restored. `batches` are of (images, labels).
    """
    found = torch.zeros(3, dtype=torch.int64)
    with torch.inference_mode(), in_eval_mode(model):
        for x, y in batches:
            if len(y):  # this rank's shard of a small batch may be empty
                logits = model(x)
                found += torch.tensor([correct(logits, y, 1), correct(logits, y, 5), len(y)])
    return found


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

    None as soon as so many images are wrong that its top-1 will be below `least_top1`, whatever the others are.
    """
    total = sum(len(y) for _, y in batches)
    first = five = images = 0
    loss = 0.0
    with torch.inference_mode():
        for x, y in batches:
            logits = logits_of(x)
            first += correct(logits, y, 1)
            five += correct(logits, y, 5)
            images += len(y)
            loss += float(F.cross_entropy(logits.float(), y, reduction="sum"))
            if 100 * (total - images + first) / total < least_top1:
                return None
    return Score(100 * first / total, 100 * five / total, loss / total)
