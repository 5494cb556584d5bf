"""`Generated`: convolution weights that small networks generate from the widths, which they are given as shares.

Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV 2019, arXiv:1903.10258,
section 3.1 and figure 3, there called PruningNet. Each convolution has a hypernetwork of its own: an encoding of
shares in (0, 1] goes through a linear layer, a ReLU and a second linear layer without activation, which gives the
full weight, of which the first channels are used. Linear layers, biases and norms over several channels are shared by
all widths, as `compress.search.supernet.weights` has them.

In the paper's own bottlenecks the encoding is that of the published code: the shares of the inner, the incoming and
the outgoing channels, for each convolution of the block. Elsewhere it is the shares of the groups on the weight's own
axes, inputs first; a weight that no group narrows is shared.

We differ in two things. Rows of the second layer that would be cropped away are not computed, which changes no value.
And the second layers begin scaled so that the weights of the full network have the mean square of fresh ones: with
torch's own initialisation they are several times as large, which batch norm hides, and nothing else does. (That the
scale of generated weights needs care: Chang et al., "Principled Weight Initialization for Hypernetworks", ICLR 2020.)
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.graph.types import Axis, ChannelGraph
from compress.models.metapruning import Bottleneck, InvertedResidual
from compress.search.supernet.crops import Crops, Widths, cropped
from compress.search.supernet.skeleton import Skeleton
from compress.search.supernet.weights import Shared

Encoding = tuple[int, ...]  # indices in the graph of the groups whose shares a hypernetwork is given
SGD_COPIES = 3  # of a parameter while it is trained: itself, its gradient, its momentum


class Hypernetwork(nn.Module):
    """Generates one convolution weight of `shape` (out, in / groups, h, w) from an encoding (n,)."""

    def __init__(self, inputs: int, hidden: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, prod(shape))
        self.shape = tuple(shape)

    def forward(self, encoding: Tensor, outputs: int | Tensor) -> Tensor:
        """The weight of some outputs: (n,) -> (kept, in / groups, h, w)."""
        hidden = F.relu(self.first(encoding))
        rows = cropped(self.second.weight.view(self.shape[0], -1, self.second.in_features), 0, outputs)
        bias = cropped(self.second.bias.view(self.shape[0], -1), 0, outputs)
        return (rows @ hidden + bias).view(-1, *self.shape[1:])

    @torch.no_grad()
    def scale(self, factor: Tensor) -> None:
        """Multiply all weights that it generates."""
        self.second.weight.mul_(factor)
        self.second.bias.mul_(factor)


def _root_mean_square(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()


def encodings(model: nn.Module, graph: ChannelGraph) -> dict[str, Encoding]:
    """The encoding of every convolution weight that is generated, by the weight's name."""
    crops = Crops(graph)
    parameters = dict(model.named_parameters())
    found = {}
    for layer in graph.layers:
        name = layer.out_axis.tensor
        if layer.kind == "conv" and name in parameters and parameters[name].requires_grad:
            groups = dict.fromkeys((*crops.groups(name, 1), *crops.groups(name, 0)))
            if groups:
                found[name] = tuple(groups)
    for block in _published_blocks(model, crops):
        found |= {name: encoding for name, encoding in block.items() if name in found}
    return found


def _published_blocks(model: nn.Module, crops: Crops) -> list[dict[str, Encoding]]:
    """Of every bottleneck of the paper's networks: its convolution weights, and their common encoding."""
    found = []
    for path, module in model.named_modules():
        if isinstance(module, Bottleneck | InvertedResidual):
            names = [f"{path}.{name}" for name, tensor in module.named_parameters() if tensor.dim() == 4]
            first, last = names[0], names[2]
            groups = (*crops.groups(first, 0), *crops.groups(first, 1), *crops.groups(last, 0))
            found.append(dict.fromkeys(names, groups))
    return found


def parameter_count(model: nn.Module, graph: ChannelGraph, hidden: int) -> int:
    """Parameters of all hypernetworks, without making them."""
    sizes = {name: tensor.numel() for name, tensor in model.named_parameters()}
    return sum(
        (len(encoding) + 1) * hidden + (hidden + 1) * sizes[name]
        for name, encoding in encodings(model, graph).items()
    )


def memory_bytes(model: nn.Module, graph: ChannelGraph, hidden: int) -> int:
    """What the hypernetworks take in training with SGD and momentum: weights, gradients, momentum, in float32."""
    return SGD_COPIES * 4 * parameter_count(model, graph, hidden)


class Generated(nn.Module):
    """Hypernetworks for the convolution weights, with `hidden` units each; all else is shared.

    Published: 32 hidden units, 64 in the bottlenecks of MobileNetV2.
    """

    def __init__(self, model: nn.Module, skeleton: Skeleton, hidden: int) -> None:
        super().__init__()
        self._crops = skeleton.crops
        self._encodings = encodings(model, skeleton.crops.graph)
        shapes = {name: model.get_parameter(name).shape for name in self._encodings}
        self.hypernetworks = nn.ModuleDict(
            {_key(name): Hypernetwork(len(groups), hidden, shapes[name]) for name, groups in self._encodings.items()}
        )
        self.shared = Shared(model, skeleton, tuple(name for name in skeleton.names if name not in self._encodings))
        with torch.no_grad():
            for name, weight in self.generated(skeleton.crops.full_widths).items():
                self._of(name).scale(_root_mean_square(model.get_parameter(name)) / _root_mean_square(weight))

    def at(self, widths: Widths) -> dict[str, Tensor]:
        """Generated anew with every call, with gradients where they are on."""
        return {**self.shared.at(widths), **self.generated(widths)}

    def generated(self, widths: Widths) -> dict[str, Tensor]:
        """The convolution weights (out, in / groups, h, w) at these widths, by name."""
        found = {}
        for name, encoding in self._encoded(widths).items():
            hypernetwork = self._of(name)
            full_out, full_in = hypernetwork.shape[:2]
            weight = hypernetwork(encoding, self._crops.places(Axis(name, 0), full_out, widths, encoding.device))
            inputs = self._crops.places(Axis(name, 1), full_in, widths, encoding.device)
            found[name] = cropped(weight, 1, inputs)
        return found

    def _of(self, name: str) -> Hypernetwork:
        found = self.hypernetworks[_key(name)]
        assert isinstance(found, Hypernetwork)
        return found

    def _encoded(self, widths: Widths) -> dict[str, Tensor]:
        """The encodings (n,), moved to the device together."""
        shares = [width / full for width, full in zip(widths, self._crops.full_widths, strict=True)]
        flat = [shares[group] for groups in self._encodings.values() for group in groups]
        at = next(self.hypernetworks.parameters())
        parts = torch.tensor(flat).to(at).split([len(groups) for groups in self._encodings.values()])
        return dict(zip(self._encodings, parts, strict=True))


def _key(name: str) -> str:
    """Of a module of ours: its name has no dots, and is none of torch's."""
    return name.replace(".", "/")
