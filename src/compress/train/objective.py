"""The objective of a training: named, weighted loss terms of the network's outputs, whose sum is minimised.

The default is cross entropy on the labels; distillation (`compress.distill`) adds terms. An objective may read
activations inside the network (its `taps`, modules by their path), and may have modules that are trained together
with the network (its `adapters`), such as a convolution from a narrow student's activations to the width of its
teacher's.
"""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import InputError, nearest
from compress.schema.settings import Recipe

# Weight of the loss of auxiliary heads, which exist in training only: Szegedy et al., "Going Deeper with
# Convolutions", CVPR 2015, arXiv:1409.4842, section 5.
AUXILIARY_WEIGHT = 0.3

Terms = Mapping[str, Tensor]


class MeasuredTerms(dict[str, Tensor]):
    """Terms, and scalars of the same images that are not minimised but told, in columns of their own names."""

    def __init__(self, terms: Terms, figures: Mapping[str, Tensor]) -> None:
        super().__init__(terms)
        self.figures = figures


def figures_of(terms: Terms) -> Mapping[str, Tensor]:
    return terms.figures if isinstance(terms, MeasuredTerms) else {}


@dataclass(frozen=True)
class Outputs:
    """Outputs of a network for a batch of images."""

    logits: Tensor  # (B, C)
    features: Mapping[str, Tensor] = field(default_factory=dict)  # outputs of the tapped modules, by path
    heads: tuple[Tensor, ...] = ()  # logits (B, C) of each auxiliary head


class Objective(Protocol):
    """A loss of several terms, possibly with features and trained modules."""

    @property
    def taps(self) -> tuple[str, ...]:
        """Paths of the modules of the network whose outputs are passed as `Outputs.features`."""

    @property
    def adapters(self) -> nn.Module:
        """Modules trained together with the network and saved for resuming; discarded at the end."""

    def __call__(self, outputs: Outputs, labels: Tensor, images: Tensor, epoch: float) -> Terms:
        """Scalar terms by name, each a mean over the images times its weight: labels (B,), images (B, C, H, W).

        The names must be the same at every step. `MeasuredTerms` tell more than what is minimised; its figures may be
        others in another epoch. `epoch` is the time in epochs since the start of the training: 2.5
        is the middle of the third epoch.
        """


@runtime_checkable
class Asking(Protocol):
    """What an objective has besides if it looks at the images before the network does, as one with a teacher: the
    teacher's activations are gone then before the network's are there, which saves memory, and a twelfth of the step
    of a small network on a CPU."""

    @property
    def by_view(self) -> bool:
        """Whether it must be told which view each image is; the data are `compress.data.base.Viewed` then."""

    def ask(self, images: Tensor, epoch: float, *views: Tensor) -> Any:
        """What is then the last argument of the call: images (B, C, H, W); with `by_view` also `views` (B,)."""


@runtime_checkable
class Phased(Protocol):
    """What an objective has besides if its steps may be recorded: it waits for no value, and is the same operations
    on the device at all times of one phase."""

    def phase(self, epoch: float) -> Hashable:
        """At times of equal phases the objective is the same function."""


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy on the labels, with the label smoothing of the recipe."""

    label_smoothing: float = 0.0
    taps: tuple[str, ...] = ()
    adapters: nn.Module = field(default_factory=nn.ModuleDict)

    def __call__(self, outputs: Outputs, labels: Tensor, images: Tensor, epoch: float) -> Terms:
        return {"ce": self.of(outputs.logits, labels)}

    def phase(self, epoch: float) -> Hashable:
        return None

    def of(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


def cross_entropy(recipe: Recipe) -> CrossEntropy:
    return CrossEntropy(label_smoothing=recipe.label_smoothing)


def with_heads(terms: Terms, outputs: Outputs, labels: Tensor, recipe: Recipe) -> Terms:
    """Add a term `head_<n>` for each auxiliary head: cross entropy on the labels, times `AUXILIARY_WEIGHT`."""
    on_labels = cross_entropy(recipe)
    heads = {
        f"head_{number}": AUXILIARY_WEIGHT * on_labels.of(head, labels)
        for number, head in enumerate(outputs.heads, 1)
    }
    return MeasuredTerms({**terms, **heads}, figures_of(terms))


def total(terms: Terms) -> Tensor:
    """The sum in the order of the terms (deterministic); a single term is returned unchanged."""
    first, *others = terms.values()
    for term in others:
        first = first + term
    return first


class Tapped(nn.Module):
    """A network and the adapters of an objective as one module, for DDP, the optimizer and gradient clipping."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self.adapters, self._taps = network, objective.adapters, objective.taps
        check_taps(network, objective.taps)

    def forward(self, images: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """The network's outputs and the tapped features, in plain containers that DDP can traverse; see
        `outputs_of`."""
        with tapped(self.network, self._taps) as features:
            return self.network(images), features


def outputs_of(answer: Any, features: Mapping[str, Tensor]) -> Outputs:
    logits, *heads = [o for o in answer if o is not None] if isinstance(answer, tuple) else [answer]
    return Outputs(logits, features, tuple(heads))


def check_taps(network: nn.Module, taps: tuple[str, ...]) -> None:
    """
    Raises:
        InputError: the network has no module of this path.
    """
    modules = dict(network.named_modules())
    for name in taps:
        if name not in modules:
            raise InputError(f"{name}: no module of this network; {nearest(name, filter(None, modules))}")


@contextmanager
def tapped(network: nn.Module, taps: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Within the block, forward passes store the output of each tapped module's last call in the yielded dict, by
    path.

    Outputs are cloned, since later layers may modify them in place.
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
