"""How large a network is, in every convention that the published tables of the zoo use.

One image, eval mode, a multiply-add counts one. What each counts per layer ("out", "in": how many numbers a layer
gives or takes; what is not named counts nothing):

| name | conv, linear, matmul | conv bias | linear bias | BN | ReLU family | pooling |
|---|---|---|---|---|---|---|
| `macs` | multiply-adds | | | | | |
| `amc` | multiply-adds | | out | | | |
| `fvcore` | multiply-adds | | | 2 out | | in, of every adaptive average |
| `ptflops` | multiply-adds | out | | 2 out | out, of modules | in, of modules |
| `metapruning` | multiply-adds | | out | out | | |

`amc` is what AMC (He et al., ECCV 2018, arXiv:1802.03494) prints for its strategies.

`fvcore` is `FlopCountAnalysis(model.eval(), image).total()`, other normalisations and resizing included.

`ptflops` is version 0.5 and 0.6 of that package. It hooks modules and sees no functions: an `nn.ReLU` counts and
`F.relu` does not, nor does a functional pooling, which is why torchvision's mobilenet_v2 has 62,720 less than by
fvcore's count plus its ReLU6. A BN without weights counts once, not twice. A module called twice counts twice.

`metapruning` is what the search of MetaPruning (Liu et al., ICCV 2019, arXiv:1903.10258) holds against its limit. The
code behind the published genes also adds max-pooling modules (9 per output, 1.8 M for ResNet-50). They are left out,
as in the figures that this project is held against (tests/oracles/metaprune.json).

`params` are all parameters. `params_with_selection` adds the full width of every channel selection, also of one that
was cut: the original implementations keep those vectors as parameters.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.measure.macs import Operators, count_operators, count_params, run_hooked
from compress.models.layers import ChannelSelection

RELUS = (nn.ReLU, nn.ReLU6, nn.PReLU, nn.LeakyReLU, nn.ELU)
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Counts:
    """Of one image; see the table at the head of this file."""

    macs: int
    amc: int
    fvcore: int
    ptflops: int
    metapruning: int
    params: int
    params_with_selection: int


def counts(model: nn.Module, shape: tuple[int, int, int], operators: Operators | None = None) -> Counts:
    """Every count of a network for images (C, H, W); `operators` of it, if they are counted already."""
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


def _count_modules(model: nn.Module, shape: tuple[int, int, int]) -> Counter[str]:
    """Numbers that pass through modules of each kind, a module called twice twice."""
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

    run_hooked(model, [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)], hook, shape)
    return seen
