"""`Tally`: what an epoch's steps add up to, on the device; nobody waits for a value before the epoch ends."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.io.files import JSON
from compress.parallel.collectives import Team
from compress.train.objective import Terms, figures_of


@dataclass(frozen=True)
class EpochMeans:
    """Means over the training images of an epoch, measured during its steps."""

    loss: float
    top1: float  # in percent
    terms: dict[str, float]
    figures: dict[str, float]

    def row(self) -> JSON:
        terms = {f"loss_{name}": round(value, 6) for name, value in self.terms.items()} if len(self.terms) > 1 else {}
        figures = {name: round(value, 6) for name, value in self.figures.items()}
        return {"loss": round(self.loss, 6), **terms, **figures, "train_top1": round(self.top1, 4)}


class Tally:
    """Sums over the images of an epoch, in float64 on the device: loss, loss terms, figures beside them, correct
    predictions, images. They are added to in place, so that a recorded step adds to them too."""

    def __init__(self, device: torch.device) -> None:
        self._counts = torch.zeros(2, device=device, dtype=torch.float64)  # correct predictions, images
        self._sums = torch.zeros(
            0, device=device, dtype=torch.float64
        )  # (1 + terms + figures,) from the first step on
        self._terms: tuple[str, ...] = ()
        self._figures: tuple[str, ...] = ()

    def begin(self) -> None:
        """Begin an epoch, which may have other terms and figures than the one before."""
        for sums in self.tensors():
            sums.zero_()

    def tensors(self) -> Sequence[Tensor]:
        return self._counts, self._sums

    def add(self, loss: Tensor, terms: Terms, logits: Tensor, labels: Tensor, count: int) -> None:
        """Add a shard of which `count` images count. All ranks add the same names, also with an empty shard."""
        figures = figures_of(terms)
        self._terms, self._figures = tuple(terms), tuple(figures)
        values = torch.stack([loss.detach(), *(v.detach() for v in (*terms.values(), *figures.values()))])
        if len(values) != len(self._sums):
            self._sums = self._sums.new_zeros(len(values))
        if count:
            self._sums.add_(values * count)
            self._counts[0].add_((logits.detach().argmax(1) == labels).sum())
            self._counts[1].add_(count)

    def means(self, team: Team, besides: Tensor) -> tuple[EpochMeans, float]:
        """The means, all-reduced over the ranks, and the value of a scalar of this rank's: one transfer for both."""
        reduced = team.all_reduce(torch.cat([self._counts, self._sums]))
        *sums, other = torch.cat([reduced, besides.reshape(1).to(reduced)]).tolist()
        right, images, loss, *others = sums
        means = [value / images for value in others]
        terms = dict(zip(self._terms, means[: len(self._terms)], strict=True))
        figures = dict(zip(self._figures, means[len(self._terms) :], strict=True))
        return EpochMeans(loss / images, 100 * right / images, terms, figures), other
