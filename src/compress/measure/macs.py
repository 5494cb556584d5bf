"""MACs (multiply-adds) of a network: convolutions, linear, bilinear and recurrent layers, matrix products; nothing
else.

torch.jit traces one image; `mac_formulas` counts each operator of the trace; `zero_mac_operators` lists those that
count 0 by convention. An operator in neither is reported with its layer, never silently 0.

For operators that fvcore counts the numbers are equal (for einsum fvcore keeps only four digits). fvcore calls
multiply-adds "flops", and also counts normalisation, pooling and resizing, which the papers that this project
compares with do not. `compress.measure.counts` has the other conventions.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import InputError, first_line
from compress.measure.mac_formulas import MAC_FORMULAS, UnknownError
from compress.measure.zero_mac_operators import ZERO_MAC_OPERATORS
from compress.models.inputs import Given, Inputs, as_inputs, call, described, tensors_in, unwrapped
from compress.models.unchanged import unchanged

UncountedOperators = Mapping[str, tuple[str, ...]]  # layer ("" is the network) -> operators without a formula
OPAQUE = ("prim::PythonOp", "prim::CallFunction", "prim::CallMethod")  # nodes of prim:: that run code


@dataclass(frozen=True)
class Operators:
    """The operators that ran for one image, counted."""

    macs: Mapping[str, int]  # by operator, without those that count 0
    uncounted: UncountedOperators
    fvcore: int  # FlopCountAnalysis(model, image).total(); where fvcore fails on an operator, our count of it

    @property
    def total(self) -> int:
        return sum(self.macs.values())


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode; afterwards each is back in the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def count_operators(model: nn.Module, given: Given) -> Operators:
    """MACs of one image of a shape (C, H, W), or of other inputs, in eval mode by operator, and the operators that
    could not be counted.

    Raises:
        InputError: the network cannot take such an image, or torch.jit cannot trace it.
    """
    macs: Counter[str] = Counter()
    uncounted: dict[str, dict[str, None]] = {}  # the inner dict is an ordered set
    by_fvcore = 0
    for node, layer, is_nested in _walk(_trace(model, given)):
        kind = node.kind()
        operator = _operator(kind)
        count = None if operator in ZERO_MAC_OPERATORS else _count(node, operator)
        if count is not None:
            macs[operator] += count
        elif operator not in ZERO_MAC_OPERATORS:
            uncounted.setdefault(layer, {})[_name(node)] = None
        if not is_nested:
            by_fvcore += _as_fvcore(node, kind, count or 0)
    return Operators(dict(macs), {layer: tuple(names) for layer, names in uncounted.items()}, by_fvcore)


class _OfTensors(nn.Module):
    """A network as torch.jit traces it: from a tuple of tensors to one."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model, self._inputs = model, inputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors)
        inputs = self._inputs.with_each(lambda _: next(left))
        return tuple(tensors_in(self.model(*inputs.args, **inputs.kwargs)))


def _trace(model: nn.Module, given: Given) -> Any:
    """The torch.jit graph of one image in eval mode; the last part of a node's scope is its layer's name."""
    inputs = as_inputs(given).like(next(model.parameters(), torch.zeros(())))
    network = _OfTensors(model, inputs)
    names = {network: ""} | {module: name for name, module in model.named_modules()}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would be one opaque operator
    try:
        with warnings.catch_warnings(), unchanged(model), torch.no_grad(), unwrapped(model):
            model.eval()
            warnings.simplefilter("ignore")  # of the tracer, and of torch.jit.script, which fvcore uses
            from fvcore.nn.jit_analysis import _get_scoped_trace_graph

            return _get_scoped_trace_graph(network, tuple(tensors_in((inputs.args, inputs.kwargs))), names)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        size = described(given)
        what = f"cannot be traced by torch.jit on {size}" if _runs(model, given) else f"cannot run on {size}"
        raise InputError(f"{type(model).__name__}: {what} ({first_line(error)})") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _runs(model: nn.Module, given: Given) -> bool:
    try:
        with unchanged(model), torch.no_grad():
            call(model.eval(), given)
    except Exception:  # a network may raise anything
        return False
    return True


def _walk(graph: Any, layer: str | None = None) -> Iterator[tuple[Any, str, bool]]:
    """Every operator of a graph, the layer that it ran in, and whether it is nested in another node.

    Nested are the operators of a `torch.autograd.Function`, and of scripted functions and their branches. fvcore does
    not see those.
    """
    for node in graph.nodes():
        where = node.scopeName().split("/")[-1] if layer is None else layer
        parts = [*node.blocks(), *_nested_graphs(node)]
        for part in parts:
            yield from ((inner, at, True) for inner, at, _ in _walk(part, where))
        if not parts and not (node.kind().startswith("prim::") and node.kind() not in OPAQUE):
            yield node, where, layer is not None


def _nested_graphs(node: Any) -> list[Any]:
    """The graphs nested in a node, where torch exposes them."""
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
    """An operator's name for messages: that of a `torch.autograd.Function` is its class."""
    if node.kind() == "prim::PythonOp":
        return str(node.pyname())
    return _operator(node.kind())


def _count(node: Any, operator: str) -> int | None:
    """MACs of a node; None where they cannot be counted."""
    if operator not in MAC_FORMULAS:
        return None
    try:
        return MAC_FORMULAS[operator](list(node.inputs()), list(node.outputs()))
    except (UnknownError, LookupError, TypeError, ValueError):  # called in a way that the formula does not cover
        return None


def _as_fvcore(node: Any, kind: str, ours: int) -> int:
    """fvcore's count of a node. Where fvcore fails (on vectors, on unusual shapes of normalisation): `ours`."""
    from fvcore.nn.flop_count import _DEFAULT_SUPPORTED_OPS

    if kind not in _DEFAULT_SUPPORTED_OPS:
        return 0
    try:
        counted = _DEFAULT_SUPPORTED_OPS[kind](list(node.inputs()), list(node.outputs()))
    except Exception:
        return ours
    return int(sum(counted.values()) if isinstance(counted, Counter) else counted)


def describe_uncounted(uncounted: UncountedOperators) -> str:
    """A clause for messages that names each layer with its operators."""
    where = "; ".join(f"{layer or 'forward'} runs {', '.join(names)}" for layer, names in uncounted.items())
    return f"its MACs leave out what has no formula ({where})"


def count_macs(model: nn.Module, given: Given) -> int:
    """MACs of one image of a shape (C, H, W), or of other inputs, in eval mode; uncounted operators count 0.

    Raises:
        InputError: as `count_operators`.
    """
    return count_operators(model, given).total


def count_params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def run_with_hooks(model: nn.Module, modules: Iterable[nn.Module], hook: Callable[..., None], given: Given) -> None:
    """Run one image of a shape (C, H, W), or other inputs, through a network in eval mode, with `hook` as a forward
    hook of `modules`."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        with in_eval_mode(model), torch.no_grad():
            call(model, given)
    finally:
        for handle in handles:
            handle.remove()
