"""The latency of any widths, predicted from measured times of layers: a price that searches can ask 100,000 times.

t(widths) = a + b * sum of the times of the layers, each from a table over its input and output channels: bilinear
between measured points, and never falling, by a running maximum, since a price must not. a and b are fitted on
networks that were cut at random widths, and the prediction is tried on as many others: what it misses these by is
told.

The sum over layers as in ProxylessNAS (Cai et al., ICLR 2019, arXiv:1812.00332, appendix C), tables over channels as
in HALP (Shen et al., NeurIPS 2022, arXiv:2110.10811, section 3.2). Where we differ: the fit on whole networks, which
takes in what lies between layers.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from compress.errors import OWN, SettingError
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.files import JSON, hash_of, read_json, write_json
from compress.measure.latency import interleaved
from compress.prune.cost import CostModel
from compress.prune.folding import foldable
from compress.prune.latency.blocks import Block, uses
from compress.prune.latency.runtime import Shape, Where, runnable
from compress.prune.latency.tables import Times, Wanted, times_of, where_json
from compress.prune.surgery import cut
from compress.prune.widths import all_choices

log = logging.getLogger(__name__)

MULTIPLE = 8  # of channels, at which tables are measured: fast kernels want it
QUARTERS = 4  # points of a table beside the narrowest
FITTED, TRIED = 10, 10  # networks at random widths that the prediction is fitted on, and tried on
MEDIAN, WORST = 0.05, 0.10  # relative errors that are taken without being asked
NANOSECONDS = 1e6  # per millisecond

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Table:
    """The times of one block over its channels, for all layers at `layers` of the graph, one for each call."""

    inputs: Ints  # (k,) ascending
    outputs: Ints  # (l,) ascending
    ms: Floats  # (k, l), not falling along either
    layers: tuple[int, ...]

    def __call__(self, inputs: Ints, outputs: Ints) -> Floats:
        """Summed over the layers: widths of all layers, (plans, layers) -> (plans,). What has no channels takes no
        time; what is narrower than the table takes as much as its narrowest."""
        at = list(self.layers)
        i, u = _located(self.inputs, inputs[:, at])
        j, v = _located(self.outputs, outputs[:, at])
        i1, j1 = np.minimum(i + 1, len(self.inputs) - 1), np.minimum(j + 1, len(self.outputs) - 1)
        low = (1 - v) * self.ms[i, j] + v * self.ms[i, j1]
        high = (1 - v) * self.ms[i1, j] + v * self.ms[i1, j1]
        ms = ((1 - u) * low + u * high) * (inputs[:, at] > 0) * (outputs[:, at] > 0)
        total: Floats = ms.sum(1)
        return total


def _located(grid: Ints, values: Ints) -> tuple[Ints, Floats]:
    """The point of an ascending grid before each value, and how far it is to the next, in [0, 1]."""
    before = np.clip(np.searchsorted(grid, values, side="right") - 1, 0, max(0, len(grid) - 2))
    after = np.minimum(before + 1, len(grid) - 1)
    gap = np.maximum(grid[after] - grid[before], 1)
    return before, np.clip((values - grid[before]) / gap, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """What widths cost in time. As a price it is in whole nanoseconds."""

    cost: CostModel
    tables: tuple[Table, ...]
    where: Where
    fixed_ms: float = 0.0
    scale: float = 1.0
    median_error: float = 0.0  # relative, on networks that it was not fitted on
    worst_error: float = 0.0
    dense_ms: float = 0.0  # measured

    def summed(self, widths: ArrayLike) -> Floats:
        """The times of all layers alone, in ms: (plans, groups) -> (plans,)."""
        batch = np.atleast_2d(np.asarray(widths, dtype=np.int64))
        inputs, outputs = self.cost.layer_inputs(batch), self.cost.layer_outputs(batch)
        total: Floats = np.sum([table(inputs, outputs) for table in self.tables], axis=0) + np.zeros(len(batch))
        return total

    def ms(self, widths: ArrayLike) -> Floats:
        """(plans, groups) -> (plans,)."""
        predicted: Floats = self.fixed_ms + self.scale * self.summed(widths)
        return predicted

    def __call__(self, widths: ArrayLike) -> Floats:
        """The price: (plans, groups) -> (plans,)."""
        price: Floats = np.rint(NANOSECONDS * self.ms(widths))
        return price

    def check(self, accept: bool) -> None:
        """Tell how well it predicts.

        Raises:
            SettingError: the prediction is worse than what is taken without being asked.
        """
        log.info(
            "latency: dense %.4g ms in %s, batch %d, %d thread(s); %.1f %% (median) and %.1f %% (worst) error of the "
            "prediction on %d networks that it was not fitted on",
            self.dense_ms, self.where.runtime, self.where.batch, self.where.threads, 100 * self.median_error,
            100 * self.worst_error, TRIED,
        )  # fmt: skip
        if accept or (self.median_error <= MEDIAN and self.worst_error <= WORST):
            return
        raise SettingError(
            f"{OWN}accept=false: the latency of this network is predicted within {self.median_error:.1%} (median) "
            f"and {self.worst_error:.1%} (worst) only, of {TRIED} networks; measure on a machine that does nothing "
            f"else, or take it with {OWN}accept=true"
        )

    def told(self) -> JSON:
        return {
            "median_error": round(self.median_error, 4), "worst_error": round(self.worst_error, 4),
            "dense_ms": self.dense_ms, **self.where.to_json(),
        }  # fmt: skip


def latency_model(
    model: nn.Module,
    graph: ChannelGraph,
    cost: CostModel,
    shape: Shape,
    where: Where,
    folder: Path | None,
    seconds: float,
) -> LatencyModel:
    """Tables and fit of a network for images of `shape`, from the files in `folder` or measured now. `seconds` is
    spent on measuring each whole network.

    Raises:
        SettingError: no layer of it is one that has a table.
    """
    found = uses(model, graph, shape)
    layers: dict[tuple[Block, int, int, bool, bool], list[int]] = {}
    full, least = cost.full_widths[None], np.ones((1, len(graph)), dtype=np.int64)
    sizes = [cost.layer_inputs(full)[0], cost.layer_outputs(full)[0]]
    fixed = [cost.layer_inputs(least)[0] == sizes[0], cost.layer_outputs(least)[0] == sizes[1]]
    for block, at in found:
        key = (block, int(sizes[0][at]), int(sizes[1][at]), bool(fixed[0][at]), bool(fixed[1][at]))
        layers.setdefault(key, []).append(at)
    if not layers:
        raise SettingError(f"{type(model).__name__}: has no convolution or linear layer whose latency could be known")
    axes = [_axes(*key) for key in layers]
    wanted = [Wanted(key[0], _cells(key[0], *pair)) for key, pair in zip(layers, axes, strict=True)]
    tables = tuple(
        _table(block, times, inputs, outputs, tuple(at))
        for (block, *_), at, (inputs, outputs), times in zip(
            layers, layers.values(), axes, times_of(wanted, where, folder), strict=True
        )
    )
    return _fitted(LatencyModel(cost, tables, where), model, graph, shape, folder, seconds)


def _axes(block: Block, inputs: int, outputs: int, inputs_fixed: bool, outputs_fixed: bool) -> tuple[Ints, Ints]:
    """The points of a table along its input and output channels."""
    if block.per_group is not None:  # inputs follow the outputs, and the weight has those of one group
        return np.array([inputs]), _grid(outputs, outputs_fixed, block.per_group[1])
    return _grid(inputs, inputs_fixed), _grid(outputs, outputs_fixed)


def _grid(full: int, is_fixed: bool, unit: int = 1) -> Ints:
    """Multiples of 8 (and of `unit`) up to the full number of channels: about five, evenly apart."""
    multiple = int(np.lcm(MULTIPLE, unit))
    if is_fixed:
        return np.array([full])
    if full <= multiple:
        return np.array(sorted({max(unit, full // 2 // unit * unit), full}))
    points = {max(multiple, round(full * k / QUARTERS / multiple) * multiple) for k in range(QUARTERS)}
    return np.array(sorted({point for point in points if point < full} | {full}))


def _cells(block: Block, inputs: Ints, outputs: Ints) -> list[tuple[int, int]]:
    if block.per_group is not None:
        ratio = block.per_group[0] / block.per_group[1]
        return [(round(o * ratio), o) for o in outputs.tolist()]
    return [(i, o) for i in inputs.tolist() for o in outputs.tolist()]


def _table(block: Block, times: Times, inputs: Ints, outputs: Ints, layers: tuple[int, ...]) -> Table:
    cells = np.array([times[cell] for cell in _cells(block, inputs, outputs)]).reshape(len(inputs), len(outputs))
    rising: Floats = np.maximum.accumulate(np.maximum.accumulate(cells, axis=0), axis=1)
    return Table(inputs, outputs, rising, layers)


# -- the fit ---------------------------------------------------------------------------------------------------------


def _fitted(
    bare: LatencyModel, model: nn.Module, graph: ChannelGraph, shape: Shape, folder: Path | None, seconds: float
) -> LatencyModel:
    plans = drawn_widths(graph, FITTED + TRIED)
    key = hash_of(
        {
            "network": repr(model),
            "groups": [list(bare.cost.names), bare.cost.full_widths.tolist()],
            "shape": list(shape),
            "tables": [[table.ms.tolist(), list(table.layers)] for table in bare.tables],
            "where": where_json(bare.where),
        }
    )
    path = None if folder is None else folder / "latency" / f"network-{key}.json"
    measured = _read(path)
    if measured is None:
        log.info("latency: measuring %d networks at random widths to fit and try the prediction", len(plans))
        measured = _measured(model, graph, shape, bare.where, plans, seconds)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"where": where_json(bare.where), "ms": measured})
    dense, *others = measured
    sums = bare.summed(plans)
    fixed, scale = fit(sums[:FITTED], np.array(others[:FITTED]))
    made = replace(bare, fixed_ms=fixed, scale=scale, dense_ms=dense)
    tried = np.array(others[FITTED:])
    errors = np.abs(made.ms(plans[FITTED:]) - tried) / tried
    made = replace(made, median_error=float(np.median(errors)), worst_error=float(errors.max()))
    return made


def fit(sums: Floats, measured: Floats) -> tuple[float, float]:
    """a and b of the least relative squares of a + b * sums to `measured`, both (n,); b is positive, as a price may
    not fall: where it would not be, a is 0."""
    rows = np.stack([np.ones_like(sums), sums], axis=1) / measured[:, None]
    fixed, scale = np.linalg.lstsq(rows, np.ones(len(sums)), rcond=None)[0].tolist()
    return (fixed, scale) if scale > 0 else (0.0, float(np.mean(measured / sums)))


def drawn_widths(graph: ChannelGraph, count: int, seed: int = 0) -> Ints:
    """Random widths, multiples of 8 between about a quarter of all channels and all: (count, groups)."""
    random = np.random.default_rng(seed)
    whole = replace(graph, groups=tuple(replace(group, least=1) for group in graph.groups))
    options = all_choices(whole, MULTIPLE)
    rows = []
    for _ in range(count):
        level = random.uniform(0.25, 1)
        shares = np.clip(level * np.exp(random.normal(0, 0.25, len(options))), 0, 1)
        rows.append([int(o[np.abs(o - share * o[-1]).argmin()]) for o, share in zip(options, shares, strict=True)])
    return np.array(rows, dtype=np.int64)


def _measured(
    model: nn.Module, graph: ChannelGraph, shape: Shape, where: Where, plans: Ints, seconds: float
) -> list[float]:
    """The times of the dense network and of those with these widths, in ms."""
    pairs = foldable(model, graph.tapes[0])
    passes = {"dense": runnable(model, shape, where, pairs)}
    for number, widths in enumerate(plans.tolist()):
        plan = Plan({group.name: range(width) for group, width in zip(graph, widths, strict=True)})
        passes[str(number)] = runnable(cut(model, graph, plan), shape, where, pairs)
    timed = interleaved(passes, where.device, seconds=seconds, threads=where.threads)
    return [latency.median_ms for latency in timed.values()]


def _read(path: Path | None) -> list[float] | None:
    try:
        told = read_json(path)["ms"] if path is not None else []
        found = [float(ms) for ms in told]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    is_whole = len(found) == 1 + FITTED + TRIED and all(0 < ms < 1e9 for ms in found)
    return found if is_whole else None
