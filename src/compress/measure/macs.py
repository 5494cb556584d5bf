"""Multiply-adds of a network: convolutions, linear, bilinear and recurrent layers, matrix products; nothing else.

torch traces one image, `compress.measure.formulas` counts each operator of the trace, `compress.measure.free` lists
those without multiply-adds that count. What is neither is named with its layer, never silently 0.

Where fvcore counts too, the numbers are its own (einsum to the unit, of which it keeps four digits). It calls
multiply-adds "flops" and also counts normalisation, pooling and resizing; the papers this project compares with do
not. `compress.measure.counts` has the other conventions.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compress.errors import InputError, first_line
from compress.measure.formulas import FORMULAS, UnknownError
from compress.measure.free import FREE

Uncounted = Mapping[str, tuple[str, ...]]
OPAQUE = ("prim::PythonOp", "prim::CallFunction", "prim::CallMethod")  # the nodes of prim:: that run operators


@dataclass(frozen=True)
class Operators:
    """What ran for one image."""

    macs: Mapping[str, int]  # by operator
    uncounted: Uncounted  # operators without a formula that may multiply and add, by layer; "" is the network itself
    fvcore: int  # FlopCountAnalysis(model, image).total(); where fvcore fails on an operator, our count of it

    @property
    def total(self) -> int:
        return sum(self.macs.values())


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode; afterwards each in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _hooks_kept(model: nn.Module) -> Iterator[None]:
    """fvcore leaves its hooks behind where a forward fails."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    before = [(module, kind, dict(getattr(module, kind))) for module in model.modules() for kind in kinds]
    try:
        yield
    finally:
        for module, kind, hooks in before:
            now = getattr(module, kind)
            for key in [key for key in now if key not in hooks]:
                del now[key]


def count_operators(model: nn.Module, shape: tuple[int, int, int]) -> Operators:
    """What one image (C, H, W) costs, by operator, and what could not be counted.

    Raises:
        InputError: the network cannot take such an image, or cannot be traced.
    """
    macs: Counter[str] = Counter()
    uncounted: dict[str, dict[str, None]] = {}  # a dictionary without values is a set in order
    by_fvcore = 0
    for node, layer, is_inside in _walk(_trace(model, shape)):
        kind = node.kind()
        operator = _operator(kind)
        count = None if operator in FREE else _count(node, operator)
        if count is not None:
            macs[operator] += count
        elif operator not in FREE:
            uncounted.setdefault(layer, {})[_name(node)] = None
        if not is_inside:
            by_fvcore += _as_fvcore(node, kind, count or 0)
    return Operators(dict(macs), {layer: tuple(names) for layer, names in uncounted.items()}, by_fvcore)


def _trace(model: nn.Module, shape: tuple[int, int, int]) -> Any:
    """torch's graph of one image in eval mode; every node's scope ends in its layer."""
    example = next(model.parameters(), torch.zeros(()))
    images = torch.zeros(1, *shape, device=example.device, dtype=example.dtype)
    names = {module: name for name, module in model.named_modules()}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one opaque op that nobody can see into
    try:
        with warnings.catch_warnings(), in_eval_mode(model), _hooks_kept(model), torch.no_grad():
            warnings.simplefilter("ignore")  # of tracing, and of fvcore, which uses torch.jit.script
            from fvcore.nn.jit_analysis import _get_scoped_trace_graph

            return _get_scoped_trace_graph(model, (images,), names)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        size = "x".join(map(str, shape))
        what = f"cannot be traced by torch.jit on {size}" if _runs(model, images) else f"cannot run on {size}"
        raise InputError(f"{type(model).__name__}: {what} images ({first_line(error)})") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _runs(model: nn.Module, images: torch.Tensor) -> bool:
    try:
        with in_eval_mode(model), torch.no_grad():
            model(images)
    except Exception:  # whatever the network raises
        return False
    return True


def _walk(graph: Any, layer: str | None = None) -> Iterator[tuple[Any, str, bool]]:
    """Every operator of a graph, the layer it ran in, and whether it stands inside another node.

    fvcore sees no such node: what a `torch.autograd.Function` runs, what scripted functions and their branches hold.
    """
    for node in graph.nodes():
        where = node.scopeName().split("/")[-1] if layer is None else layer
        parts = [*node.blocks(), *_inside(node)]
        for part in parts:
            yield from ((inner, at, True) for inner, at, _ in _walk(part, where))
        if not parts and not (node.kind().startswith("prim::") and node.kind() not in OPAQUE):
            yield node, where, layer is not None


def _inside(node: Any) -> list[Any]:
    """The graphs that a node runs, where they can be had."""
    if node.kind() == "prim::PythonOp" and node.hasAttribute("Subgraph"):
        return [node.g("Subgraph")]
    if node.kind() == "prim::CallFunction":
        function = torch.jit._state._python_cu.find_function(str(next(node.inputs()).type()))
        return [function.graph] if function is not None else []
    return []


def _operator(kind: str) -> str:
    """ "aten::relu_" is "relu"; what is not torch's own keeps its namespace."""
    name = kind.removeprefix("aten::")
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _name(node: Any) -> str:
    """As people know it: a Python function of autograd by its class."""
    if node.kind() == "prim::PythonOp":
        return str(node.pyname())
    return _operator(node.kind())


def _count(node: Any, operator: str) -> int | None:
    """Multiply-adds of a node, or None where they cannot be counted."""
    if operator not in FORMULAS:
        return None
    try:
        return FORMULAS[operator](list(node.inputs()), list(node.outputs()))
    except (UnknownError, LookupError, TypeError, ValueError):  # or called in a way that the formula does not know
        return None


def _as_fvcore(node: Any, kind: str, ours: int) -> int:
    """What fvcore has for a node; it fails on vectors and on normalisation of unusual shapes."""
    from fvcore.nn.flop_count import _DEFAULT_SUPPORTED_OPS

    if kind not in _DEFAULT_SUPPORTED_OPS:
        return 0
    try:
        counted = _DEFAULT_SUPPORTED_OPS[kind](list(node.inputs()), list(node.outputs()))
    except Exception:
        return ours
    return int(sum(counted.values()) if isinstance(counted, Counter) else counted)


def describe_uncounted(uncounted: Uncounted) -> str:
    """In one line: each layer with its operators."""
    where = "; ".join(f"{layer or 'forward'} runs {', '.join(names)}" for layer, names in uncounted.items())
    return f"its MACs leave out what has no formula ({where})"


def count_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """MACs of one image (C, H, W)."""
    return count_operators(model, shape).total


def count_params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def run_hooked(
    model: nn.Module, modules: Iterable[nn.Module], hook: Callable[..., None], shape: tuple[int, int, int]
) -> None:
    """Run one image (C, H, W) through a network in eval mode, `hook` behind each of these modules of it."""
    example = next(model.parameters(), torch.zeros(()))
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        with in_eval_mode(model), torch.no_grad():
            model(torch.zeros(1, *shape, device=example.device, dtype=example.dtype))
    finally:
        for handle in handles:
            handle.remove()
