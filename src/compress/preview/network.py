"""The network of a run as a plan would leave it: what the budget allows of each group, and every layer's price."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from compress.errors import InputError
from compress.graph.types import Layer
from compress.prune.cost import Widths
from compress.prune.limits import makers
from compress.prune.method import Method, Problem
from compress.search.feasible import Feasible
from compress.search.outcome import within_budget
from compress.search.searched import Searched
from compress.search.space import multiples_space

IS_OUTPUT = "what it writes is the network's output"
BY_LIMITS = "it is to keep everything"


@dataclass(frozen=True)
class LayerFigures:
    """One layer: MACs, parameters and output channels, whole and with all groups cut alike."""

    name: str
    kind: str
    macs: tuple[int, int]
    params: tuple[int, int]
    outputs: tuple[int, int]


@dataclass(frozen=True)
class Outlook:
    """A network and what its budget allows. `alike` are the widths of all groups at one share of their full width,
    the largest within the budget; None where nothing is within it, or single weights are masked."""

    problem: Problem
    allowed: Feasible | None  # what the method would search in; without one, any widths within the budget
    alike: Widths | None

    @property
    def full(self) -> Widths:
        return self.problem.cost.full_widths

    @cached_property
    def reach(self) -> list[tuple[int, int]]:
        """Of every group the narrowest and the widest width that the budget allows it alone: with all others at their
        widest and at their narrowest."""
        within = self.allowed
        if within is None:
            return []
        of_place = [_reach(within, place) for place in range(len(within.space.options))]
        return [of_place[place] for place in within.space.places]

    def layers(self) -> list[LayerFigures]:
        """In the order of the graph."""
        cost, graph = self.problem.cost, self.problem.graph
        widths = np.stack([self.full, self.full if self.alike is None else self.alike])
        macs, params, outputs = cost.layer_macs(widths), self._params(widths), cost.layer_outputs(widths)
        return [
            LayerFigures(
                layer.name, layer.kind, _pair(macs[:, at]), _pair(params[:, at]),
                _pair(outputs[:, at] * layer.outputs_per_row),
            )
            for at, layer in enumerate(graph.layers)
        ]  # fmt: skip

    def whole(self) -> dict[str, str]:
        """Layers that keep all of their outputs, and why."""
        graph = self.problem.graph
        of_groups = {axis for group in graph for axis in group.positions}
        free = {layer.name for layer in graph.layers if layer.out_axis in of_groups}
        last = {layer.name: IS_OUTPUT for layer in graph.layers if layer.name not in free}
        limited = {
            name: BY_LIMITS for group in graph if group.least == group.width for name in makers(graph, group)
            if any(layer.name == name for layer in graph.layers)
        }  # fmt: skip
        return {**last, **limited, **graph.frozen}

    def _params(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """(plans, groups) -> (plans, layers): of the module that has the weight."""
        entries = self.problem.cost.entries(widths)
        names = [name for name, _ in self.problem.model.named_parameters()]

        def of(layer: Layer) -> NDArray[np.int64]:
            own = [name.rpartition(".")[0] == layer.weight.rpartition(".")[0] for name in names]
            total: NDArray[np.int64] = entries[:, own].sum(1)
            return total

        return np.stack([of(layer) for layer in self.problem.graph.layers], 1)


def outlook(problem: Problem, method: Method) -> Outlook:
    if method.traits.cuts == "weights" or not problem.graph.groups:
        return Outlook(problem, None, None)
    try:
        space = multiples_space(problem.graph, 1)
        anything = within_budget(problem, space, "macs", None)
        allowed = method.within(problem) if isinstance(method, Searched) else anything
    except InputError:  # a budget within reach of the method alone, such as of whole blocks
        return Outlook(problem, None, None)
    return Outlook(problem, allowed, space.widths(anything.uniform()))


def _reach(within: Feasible, place: int) -> tuple[int, int]:
    """The least option of a place with which the others at their widest reach the lower end, and the largest with
    which the others at their narrowest are within the upper end."""
    options = within.space.options[place]
    count = len(options)
    narrow, wide = (np.tile(gene, (count, 1)) for gene in (within.space.narrowest, within.space.widest))
    narrow[:, place] = wide[:, place] = np.arange(count)
    least = options[within.prices(wide) >= within.low]
    most = options[within.prices(narrow) <= within.high]
    return int(least[0] if len(least) else options[-1]), int(most[-1] if len(most) else options[0])


def _pair(values: Sequence[int] | NDArray[np.int64]) -> tuple[int, int]:
    whole, alike = values
    return int(whole), int(alike)
