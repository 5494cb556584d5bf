"""The size of a network, in every convention that published tables use.

All are for one image in eval mode; a multiply-add counts as one. What each convention counts per layer ("out", "in":
the number of elements of the layer's output or input; an empty cell counts 0):

| name | conv, linear, matmul | conv bias | linear bias | BN | ReLU family | pooling |
|---|---|---|---|---|---|---|
| `macs` | multiply-adds | | | | | |
| `amc` | multiply-adds | | out | | | |
| `fvcore` | multiply-adds | | | 2 out | | in, of every adaptive average |
| `ptflops` | multiply-adds | out | | 2 out | out, of modules | in, of modules |
| `metapruning` | multiply-adds | | out | out | | |

`amc` is what AMC (He et al., ECCV 2018, arXiv:1802.03494) prints for its strategies.

`fvcore` is `FlopCountAnalysis(model.eval(), image).total()`, which also counts other normalisations and resizing.

`ptflops` is that of the package's versions 0.5 and 0.6. It hooks modules and does not see functions: an `nn.ReLU`
counts, `F.relu` and a functional pooling do not, which is why torchvision's mobilenet_v2 has 62,720 less than
fvcore's count plus its ReLU6. A BN without weights counts its output once, not twice. A module that is called twice
counts twice.

`metapruning` is what the search of MetaPruning (Liu et al., ICCV 2019, arXiv:1903.10258) compares with its limit. The
code behind the published genes also adds max-pooling modules (9 per output, 1.8 M for ResNet-50). These are left out
here, as in the reference figures of the tests (tests/oracles/metaprune.json).

`params` is the number of elements of all parameters. `params_with_selection` adds the full width of every channel
selection, cut or not: the original implementations keep a vector of that length as a parameter.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.measure.macs import Operators, count_operators, count_params, run_with_hooks
from compress.models.inputs import Given
from compress.models.layers import ChannelSelection

RELUS = (nn.ReLU, nn.ReLU6, nn.PReLU, nn.LeakyReLU, nn.ELU)
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Counts:
    """Counts of a network for one image; the head of this file defines them."""

    macs: int
    amc: int
    fvcore: int
    ptflops: int
    metapruning: int
    params: int
    params_with_selection: int


def counts(model: nn.Module, shape: Given, operators: Operators | None = None) -> Counts:
    """Every count of a network for images of `shape` (C, H, W), or other inputs.

    `operators` may pass in `count_operators(model, shape)`, which takes most of the time.

    Raises:
        InputError: the network cannot take such images, or cannot be traced.
    """
    operators = operators or count_operators(model, shape)
    macs = operators.total
    seen = _count_modules(model, shape)
    params = count_params(model)
    selections = sum(module.channels for module in model.modules() if isinstance(module, ChannelSelection))
    return Counts(
        macs=macs,
        amc=macs + seen["linear bias"],
        fvcore=operators.fvcore,
        ptflops=macs + seen["bn"] + seen["affine bn"] + seen["relu"] + seen["pool"] + seen["conv bias"],
        metapruning=macs + seen["bn"] + seen["linear bias"],
        params=params,
        params_with_selection=params + selections,
    )


def _count_modules(model: nn.Module, shape: Given) -> Counter[str]:
    """Elements of inputs or outputs by kind of module, summed over all calls."""
    seen: Counter[str] = Counter()

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if isinstance(module, RELUS):
            seen["relu"] += output.numel()
        elif isinstance(module, POOLS):
            seen["pool"] += inputs[0].numel()
        elif isinstance(module, BATCH_NORMS):
            seen["bn"] += output.numel()
            seen["affine bn"] += output.numel() * module.affine
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            seen["conv bias"] += output.numel()
        elif isinstance(module, nn.Linear) and module.bias is not None:
            seen["linear bias"] += output.numel()

    run_with_hooks(model, [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)], hook, shape)
    return seen
