"""Which widths a supernet trains with at each step, and what it minimises.

`single`: one candidate per step, drawn uniformly: Liu et al., "MetaPruning: Meta Learning for Automatic Neural
Network Channel Pruning", ICCV 2019, arXiv:1903.10258, section 3.1. `sandwich`: the widest, the narrowest and some
drawn ones, with the widest as the teacher of the others: Yu and Huang, "Universally Slimmable Networks and Improved
Training Techniques", ICCV 2019, arXiv:1903.05134, sections 3.1 and 3.3 (algorithm 1). There the gradients of all
losses are summed; `reduction` "mean" divides by their number, so that the scale is that of one candidate.

Drawn are options, each as likely as any other, not widths: a candidate is a gene. Each step has a generator of its
own, seeded by (seed, epoch, step), so that all ranks draw the same and a resumed training draws what the
uninterrupted one does.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from compress.io.seeds import derive_seed
from compress.search.space import Genes, WidthSpace
from compress.search.supernet.crops import Widths
from compress.search.supernet.supernet import NARROWER, Supernet
from compress.train.loop import NO_HOOKS, Hooks
from compress.train.objective import Asking, CrossEntropy, MeasuredTerms, Objective, Outputs, Terms, figures_of

Reduction = Literal["sum", "mean"]
Rule = Callable[[int, int], list[Widths]]  # epoch from 1, step of the epoch from 0 -> the widths of that step


def drawn(space: WidthSpace, generator: np.random.Generator) -> Widths:
    """The widths of a gene, uniform over the genes."""
    return _widths(space, space.random(1, generator)[0])


def _widths(space: WidthSpace, gene: Genes) -> Widths:
    return tuple(space.widths(gene).tolist())


def _generator(seed: int, epoch: int, step: int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, "widths", epoch, step))


def single(space: WidthSpace, seed: int) -> Rule:
    """One drawn candidate."""
    return lambda epoch, step: [drawn(space, _generator(seed, epoch, step))]


def sandwich(space: WidthSpace, seed: int, count: int = 2) -> Rule:
    """The widest, the narrowest, and `count` drawn candidates."""
    ends = [_widths(space, gene) for gene in (space.widest, space.narrowest)]

    def rule(epoch: int, step: int) -> list[Widths]:
        generator = _generator(seed, epoch, step)
        return [*ends, *(drawn(space, generator) for _ in range(count))]

    return rule


def hooks(rule: Rule, others: Hooks = NO_HOOKS) -> Hooks:
    """The hooks `others` of a training of a `Supernet`, with one that sets the widths of every step."""

    def use(network: nn.Module, epoch: int, step: int) -> None:
        assert isinstance(network, Supernet)
        network.use(rule(epoch, step))

    return replace(others, begin_step=use)


@dataclass(frozen=True)
class Sandwich:
    """The objective of `sandwich`: the widest by the objective `of_widest`, the others by cross entropy on what the
    widest says.

    So a teacher from outside teaches the widest alone, which teaches the others: Yu and Huang have none.
    Terms: `widest` (on the labels), those of a teacher by their names, `narrowest`, `drawn_1` and on.
    """

    reduction: Reduction
    of_widest: Objective = field(default_factory=CrossEntropy)
    taps: tuple[str, ...] = (NARROWER,)
    adapters: nn.Module = field(default_factory=nn.ModuleDict)

    def __post_init__(self) -> None:
        assert not self.of_widest.taps, "maps of a supernet have other widths at every step"

    @property
    def by_view(self) -> bool:
        return isinstance(self.of_widest, Asking) and self.of_widest.by_view

    def ask(self, images: Tensor, epoch: float, *views: Tensor) -> tuple[Any, ...]:
        """The last arguments of `of_widest`."""
        return (self.of_widest.ask(images, epoch, *views),) if isinstance(self.of_widest, Asking) else ()

    def __call__(
        self, outputs: Outputs, labels: Tensor, images: Tensor, epoch: float, known: tuple[Any, ...] = ()
    ) -> Terms:
        widest, narrower = outputs.logits, outputs.features[NARROWER]  # (B, classes), (candidates - 1, B, classes)
        scale = 1.0 if self.reduction == "sum" else 1 / (1 + len(narrower))
        of_widest: Callable[..., Terms] = self.of_widest
        first = of_widest(Outputs(widest), labels, images, epoch, *known)
        terms = {"widest" if name == "ce" else name: scale * term for name, term in first.items()}
        soft = widest.detach().float().softmax(1)
        for index, logits in enumerate(narrower):
            name = f"drawn_{index}" if index else "narrowest"
            terms[name] = scale * F.cross_entropy(logits.float(), soft)
        return MeasuredTerms(terms, figures_of(first))
