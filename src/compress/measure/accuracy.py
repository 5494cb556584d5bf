"""Top-1 and top-5 in percent."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Accuracy(NamedTuple):
    top1: float
    top5: float


def correct(logits: Tensor, labels: Tensor, k: int) -> int:
    """How many labels are among the k largest logits: (B, C), (B,)."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return int((best == labels[:, None]).sum())


def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
    """Of a model in eval mode; the mode it was in is restored."""
    was_training = model.training
    model.eval()
    hits1 = hits5 = images = 0
    with torch.inference_mode():
        for x, y in batches:
            logits = model(x)
            hits1 += correct(logits, y, 1)
            hits5 += correct(logits, y, 5)
            images += len(y)
    model.train(was_training)
    return Accuracy(100 * hits1 / images, 100 * hits5 / images)
