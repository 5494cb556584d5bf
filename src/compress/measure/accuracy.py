"""Top-1 and top-5 in percent."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compress.measure.macs import in_eval_mode


class Accuracy(NamedTuple):
    top1: float
    top5: float


def correct(logits: Tensor, labels: Tensor, k: int) -> int:
    """How many labels are among the k largest logits: (B, C), (B,)."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return int((best == labels[:, None]).sum())


def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
    """Of a model in eval mode; the mode it was in is restored."""
    hits1 = hits5 = images = 0
    with torch.inference_mode(), in_eval_mode(model):
        for x, y in batches:
            logits = model(x)
            hits1 += correct(logits, y, 1)
            hits5 += correct(logits, y, 5)
            images += len(y)
    return Accuracy(100 * hits1 / images, 100 * hits5 / images)
