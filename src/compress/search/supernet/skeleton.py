"""`Skeleton`: a network without weights that runs at any widths, with the weights that it is given.

Narrow at run time as in Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019,
arXiv:1903.05134: a candidate uses the first channels of every group. Other code defines layers that crop their own
weights; here the layers are the network's own, found by its channel graph, so that any network will do. No candidate
is cut: the cropped tensors take the place of the layers' own for one forward pass (`torch.func.functional_call`), and
what a cut changes besides is set from the same function as in `prune.surgery` (`attributes`).

Law: the logits are those of the network that `prune.surgery.cut` makes of the same widths.

Batch norm has neither scale nor shift, as in the code that is published with Liu et al., "MetaPruning", ICCV 2019,
arXiv:1903.10258; it normalises by the batch, unless running statistics are given. There each layer has one batch norm
per width, whose statistics are measured anew for every candidate anyhow; here a candidate's are made when they are
needed (`compress.search.supernet.supernet`).
"""

import copy
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.graph.caches import empty
from compress.graph.types import ChannelGraph
from compress.models.unchanged import copy_replacing
from compress.prune.surgery import attributes, replace_attentions, set_attributes
from compress.search.supernet.crops import Crops, Widths

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class _Layer:
    """A layer with attributes that depend on its width."""

    path: str
    full: nn.Module  # at full width, without tensors
    tensors: Mapping[str, str]  # its own parameters and buffers: attribute -> name in the network
    numbers: Mapping[str, str]  # integer attributes on an axis of the graph: attribute -> name of the axis


class Skeleton(nn.Module):
    """A copy of `model`, without its parameters; the buffers that are no statistics stay.

    `names` are the parameters that `run` has to be given. With `own_norms` the batch norms keep what they have:
    scale and shift are in `names`, and the running statistics are the network's.

    Raises:
        InputError: something in the network cannot be copied.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, own_norms: bool = False) -> None:
        super().__init__()
        self.crops, self.own_norms, self._caches = Crops(graph), own_norms, graph.caches
        tensors = _own_tensors(model)
        self.network = copy_replacing(model, {p: nn.Parameter(p.new_empty(0)) for p in model.parameters()})
        replace_attentions(self.network, graph)
        for module in self.network.modules():
            if isinstance(module, nn.RNNBase):
                module.register_forward_pre_hook(_gathered)
        norms = {path: m for path, m in self.network.named_modules() if isinstance(m, _BatchNorm)}
        # Features of every batch norm that keeps running statistics, by path
        self.norms = {path: norm.num_features for path, norm in norms.items() if norm.running_mean is not None}
        if not own_norms:
            for norm in norms.values():
                _without_state(norm)
        self._places = _places(tensors)
        self.names = tuple(name for name, _ in model.named_parameters() if self._has(name))
        for module in self.network.modules():
            _set_to_none(module._parameters)
        buffers = {name for name, _ in self.network.named_buffers()}
        self._statistics = {
            name for path in self.norms for kind in STATISTICS if (name := f"{path}.{kind}") in buffers
        }
        self._cropped = tuple(sorted(buffers & self.crops.names | self._statistics))
        self._layers = tuple(_layers_of(self.network, tensors, self.crops, {*self.names, *buffers}))

    def _has(self, name: str) -> bool:
        """Whether a parameter is still one of a module: the batch norms' may be gone."""
        places = (place.rpartition(".") for place in self._places[name])
        return any(
            self.network.get_submodule(path)._parameters[attribute] is not None for path, _, attribute in places
        )

    def crop(self, name: str, tensor: Tensor, widths: Widths) -> Tensor:
        """The part of a parameter or buffer, given at full shape, that is left at these widths."""
        return self.crops(name, tensor, widths)

    def run(self, images: Tensor, tensors: Mapping[str, Tensor], widths: Widths) -> Any:
        """What the network returns for images (B, C, H, W): logits (B, classes), or a tuple of them in training.

        `tensors` are cropped: all of `names`, and buffers that take the place of the skeleton's own.
        """
        given = self._cropped_buffers(widths) | dict(tensors)
        for layer in self._layers:
            shapes = {attribute: given[name].shape for attribute, name in layer.tensors.items() if name in given}
            dropped = {number: self.crops.dropped(name, widths) for number, name in layer.numbers.items()}
            set_attributes(self.network.get_submodule(layer.path), attributes(layer.full, shapes, dropped))
        empty(self.network, self._caches)
        placed = {place: tensor for name, tensor in given.items() for place in self._places.get(name, (name,))}
        return torch.func.functional_call(self.network, placed, (images,), tie_weights=False)

    def _cropped_buffers(self, widths: Widths) -> dict[str, Tensor]:
        found = {}
        for name in self._cropped:
            found[name] = self.crop(name, self.network.get_buffer(name), widths)
            if name in self._statistics:  # which a forward pass in train mode changes in place
                found[name] = found[name].clone()
        return found

    def fresh_statistics(self, widths: Widths, device: torch.device) -> dict[str, Tensor]:
        """Running statistics of all batch norms before the first batch, by the buffers' names."""
        found: dict[str, Tensor] = {}
        for path, features in self.norms.items():
            zeros = torch.zeros(features, device=device)
            mean = self.crop(f"{path}.running_mean", zeros, widths).clone()
            # The count is read on the CPU at each step.
            values = (mean, torch.ones_like(mean), torch.zeros((), dtype=torch.int64))
            found |= {f"{path}.{name}": value for name, value in zip(STATISTICS, values, strict=True)}
        return found

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Within the block the batch norms normalise by the batch and update the statistics that `run` is given, all
        else is in eval mode; afterwards each module is back in its mode."""
        norms = [norm for path in self.norms if isinstance(norm := self.network.get_submodule(path), _BatchNorm)]
        modes = [(module, module.training) for module in self.network.modules()]
        self.network.eval()
        try:
            for norm in norms:
                norm.training, norm.track_running_stats = True, True
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = self.own_norms
            for module, training in modes:
                module.training = training


def _gathered(layer: nn.RNNBase, _: Any) -> None:
    """A recurrent layer reads its weights from a list, which is not told of those that it is given for one pass."""
    layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]


def _without_state(norm: _BatchNorm) -> None:
    """No scale, no shift, and no running statistics: those that are given are cumulative averages."""
    norm.affine, norm.track_running_stats, norm.momentum = False, False, None
    _set_to_none(norm._parameters)
    _set_to_none(norm._buffers)


def _set_to_none(tensors: dict[str, Any]) -> None:
    tensors.update(dict.fromkeys(tensors))


def _own_tensors(model: nn.Module) -> dict[str, dict[str, str]]:
    """Of every module by path: its own parameters and buffers, attribute -> name in the network.

    A tensor that several modules share goes by its first name.
    """
    first: dict[Tensor, str] = {}
    found: dict[str, dict[str, str]] = {}
    for path, module in model.named_modules():
        own = (*module._parameters.items(), *module._buffers.items())
        found[path] = {
            attribute: first.setdefault(tensor, f"{path}.{attribute}" if path else attribute)
            for attribute, tensor in own
            if tensor is not None
        }
    return found


def _places(tensors: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """Of every parameter and buffer by name: all places where it stands."""
    found: dict[str, list[str]] = defaultdict(list)
    for path, own in tensors.items():
        for attribute, name in own.items():
            found[name].append(f"{path}.{attribute}" if path else attribute)
    return found


def _layers_of(
    network: nn.Module, tensors: Mapping[str, Mapping[str, str]], crops: Crops, known: Collection[str]
) -> Iterator[_Layer]:
    """The layers with attributes that depend on widths; `known` are the tensors that a forward pass has."""
    numbers: dict[nn.Module, dict[str, str]] = defaultdict(dict)
    for name in crops.names - {name for own in tensors.values() for name in own.values()}:
        owner, _, number = name.rpartition(".")
        numbers[network.get_submodule(owner)][number] = name
    for path, module in network.named_modules():
        own = {attribute: name for attribute, name in tensors[path].items() if name in known}
        if module in numbers or not crops.names.isdisjoint(own.values()):
            yield _Layer(path, copy.deepcopy(module), own, numbers[module])
