"""Top-1 and top-5 accuracy in percent."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

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
            if len(y):  # this rank's share of a small batch may be empty
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
