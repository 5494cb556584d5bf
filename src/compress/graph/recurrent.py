"""Recurrent layers on channel ids.

Unit j of a hidden state is its rows of every gate, in the weights of the inputs and of the state, and its column of
the latter; all gates are elementwise, so masking the weights that read a unit is enough. torch's layers have one
`hidden_size` for all of their layers and directions, so unit j of all of these lives and dies together.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from compress.graph.types import Layer
from compress.graph.values import Ids, ids_of

if TYPE_CHECKING:
    from compress.graph.run import Run


def recurrent(run: "Run", name: str, module: nn.RNNBase, x: Tensor, hx: Any = None) -> Any:
    """LSTM, GRU and RNN: (time, batch, inputs), or batch first, or without a batch."""
    if not isinstance(x, Tensor):  # a packed sequence
        return None
    hidden = run.found.issue(f"{name}.hidden_size", 0, module.hidden_size)
    state = run.found.issue(f"{name}.proj_size", 0, module.proj_size) if module.proj_size else hidden
    inputs = run.channels_along(x, -1, name)
    run.found.put(f"{name}.input_size", 0, inputs)
    directions = ("", "_reverse")[: 1 + module.bidirectional]
    for layer in range(module.num_layers):
        for direction in directions:
            _gates(run, name, module, f"_l{layer}{direction}", (inputs, hidden, state), x.shape[:-1].numel())
        inputs = state.repeat(len(directions))
    states = [state, hidden][: 1 + isinstance(module, nn.LSTM)]
    _begun(run, states, hx)
    many = len(directions) * module.num_layers
    batch = () if x.dim() == 2 else (x.shape[0 if module.batch_first else 1],)
    last = tuple(_along(run, ids, (many, *batch)) for ids in states)
    return _along(run, inputs, x.shape[:-1]), last if isinstance(module, nn.LSTM) else last[0]


def cell(run: "Run", name: str, module: nn.RNNCellBase, x: Tensor, hx: Any = None) -> Any:
    """One step: (batch, inputs), or (inputs,)."""
    hidden = run.found.issue(f"{name}.hidden_size", 0, module.hidden_size)
    inputs = run.channels_along(x, -1, name)
    run.found.put(f"{name}.input_size", 0, inputs)
    _gates(run, name, module, "", (inputs, hidden, hidden), x.shape[:-1].numel())
    states = [hidden] * (1 + isinstance(module, nn.LSTMCell))
    _begun(run, states, hx)
    last = tuple(_along(run, ids, x.shape[:-1]) for ids in states)
    return last if isinstance(module, nn.LSTMCell) else last[0]


def _gates(
    run: "Run", name: str, module: nn.Module, ending: str, ids: tuple[Tensor, Tensor, Tensor], steps: int
) -> None:
    """The weights and biases of one layer in one direction; `ids` are those of its inputs, of its hidden units, and
    of the state that it reads."""
    inputs, hidden, state = ids
    for kind, columns in (("ih", inputs), ("hh", state), ("hr", hidden)):
        weight = getattr(module, f"weight_{kind}{ending}", None)
        if weight is None:
            continue
        if weight.shape[1] != len(columns):
            raise ValueError(f"it takes {weight.shape[1]} channels, and gets {len(columns)}")
        tensor = f"{name}.weight_{kind}{ending}"
        rows = state if kind == "hr" else hidden.repeat(len(weight) // len(hidden))
        run.found.put(tensor, 0, rows)
        run.found.put(tensor, 1, columns)
        axes = run.found.axis(tensor, 0), run.found.axis(tensor, 1)
        run.found.layer(Layer(tensor, "recurrent", *axes, steps, 1, 0, 1), run.counted)
        if getattr(module, f"bias_{kind}{ending}", None) is not None:
            run.found.put(f"{name}.bias_{kind}{ending}", 0, rows)


def _begun(run: "Run", states: list[Tensor], given: Any) -> None:
    """States that a layer is given have the channels of its own."""
    for ids, value in zip(states, _tensors(given), strict=False):
        own = ids_of(value)
        run.sets.union(run.channels_along(own, -1, "a state"), ids)


def _tensors(given: Any) -> Iterator[Tensor]:
    if isinstance(given, Tensor):
        yield given
    elif given is not None:
        yield from given


def _along(run: "Run", ids: Tensor, before: Any) -> Ids:
    """An activation with these ids along its last dimension."""
    return run.sets.roots(ids).expand(*before, -1).as_subclass(Ids)


RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
