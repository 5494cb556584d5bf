"""What a training minimises: named, weighted terms of the network's outputs, which are summed.

Cross entropy on the labels is the plainest; distillation (`compress.distill`) adds terms of its own. An objective may
look at activations inside of the network (its `taps`, modules by their path), and may bring modules of its own that
are trained beside the network (its `adapters`), such as a convolution that makes a narrow student's activations as
wide as its teacher's.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import InputError, nearest
from compress.schema.settings import Recipe

# Of the loss of heads that only exist in training: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015,
# arXiv:1409.4842, section 5.
AUXILIARY_WEIGHT = 0.3

Terms = Mapping[str, Tensor]


@dataclass(frozen=True)
class Outputs:
    """What a network answers to a batch of images."""

    logits: Tensor  # (B, C)
    features: Mapping[str, Tensor] = field(default_factory=dict)  # of the objective's taps: what the module returned
    heads: tuple[Tensor, ...] = ()  # (B, C) each, of heads that only exist in training


class Objective(Protocol):
    """What a training minimises."""

    @property
    def taps(self) -> tuple[str, ...]:
        """Modules of the network, by their path, whose outputs it wants to see."""

    @property
    def adapters(self) -> nn.Module:
        """Trained beside the network and saved for resume; nothing of them is left in the end."""

    def __call__(self, outputs: Outputs, labels: Tensor, images: Tensor, epoch: float) -> Terms:
        """Scalars, each a mean over the images times its weight: labels (B,), images (B, C, H, W).

        The names are the same at every step. `epoch` is where the training is, in epochs from its start: 2.5 is the
        middle of the third.
        """


@dataclass(frozen=True)
class CrossEntropy:
    """On the labels, smoothed as the recipe says."""

    label_smoothing: float = 0.0
    taps: tuple[str, ...] = ()
    adapters: nn.Module = field(default_factory=nn.ModuleDict)

    def __call__(self, outputs: Outputs, labels: Tensor, images: Tensor, epoch: float) -> Terms:
        return {"ce": self.of(outputs.logits, labels)}

    def of(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


def cross_entropy(recipe: Recipe) -> CrossEntropy:
    return CrossEntropy(label_smoothing=recipe.label_smoothing)


def with_heads(terms: Terms, outputs: Outputs, labels: Tensor, recipe: Recipe) -> Terms:
    """Heads that only exist in training add terms of their own, from the labels alone."""
    on_labels = cross_entropy(recipe)
    heads = {
        f"head_{number}": AUXILIARY_WEIGHT * on_labels.of(head, labels)
        for number, head in enumerate(outputs.heads, 1)
    }
    return {**terms, **heads}


def total(terms: Terms) -> Tensor:
    """The sum, in the order of the terms; a single one is itself."""
    first, *others = terms.values()
    for term in others:
        first = first + term
    return first


class Tapped(nn.Module):
    """A network and what is trained beside it, as one module: DDP, the optimiser and clipping see both."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self.adapters, self._taps = network, objective.adapters, objective.taps
        check_taps(network, objective.taps)

    def forward(self, images: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """Plain containers of tensors, which DDP looks into; `outputs_of` gives them names."""
        with tapped(self.network, self._taps) as features:
            return self.network(images), features


def outputs_of(answer: Any, features: Mapping[str, Tensor]) -> Outputs:
    logits, *heads = [o for o in answer if o is not None] if isinstance(answer, tuple) else [answer]
    return Outputs(logits, features, tuple(heads))


def check_taps(network: nn.Module, taps: tuple[str, ...]) -> None:
    """
    Raises:
        InputError: the network has no such module.
    """
    modules = dict(network.named_modules())
    for name in taps:
        if name not in modules:
            raise InputError(f"{name}: no module of this network; {nearest(name, filter(None, modules))}")


@contextmanager
def tapped(network: nn.Module, taps: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Within it, forward passes fill what is yielded: the output of each of some modules, by path, of its last call.

    Copies, since what comes next in the network may work in place.
    """
    features: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise InputError(f"{name}: returns a {type(output).__name__}; only a tensor can be looked at")
            features[name] = output.clone()

        return keep

    handles = [network.get_submodule(name).register_forward_hook(hook(name)) for name in taps]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()
