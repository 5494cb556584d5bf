"""Convolutions trained in a process of its own, which may crash: cases as lines of JSON in, errors as lines out.

Of each case: how far the output and both gradients are off those in float64, relative to the largest value.
"""

import json
import sys
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.train.memory_format import SafeConvolutions

BATCH = 4


def gradients(images: Tensor, weight: Tensor, case: dict[str, Any]) -> list[Tensor]:
    """Output and gradients of a convolution of one case, with the loss of a fixed random sum."""
    images, weight = images.requires_grad_(), weight.requires_grad_()
    is_half = case["bf16"] and images.dtype == torch.float32
    safe = SafeConvolutions() if not case["bf16"] else nullcontext()
    with torch.autocast("cpu", torch.bfloat16) if is_half else nullcontext(), safe:
        output = F.conv2d(images, weight, stride=case["stride"], padding=case["kernel"] // 2, groups=case["groups"])
    drawn = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    output.to(images.dtype).backward(drawn.to(images.dtype))
    assert images.grad is not None
    assert weight.grad is not None
    return [output.detach(), images.grad, weight.grad]


def errors(case: dict[str, Any]) -> list[float]:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, case["inputs"], case["pixels"], case["pixels"], generator=random)
    weight = torch.randn(
        case["outputs"], case["inputs"] // case["groups"], case["kernel"], case["kernel"], generator=random
    )
    layout = torch.channels_last if case["channels_last"] else torch.contiguous_format
    got = gradients(images.clone(memory_format=layout), weight.clone(memory_format=layout), case)
    exact = gradients(images.double(), weight.double(), case)
    return [float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(got, exact, strict=True)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(errors(json.loads(line))), flush=True)
