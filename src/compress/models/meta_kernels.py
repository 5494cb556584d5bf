"""Networks without memory: names and shapes on the meta device, for which torch need not load its compiler.

Some operators have no meta kernel but one written in Python, whose first call imports `torch._dynamo`: 2 CPU seconds
that a run which trains nothing spends on shapes alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

WRITES = {Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_}  # of initialisations; there is nothing to fill
# Operators with such a kernel, and others that give the same shape.
SAME_SHAPE: dict[Callable[..., Any], Callable[..., Any]] = {
    F.adaptive_avg_pool2d: F.adaptive_max_pool2d,
    torch.mean: torch.sum,
    Tensor.mean: Tensor.sum,
}


class MetaKernels(TorchFunctionMode):
    """What has no memory is not computed; tensors with memory are as ever."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            if func in WRITES:
                return args[0]
            func = SAME_SHAPE.get(func, func)
        return func(*args, **(kwargs or {}))
