"""Spaces of widths: which widths every channel group may have, and how a choice of them (a gene) is written.

A gene has one place per decision: the index of one of the widths that are allowed there. A place decides the width of
one group, in the order of the graph; in the ResNet-50 of MetaPruning's paper of two, which its table ties together
(the inner channels of a bottleneck on both sides of its 3x3 convolution). Within the program a gene is an int64
array; in files and settings it is a list of entries in the published order, where -1 is the last option.

`shares_space` has the 31 options of Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel
Pruning", ICCV 2019, arXiv:1903.10258: 10, 13, ..., 100 % of the full width, rounded down. Two options of a narrow
group may be the same width. They stay two options, as published: "uniformly drawn" means genes, so a width that two
options stand for is drawn twice as often. `multiples_space` has the multiples that fast kernels want.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from compress.errors import OWN, SettingError
from compress.graph.types import Axis, ChannelGraph
from compress.models.metapruning import gene_form
from compress.models.spaces import OPTIONS, GeneForm, ratio
from compress.prune.widths import Choices, all_choices

Genes = NDArray[np.int64]  # (n, places), or (places,): options by index
Widths = NDArray[np.int64]  # (n, groups), or (groups,): channels


@dataclass(frozen=True, eq=False)
class WidthSpace:
    """The allowed widths of every group of a network. A group that is never narrowed has its full width alone."""

    groups: tuple[str, ...]  # names, in the order of the graph
    options: Choices  # per place (n,) int64, not descending
    entries: tuple[int, ...]  # entry e of a written gene is that of place entries[e]
    places: tuple[int, ...] = ()  # per group the place that decides its width; (): each group has its own
    form: GeneForm | None = field(default=None, repr=False)  # how genes of this network are published, if they are

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", self.places or tuple(range(len(self.groups))))
        assert len(self.places) == len(self.groups)
        assert sorted(self.entries) == sorted(set(self.places)) == list(range(len(self.options)))
        assert all(len(widths) and (np.diff(widths) >= 0).all() and widths[0] > 0 for widths in self.options)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of options of every place: (places,)."""
        return np.array([len(widths) for widths in self.options], dtype=np.int64)

    @property
    def narrowest(self) -> Genes:
        """(places,)."""
        return np.zeros(len(self.options), dtype=np.int64)

    @property
    def widest(self) -> Genes:
        """(places,)."""
        return self.sizes - 1

    @property
    def names(self) -> tuple[str, ...]:
        """Of every place the first group whose width it decides."""
        return tuple(self.groups[self.places.index(at)] for at in range(len(self.options)))

    def widths(self, genes: Genes) -> Widths:
        """Channels of every group: genes (n, places) -> (n, groups); a single one (places,) -> (groups,)."""
        return self.chosen(genes)[..., self.places]

    def chosen(self, genes: Genes) -> NDArray[np.int64]:
        """The width that each place chooses: genes (..., places) -> the same shape."""
        starts = np.cumsum([0, *self.sizes[:-1]])
        chosen: NDArray[np.int64] = np.concatenate(self.options)[genes + starts]
        return chosen

    def genes(self, widths: Widths) -> Genes:
        """The genes that give these widths, which must be options: (n, groups) -> (n, places)."""
        firsts = [self.places.index(at) for at in range(len(self.options))]
        found = [np.searchsorted(options, widths[:, at]) for options, at in zip(self.options, firsts, strict=True)]
        genes: Genes = np.stack(found, axis=1)
        return genes

    def random(self, count: int, generator: np.random.Generator) -> Genes:
        """Uniform over all genes, whatever they cost: (count, places)."""
        return generator.integers(0, self.sizes, (count, len(self.options)), dtype=np.int64)

    def written(self, gene: Genes) -> list[int]:
        """A gene (places,) in the published form; -1 where nothing can be chosen."""
        return [int(gene[at]) if len(self.options[at]) > 1 else -1 for at in self.entries]

    def read(self, written: Sequence[int]) -> Genes:
        """The gene (places,) of a list in the published form, -1 being the last option. For the networks of the
        paper also of a list of the authors' other length.

        Raises:
            SettingError: another length, an entry that is no option, or a group that is not full and has to be.
        """
        entries = list(written) if self.form is None else self.form.checked(written)
        if len(entries) != len(self.entries):
            raise SettingError(
                f"{_shown(written)}: has {len(entries)} entries; must have {len(self.entries)}, one per group: "
                f"{', '.join(self.names[at] for at in self.entries)}"
            )
        gene = self.narrowest
        for number, (at, entry) in enumerate(zip(self.entries, entries, strict=True)):
            gene[at] = self._option(written, number, at, entry)
        return gene

    def _option(self, written: Sequence[int], number: int, at: int, entry: int) -> int:
        """Entry `number` as the index of an option of place `at`."""
        most = len(self.options[at]) - 1
        if most == 0 and self.form is not None:
            return 0  # any name of the full width, which the form has checked
        if type(entry) is not int or not -1 <= entry <= most:
            raise SettingError(
                f"{_shown(written)}: entry {number}, of {self.names[at]}, must be a whole number in [-1, {most}], "
                f"an option of {_few_widths(self.options[at])} channels (-1: the last)"
            )
        return most if entry == -1 else entry


def _shown(written: Sequence[int]) -> str:
    return f"{OWN}gene=[{','.join(map(str, written))}]"


def _few_widths(widths: NDArray[np.int64]) -> str:
    shown = [str(width) for width in widths.tolist()]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", shown[-1]])


def shares_space(model: nn.Module, graph: ChannelGraph) -> WidthSpace:
    """The published 31 shares of every group's width in `model`, no fewer channels than `group.least`.

    For the networks of the paper genes are written in the published order, and the classifier's inputs are never
    narrowed. A network that was built at the widths of a gene keeps that order; its shares are of the widths it has.
    For every other network all groups are free, in the order of the graph.
    """
    shares = np.array([ratio(option) for option in range(OPTIONS)])
    options = [np.maximum(group.least, np.floor(group.width * shares)).astype(np.int64) for group in graph]
    form = gene_form(model)
    if form is None:
        return WidthSpace(_names(graph), options, tuple(range(len(graph))))
    entry_of = _published_entries(model, form, graph)
    in_order = list(dict.fromkeys(entry_of))  # of the places their entries
    of_place = [
        np.maximum.reduce([widths for widths, of in zip(options, entry_of, strict=True) if of == entry])
        for entry in in_order
    ]
    full = in_order.index(form.space.full)
    of_place[full] = of_place[full][-1:]
    entries = tuple(in_order.index(entry) for entry in range(len(form.space.bases)))
    return WidthSpace(_names(graph), of_place, entries, tuple(in_order.index(entry) for entry in entry_of), form)


def multiples_space(graph: ChannelGraph, round_to: int, lowest: float = 0.0, highest: float = 1.0) -> WidthSpace:
    """Multiples of `round_to` channels between two shares of the full width, by `all_choices`, of every group."""
    return WidthSpace(_names(graph), all_choices(graph, round_to, lowest, highest), tuple(range(len(graph))))


def _names(graph: ChannelGraph) -> tuple[str, ...]:
    return tuple(group.name for group in graph)


def _published_entries(model: nn.Module, form: GeneForm, graph: ChannelGraph) -> list[int]:
    """Of every group the entry of a written gene that its width is: that of the convolutions whose outputs it is."""
    convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    entry_of = {
        Axis(f"{name}.weight", 0): conv.out for name, (_, conv) in zip(convs, form.space.convs(), strict=True)
    }
    found: list[int] = []
    for group in graph:
        entries = {entry_of[axis] for axis in group.positions if axis in entry_of}
        assert len(entries) == 1, "a table ties at least what the network does"
        found += entries
    return found
