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


def hits(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Images that are among the first, among the first five, and all: (3,), of a model in eval mode; the mode it was
    in is restored."""
    found = torch.zeros(3, dtype=torch.int64)
    with torch.inference_mode(), in_eval_mode(model):
        for x, y in batches:
            if len(y):  # a share of a small batch may be empty
                logits = model(x)
                found += torch.tensor([correct(logits, y, 1), correct(logits, y, 5), len(y)])
    return found


def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
    first, five, images = hits(model, batches).tolist()
    return Accuracy(100 * first / images, 100 * five / images)
