"""Surgery on a network of one's own, without a config: what `import compress` offers beside `compress.load`.

A network's channel graph is remembered for as long as the network lives and keeps its shapes; whatever is given an
example looks anew.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from compress.config.zoo import zoo_spec
from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.paths import MODEL
from compress.measure.counts import Counts
from compress.measure.counts import counts as count
from compress.measure.macs import UncountedOperators, count_operators, describe_uncounted
from compress.models import onnx
from compress.prune import surgery
from compress.prune.cost import CostModel, cost_model
from compress.prune.order import channel_orders, plan_of
from compress.prune.saved_network import load_network
from compress.prune.widths import all_choices, reachable, uniform_widths
from compress.schema.bounds import Count, Share
from compress.schema.check import check_value
from compress.train.memory_format import unsafe_layers

Example = Tensor | Sequence[int]  # images (B, C, H, W), or the shape (C, H, W) of one


@dataclass
class _Seen:
    shape: tuple[int, int, int]
    tensors: dict[str, tuple[int, ...]]  # shapes of parameters and buffers then
    graph: ChannelGraph
    buffers: dict[str, Tensor] = field(default_factory=dict)  # of masks
    is_masked: bool = False


_seen: "WeakKeyDictionary[nn.Module, _Seen]" = WeakKeyDictionary()


def _shape_of(example: Example) -> tuple[int, int, int]:
    shape = tuple(example.shape) if isinstance(example, Tensor) else example
    sizes = shape[1:] if isinstance(example, Tensor) else shape
    whole = isinstance(sizes, list | tuple) and len(sizes) == 3 and all(type(s) is int and s > 0 for s in sizes)
    if not whole:
        raise InputError(f"example: must be images (B, C, H, W) or the shape (C, H, W) of one; got {shape}")
    channels, height, width = sizes
    return channels, height, width


def _check_kind(model: nn.Module) -> None:
    """
    Raises:
        InputError: no network, or one inside another thing.
    """
    inside = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
    if type(model).__name__ in inside:
        raise InputError(f"{type(model).__name__}: give the network inside, model.{inside[type(model).__name__]}")
    if isinstance(model, torch.jit.ScriptModule) or not isinstance(model, nn.Module):
        raise InputError(f"{type(model).__name__}: must be an nn.Module that is not scripted")


def _look(model: nn.Module, example: Example | None) -> _Seen:
    """With an example the network is looked at anew; without, what was seen last counts.

    Raises:
        InputError: a network not seen before, and no example.
    """
    _check_kind(model)
    tensors = {name: tuple(t.shape) for name, t in (*model.named_parameters(), *model.named_buffers())}
    seen = _seen.get(model)
    if example is None and seen is not None and seen.tensors == tensors:
        return seen
    if example is None and seen is None:
        raise InputError(
            f"{type(model).__name__}: its channels are not known yet; "
            "call compress.channel_groups(model, example) first, or give example="
        )
    shape = seen.shape if example is None and seen is not None else _shape_of(example)  # type: ignore[arg-type]
    seen = _seen[model] = _Seen(shape, tensors, channel_graph(model, shape))
    return seen


def _check_plan(plan: Plan) -> None:
    if not isinstance(plan, Plan):
        raise InputError(f"plan: must be a compress.Plan, not {type(plan).__name__}")


def load(run: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The network that a run ended with, in eval mode, on the CPU.

    Args:
        run: a run folder, or a `model.safetensors` that a run left.
        model: the uncut network, for one that is not of `compress.models`; it is not changed.

    Raises:
        compress.errors.InputError: no such network, or it cannot be rebuilt safely.
    """
    path = Path(run)
    path = path / MODEL if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{run}: holds no {MODEL}; give the folder of a finished run")
    return load_network(path, None if model is None else lambda: copy.deepcopy(model))[0]


def zoo(name: str, shape: Sequence[int] = (3, 32, 32), classes: int = 10, **settings: Any) -> nn.Module:
    """A shipped network with fresh weights, as `model=<name>` makes it: `zoo("vgg19_bn", conv_bias=True)`.

    Args:
        name: a file of conf/model.
        shape: of one image, (C, H, W).
        settings: what stands in that file, changed.

    Raises:
        compress.errors.InputError: no such network or setting, or one that its rules forbid.
    """
    problems = check_value("classes", classes, Count)
    if problems:
        raise InputError(*problems)
    return zoo_spec(name, _shape_of(shape), classes, **settings).build()


def channel_groups(model: nn.Module, example: Example) -> ChannelGraph:
    """The groups of channels that live and die together, in order of execution; `.name` and `.width` of each.

    Args:
        model: any network that torch.fx can trace; it is left as it was.
        example: images (B, C, H, W), or the shape (C, H, W) of one.

    Returns:
        A sequence of groups; its `.frozen` says of every layer that cannot be cut why not.

    Raises:
        compress.errors.InputError: control flow that depends on values, with the line; or images that do not fit.
    """
    return _look(model, example).graph


def cut(model: nn.Module, plan: Plan, example: Example | None = None) -> nn.Module:
    """A smaller copy with the channels of `plan` only, in the mode and with the frozen parameters of `model`.

    Args:
        example: needed only where `channel_groups` has not been called on this model.

    Raises:
        ValueError: a group or a channel that is not there; the message lists what is.
    """
    _check_plan(plan)
    return surgery.cut(model, _look(model, example).graph, plan)


@contextmanager
def masked(model: nn.Module, plan: Plan, example: Example | None = None) -> Iterator[nn.Module]:
    """`with masked(model, plan):` the model gives what `cut(model, plan)` gives, at its full shapes.

    Much cheaper than a cut, for searches. Weights are put back at the end, also after an error; what was changed in
    them meanwhile is lost. The memory for one masked copy of the weights stays with the model.
    """
    _check_plan(plan)
    seen = _look(model, example)
    if seen.is_masked:
        raise InputError(f"{type(model).__name__}: is masked already; leave that `with` first")
    seen.is_masked = True
    try:
        with surgery.Masks(model, seen.graph, seen.buffers)(plan):
            yield model
    finally:
        seen.is_masked = False


def cost(model: nn.Module, example: Example) -> CostModel:
    """Prices of all plans: `.macs(plan)`, `.params(plan)`, or of many by their widths, (plans, groups) -> (plans,).

    MACs are multiply-adds of convolutions, linear, bilinear and recurrent layers and matrix products for one image.
    An operator without a formula costs nothing here; a `UserWarning` names it, and `.uncounted` holds it by layer.
    """
    seen = _look(model, example)
    prices = cost_model(model, seen.graph, seen.shape)
    _warn_of(model, prices.uncounted)
    return prices


def _warn_of(model: nn.Module, uncounted: UncountedOperators) -> None:
    """Called by what the user calls, whose line the warning names."""
    if uncounted:
        told = f"{type(model).__name__}: {describe_uncounted(uncounted)}"
        warnings.warn(told, UserWarning, stacklevel=3)


def uniform_plan(model: nn.Module, example: Example, *, preserve_ratio: float, round_to: int = 8) -> Plan:
    """About the same share of every group, at the most MACs within `preserve_ratio` of the dense network's.

    Channels that are read with the largest weights (L1 norm) stay. Widths are multiples of `round_to` channels per
    layer where a group has as many, and never zero; a larger ratio never gives a narrower group.

    Raises:
        compress.errors.InputError: a ratio that these widths cannot reach; names what they can.
    """
    problems = check_value("preserve_ratio", preserve_ratio, Share) + check_value("round_to", round_to, Count)
    if problems:
        raise InputError(*problems)
    seen = _look(model, example)
    prices = cost_model(model, seen.graph, seen.shape)
    _warn_of(model, prices.uncounted)
    options = all_choices(seen.graph, round_to)
    low, _ = reachable(prices, options)
    if preserve_ratio < low:
        raise InputError(
            f"preserve_ratio={preserve_ratio}: out of reach; with round_to={round_to} the smallest share of MACs "
            f"is {low:.4f}"
        )
    widths = uniform_widths(prices, options, preserve_ratio)
    return plan_of(seen.graph, channel_orders(model, seen.graph), widths)


def unsafe_in_channels_last(model: nn.Module) -> list[str]:
    """The layers whose weight gradients may corrupt memory on a CPU, in float32 and channels_last; mostly none.

    Narrow 1x1 convolutions with a stride, which pruning makes. Train such a network in the contiguous layout.
    """
    _check_kind(model)
    return unsafe_layers(model)


def counts(model: nn.Module, example: Example) -> Counts:
    """MACs and parameters of a network as it is, in every convention that published tables use.

    A `UserWarning` names the operators, each with its layer, that no formula counts.
    """
    _check_kind(model)
    shape = _shape_of(example)
    operators = count_operators(model, shape)
    _warn_of(model, operators.uncounted)
    return count(model, shape, operators)


def export_onnx(model: nn.Module, path: str | Path, example: Example) -> float:
    """Write an ONNX file: "images" (B, C, H, W) to "logits" (B, classes), any batch size, in eval mode, float32.

    Returns:
        The largest difference of onnxruntime's logits to torch's, relative to the largest logit.

    Raises:
        compress.errors.InputError: the extra `onnx` is not installed.
    """
    return onnx.export_onnx(model, Path(path), _shape_of(example))
