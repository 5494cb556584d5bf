"""Where a supernet's weights come from: `Weights`, and `Shared`, one full tensor each that all widths crop.

Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019, arXiv:1903.05134, section
3: every width uses the first channels. `compress.search.supernet.hypernetwork` generates the weights instead.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from torch import Tensor, nn

from compress.search.supernet.crops import Widths
from compress.search.supernet.skeleton import Skeleton


class Weights(Protocol):
    """Trained weights for any widths; an `nn.Module`, so that training, saving and DDP see its parameters."""

    def at(self, widths: Widths) -> dict[str, Tensor]:
        """Every tensor of `Skeleton.names` at these widths, cropped."""

    def parameters(self) -> Iterator[nn.Parameter]: ...


def tree(tensors: Mapping[str, nn.Parameter]) -> nn.Module:
    """Modules that hold parameters under names with dots, such as "layer1.0.conv1.weight"."""
    root = nn.Module()
    for name, tensor in tensors.items():
        owner = root
        *path, attribute = name.split(".")
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(attribute, tensor)
    return root


def copied(tensor: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), tensor.requires_grad)


class Shared(nn.Module):
    """Full tensors that begin as copies of the network's: of all `names` that the skeleton needs, or of some."""

    def __init__(self, model: nn.Module, skeleton: Skeleton, names: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self._crops = skeleton.crops
        own = dict(model.named_parameters())
        self.full = tree({name: copied(own[name]) for name in (skeleton.names if names is None else names)})

    def at(self, widths: Widths) -> dict[str, Tensor]:
        """Views of the full tensors, where the kept channels are the first ones."""
        return {name: self._crops(name, tensor, widths) for name, tensor in self.full.named_parameters()}
