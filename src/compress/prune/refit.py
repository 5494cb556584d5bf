"""Refit by least squares: new weights with which a layer best reproduces its old outputs from the kept channels.

He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, arXiv:1707.06168, section 3.1, as
AMC uses it (arXiv:1802.03494, section 3.3). With inputs X (rows) and outputs Y = X W^T of the unpruned network, the
least-squares solution of ||X_K W'^T - Y||^2 depends on X and Y only through the Gram matrix G = X^T X:

    W' = W_K + W_D G_DK G_KK^-1          (K kept, D dropped columns; exact, since Y is linear in X)

The rows of X are those of im2col for a k x k convolution. Where the kept channels are always the first ones of a
fixed order, the Cholesky factor G = L L^T of the reordered matrix serves every width: its leading block is the
Cholesky factor of G_KK. A ridge term keeps G positive definite.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph, Layer
from compress.measure.macs import in_eval_mode

log = logging.getLogger(__name__)

MOST_COLUMNS = 8192  # of a Gram matrix (half a GiB); a layer with more inputs per output is not refitted
RIDGE = 1e-7  # smallest ridge, times the mean of G's diagonal: dead channels and too few rows make G singular


@dataclass
class Moments:
    """First and second moments, not normalised, of the rows X that a layer multiplies with its weight; float64."""

    gram: Tensor  # X^T X: (C * k * k, C * k * k)
    total: Tensor  # X^T 1: (C * k * k,)

    def add(self, rows: Tensor) -> None:
        with _whole_float32():
            self.gram += (rows.T @ rows).double()  # one batch in the precision of the rows: twice as fast
        self.total += rows.sum(0, dtype=torch.float64)


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Within the block a GPU multiplies float32 as such, not as TF32, whose 10 bits no least squares can use."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def sampled_rows(
    layer: nn.Module, x: Tensor, points: int, generator: torch.Generator, repeats: bool = False
) -> Tensor | None:
    """im2col rows of sampled output pixels: (B, C, H, W) -> (B * points, C * k * k), or, linear, (..., C) -> (N, C).

    The `points` output pixels are the same for all images of a batch, drawn without replacement; with replacement if
    `repeats`, as in AMC's published code. None for dilated and grouped convolutions, those with padding by name, and
    layers of other kinds or with a forward of their own, which are not refitted.
    """
    if not _has_rows(layer):
        return None
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2)
    assert isinstance(layer, nn.Conv2d)
    assert not isinstance(layer.padding, str)
    (kh, kw), (sh, sw), (ph, pw) = layer.kernel_size, layer.stride, layer.padding
    windows = (
        nn.functional.pad(x, (pw, pw, ph, ph)).unfold(2, kh, sh).unfold(3, kw, sw)
    )  # a view: B, C, H', W', kh, kw
    height, width = windows.shape[2:4]
    chosen = (
        torch.randint(height * width, (points,), generator=generator)
        if repeats
        else torch.randperm(height * width, generator=generator)[:points]
    ).to(x.device, non_blocking=True)
    rows = windows[:, :, chosen // width, chosen % width]  # B, C, points, kh, kw
    return rows.transpose(1, 2).flatten(2).flatten(0, 1)


def _has_rows(layer: nn.Module) -> bool:
    if type(layer).forward not in (nn.Linear.forward, nn.Conv2d.forward):
        return False  # it may compute its weight
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return False  # of an attention, which multiplies with its weight without calling it
    is_plain = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.dilation == (1, 1)
    return isinstance(layer, nn.Linear) or (is_plain and not isinstance(layer.padding, str))


def can_be_refitted(model: nn.Module, layer: str) -> bool:
    """Whether `input_moments` has those of the layer of this name."""
    modules = dict(model.named_modules())
    return layer in modules and _has_rows(modules[layer]) and _columns(model, layer) <= MOST_COLUMNS


def _columns(model: nn.Module, layer: str) -> int:
    return model.get_parameter(f"{layer}.weight")[0].numel()


def input_moments(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[Tensor],
    points: int,
    generator: torch.Generator,
    repeats: bool = False,
) -> dict[str, Moments]:
    """Moments of the inputs of every layer that reads prunable channels, by layer name. `batches` are images
    (B, C, H, W).

    Layers that `sampled_rows` does not support, or with more than `MOST_COLUMNS` inputs per output, are left out.
    """
    modules = dict(model.named_modules())
    names = [n for n in dict.fromkeys(n for group in graph.groups for n in group.consumers) if n in modules]
    for name in [name for name in names if _columns(model, name) > MOST_COLUMNS]:
        log.info("%s: more than %d inputs per output; it is not refitted", name, MOST_COLUMNS)
        names.remove(name)
    moments: dict[str, Moments] = {}

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = sampled_rows(layer, inputs[0].detach(), points, generator, repeats)
            if rows is not None:
                if name not in moments:
                    empty = torch.zeros(rows.shape[1] + 1, rows.shape[1], dtype=torch.float64, device=rows.device)
                    moments[name] = Moments(empty[:-1], empty[-1])
                moments[name].add(rows)

        return layer.register_forward_pre_hook(add)

    handles = [watch(name, model.get_submodule(name)) for name in names]
    try:
        with torch.no_grad(), in_eval_mode(model):
            for images in batches:
                model(images)
    finally:
        for handle in handles:
            handle.remove()
    return moments


def refit(weight: Tensor, gram: Tensor, kept: Tensor, excess: Tensor | None = None) -> Tensor:
    """Least-squares weights at full shape (O, C, k, k), zero for dropped inputs.

    `gram` is (C*k*k, C*k*k), `kept` the indices of the kept inputs (d,), on the CPU. With `excess` = X^T E,
    (C*k*k, O), the target outputs are X W^T + E instead of X W^T.
    """
    area = weight[0, 0].numel()
    is_kept = torch.zeros(weight.shape[1], dtype=torch.bool)
    is_kept[kept] = True
    columns, dropped = (
        chosen.repeat_interleave(area).nonzero().flatten().to(weight.device, non_blocking=True)
        for chosen in (is_kept, ~is_kept)
    )
    flat = weight.detach().flatten(1).double()
    rows = gram[columns]
    factor, _ = factored(rows[:, columns])
    lost = rows[:, dropped] @ flat[:, dropped].T
    moved = torch.cholesky_solve(lost if excess is None else lost + excess[columns], factor)
    new = torch.zeros_like(flat)
    new[:, columns] = flat[:, columns] + moved.T
    return new.view(weight.shape).to(weight.dtype)


def factored(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Lower Cholesky factor of G + r I, and the ridge r: the smallest, by factors of 10, that outweighs the rounding
    errors of G. Waits for the device once for each that is tried."""
    ridge = RIDGE * gram.diagonal().mean() + 1e-30
    while True:
        factor, failed = torch.linalg.cholesky_ex(
            gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        )
        # with an exact G every pivot (squared diagonal entry) is at least the ridge
        if (failed == 0) & (factor.diagonal().min() ** 2 >= ridge / 2):
            return factor, ridge
        ridge = 10 * ridge


class NestedRefit:
    """`refit` for the first d channels of a fixed order: one Cholesky factor for all d, a triangular solve for
    each."""

    def __init__(self, weight: Tensor, gram: Tensor, order: Tensor, excess: Tensor | None = None) -> None:
        area = weight[0, 0].numel()
        places = torch.arange(area, device=weight.device)
        self._columns = (order.to(weight.device, non_blocking=True)[:, None] * area + places).flatten()
        self._per_channel = area
        self._weight = weight.detach()
        ordered = gram[self._columns][:, self._columns]
        self._factor, ridge = factored(ordered)
        # On both sides of the equation, so that directions without samples keep the old weights.
        ordered.diagonal().add_(ridge)
        target = ordered @ self._weight.flatten(1).double()[:, self._columns].T
        if excess is not None:
            target += excess[self._columns]
        self._solved = torch.linalg.solve_triangular(self._factor, target, upper=False)

    def __call__(self, inputs: int) -> Tensor:
        """Weights at full shape, zero but for the first `inputs` inputs of the order."""
        count = inputs * self._per_channel
        leading = self._factor[:count, :count].T
        solved = torch.linalg.solve_triangular(leading, self._solved[:count], upper=True)
        new = torch.zeros_like(self._weight.flatten(1))
        new[:, self._columns[:count]] = solved.T.to(new.dtype)
        return new.view(self._weight.shape)


class Reconstructor:
    """Refitted weights for any widths, for every layer that reads pruned channels. The network is not changed;
    results are cached, least recently used ones dropped above `memory_bytes`.

    `doubles_bias` fits the weights to outputs that include the bias, which the layer then adds again, as AMC's
    published code does.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        moments: dict[str, Moments],
        orders: dict[str, Tensor],
        doubles_bias: bool = False,
        memory_bytes: int = 1 << 30,
    ) -> None:
        self._graph, self._moments, self._orders = graph, dict(moments), orders
        self._weights = {name: model.get_parameter(f"{name}.weight").detach() for name in moments}
        biases = {name: getattr(model.get_submodule(name), "bias", None) for name in moments if doubles_bias}
        self._biases = {name: bias.detach().double() for name, bias in biases.items() if bias is not None}
        self._nested: dict[str, NestedRefit] = {}
        self._memo: OrderedDict[tuple[str, tuple[int, ...]], Tensor] = OrderedDict()
        self._memory_bytes, self._used = memory_bytes, 0

    def weights(self, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        """Parameters by name, at full shape; `kept` holds each group's kept channels (d,), the first of its order."""
        new = {}
        for layer in self._graph.layers:
            if layer.name in self._weights:
                groups = [group for group in self._graph.groups if layer.name in group.consumers]
                widths = tuple(len(kept[group.name]) for group in groups)
                if any(width < group.width for width, group in zip(widths, groups, strict=True)):
                    new[f"{layer.name}.weight"] = self._cached_weight(layer, widths, kept)
        return new

    def _cached_weight(self, layer: Layer, widths: tuple[int, ...], kept: dict[str, Tensor]) -> Tensor:
        key = (layer.name, widths)
        if key in self._memo:
            self._memo.move_to_end(key)
            return self._memo[key]
        weight = self._solve(layer, widths, kept)
        self._memo[key] = weight
        self._used += weight.nbytes
        while self._used > self._memory_bytes and len(self._memo) > 1:
            self._used -= self._memo.popitem(last=False)[1].nbytes
        return weight

    def _solve(self, layer: Layer, widths: tuple[int, ...], kept: dict[str, Tensor]) -> Tensor:
        weight = self._weights[layer.name]
        assert layer.in_axis is not None
        groups = [group for group in self._graph.groups if layer.name in group.consumers]
        positions = [group.positions[layer.in_axis] for group in groups]
        if len(groups) == 1 and positions[0].numel() == weight.shape[1]:
            if layer.name not in self._nested:
                order = positions[0][self._orders[groups[0].name]].flatten()
                # the factor replaces the moments, which are freed
                moments = self._moments.pop(layer.name)
                self._nested[layer.name] = NestedRefit(weight, moments.gram, order, self._excess(layer, moments))
            return self._nested[layer.name](widths[0] * positions[0].shape[1])
        stays = torch.ones(weight.shape[1], dtype=torch.bool)
        for group, places in zip(groups, positions, strict=True):
            stays[places.flatten()] = False
            stays[places[kept[group.name]].flatten()] = True
        moments = self._moments[layer.name]
        stay = stays.nonzero().flatten()
        return refit(weight, moments.gram, stay, self._excess(layer, moments))

    def _excess(self, layer: Layer, moments: Moments) -> Tensor | None:
        bias = self._biases.get(layer.name)
        return None if bias is None else moments.total[:, None] * bias


def refitted(model: nn.Module, graph: ChannelGraph, moments: dict[str, Moments], plan: Plan) -> dict[str, Tensor]:
    """Least-squares weights of all layers that read channels pruned by `plan`, by name and at full shape."""
    kept = graph.kept(plan)
    orders = {group.name: _kept_first(kept[group.name], group.width) for group in graph}
    inputless = {name for group in graph if len(kept[group.name]) == 0 for name in group.consumers}
    with_inputs = {name: moment for name, moment in moments.items() if name not in inputless}
    return Reconstructor(model, graph, with_inputs, orders).weights(kept)


def _kept_first(kept: Tensor, width: int) -> Tensor:
    is_dropped = torch.ones(width, dtype=torch.bool)
    is_dropped[kept] = False
    return torch.cat([kept, is_dropped.nonzero().flatten()])
