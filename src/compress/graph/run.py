"""Runs a network on channel ids in place of activations: eagerly, one call after the other, as Python runs it.

The network's copy (`compress.graph.twin`) gets images of `Ids`. While it runs, this mode sees every operation on
tensors, also those on bare parameters. An operation on ids, or on the network's own tensors, is looked up by name in
`compress.graph.operations`; any other runs as it is. So control flow on sizes just runs, and so do indices, masks and
counters. What decides by the values of activations is refused with the line.
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from compress.errors import InputError, first_line
from compress.graph import computed, modules, operations
from compress.graph.counts import counts_in, plain
from compress.graph.ids import channel_dims, unexpanded
from compress.graph.record import BY_THEMSELVES, Record
from compress.graph.tape import IMAGES, OUTPUT, Call, Tape
from compress.graph.twin import Flag, channels_of, is_channels, number_attributes, patch, twin_of
from compress.graph.values import BY_VALUE, Ids, Operation, ids_of, operation_name, stand_in
from compress.models.inputs import Given, as_inputs, leaves
from compress.models.unchanged import random_numbers_kept

IS_OUTPUT = "is the network's output"
AVERAGED = "has weights of attention that are read, and these are averages over all heads"
VALUES = {
    *(f"__{name}__" for name in BY_VALUE), "item", "tolist", "numpy", "equal", "allclose", "is_nonzero", "nonzero",
    "unique", "masked_select", "bincount",
}  # fmt: skip
HERE = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class Seen(NamedTuple):
    """A call with the activations, on ids, that it read first and wrote."""

    call: Call
    operation: Operation | None  # of a function
    read: Any
    written: Any


class Run(TorchFunctionMode):
    """The runs of one network; `found` is what they record. Handlers of operations call its methods."""

    def __init__(self, model: nn.Module, keep: bool = False) -> None:
        super().__init__()
        self.model, self.found, self.twin = model, Record(model), twin_of(model)
        self.sets, self.counted = self.found.ids, True
        self.seen: list[Seen] | None = [] if keep else None
        self._own: dict[int, tuple[str, Tensor]] = {}  # id of a tensor of the network or its twin -> name, the twin's
        self._kept: list[Any] = [model, self.twin]  # or another object could get the id of one that is gone
        twins = dict(_named_tensors(self.twin))
        for name, tensor in (*_named_tensors(model), *twins.items()):
            self._own.setdefault(id(tensor), (name, twins[name]))
            self._kept.append(tensor)
        self._filled: dict[int, Ids] = {}  # id of a tensor that activations were written into -> these
        number_attributes(self.twin, self.found)
        modules.number_layers(self.twin, self.found)
        patch(
            self.twin,
            lambda name: lambda *args, **kwargs: self._leaf(name, args, kwargs),
            self._norm_like,
            self._computing,
        )
        self._tape: list[Call] = []
        self.computing: dict[str, Ids] = {}  # layers whose own forward is running, and its input
        self.by_rows: set[str] = set()  # those that have used the rows of their weight
        self.norm_groups: list[int] = []  # of group norms that were met over channels

    def __call__(self, given: Given, counted: bool = True) -> Tape:
        """Run one image of a shape (C, H, W), or other inputs. Layers of a run that is not `counted` cost nothing.

        Raises:
            InputError: the network decides by values, or cannot take such images.
        """
        self.counted, self._tape = counted, [Call(IMAGES, "", ())]
        inputs = as_inputs(given).with_each(_fixed)
        try:
            with torch.inference_mode(False), torch.no_grad(), random_numbers_kept(), self._scripted(), self:
                output = self.twin(*inputs.args, **inputs.kwargs)
        except InputError:
            raise
        except Exception as error:  # a network may raise anything
            raise self._refusal(traceback.extract_tb(error.__traceback__), first_line(error)) from None
        results = [value for value in leaves(output) if isinstance(value, Ids)]
        for ids in results:
            self.sets.freeze(self._canonical(ids), IS_OUTPUT)
        self._tape.append(Call("size", "", (), tuple(self.found.measured)))
        self._tape.append(Call(OUTPUT, "", tuple(ids.at for ids in results)))
        return tuple(self._tape)

    def _refusal(self, stack: traceback.StackSummary, why: str) -> InputError:
        """Names the innermost line that is neither torch's nor ours."""
        frames = [frame for frame in stack if not frame.filename.startswith(HERE)]
        where = f" at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
        return InputError(
            f"{type(self.model).__name__} cannot be traced{where} ({why}); move what depends on values out of "
            "forward, into __init__ or into a module of its own"
        )

    # -- functions ---------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            if any(self._is_followed(value) for value in leaves((args, kwargs))):
                return self._function(func, args, kwargs or {})
            self.freeze_counts((args, kwargs))  # a tensor made of a number is as long, or as large, after a cut
            return func(*self._real(args), **self._real(kwargs or {}))

    def _is_followed(self, value: Any) -> bool:
        if not isinstance(value, Tensor):
            return False
        at = id(value)
        return isinstance(value, Ids) or at in self._filled or (at in self._own and is_channels(value))

    def _real(self, values: Any) -> Any:
        """Arguments of an operation on data: the network's own counters and indices are those of the twin."""
        if isinstance(values, tuple | list) and type(values) in (tuple, list):
            return type(values)(self._real(value) for value in values)
        if type(values) is dict:
            return {key: self._real(value) for key, value in values.items()}
        if isinstance(values, Flag):
            return bool(values)
        return self._own[id(values)][1] if isinstance(values, Tensor) and id(values) in self._own else values

    def _function(self, func: Any, args: Any, kwargs: Any) -> Any:
        name, in_place = operation_name(func)
        if name in VALUES or (name == "where" and len(args) + len(kwargs) == 1):  # of one argument: its `nonzero`
            raise self._refusal(
                traceback.extract_stack(), f"{name.strip('_')!r} decides by the values of activations"
            )
        if name in operations.ATTRIBUTES:
            return self._attribute(name, func, args, kwargs)
        inputs = tuple(value.at for value in leaves((args, kwargs)) if isinstance(value, Ids))
        inputs += tuple(self._filled[id(value)].at for value in leaves((args, kwargs)) if id(value) in self._filled)
        own = [self._own[id(v)][0] for v in leaves((args, kwargs)) if isinstance(v, Tensor) and id(v) in self._own]
        reads = tuple(tensor.rpartition(".")[0] for tensor in own)
        for owner in reads:
            self.found.ran(owner, with_parts=False)
        call = Call(name, "", inputs, reads)
        handler = operations.ON_TENSORS.get(name)
        if handler is None:
            handler = operations.ON_IDS.get(name, Run.unknown)
            args, kwargs = self._on_ids(args), self._on_ids(kwargs)
        operation = Operation(name, func, args, kwargs)
        try:
            result = self._written(call, operation, handler(self, operation), args)
        except InputError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise InputError(f"cannot run {name} on such images ({first_line(error)})") from error
        if in_place and isinstance(args[0], Tensor):
            self._fill(args[0], result)
        return result

    def _fill(self, target: Tensor, result: Any) -> None:
        """An operation in place: whoever else holds the tensor sees what was written."""
        if isinstance(target, Ids):
            target.at = len(self._tape) - 1
        elif isinstance(result, Ids):
            self._filled[id(target)] = result
            self._kept.append(target)

    def _attribute(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Sizes are `Count`s where channels lie; reading one is on the tape."""
        own = self.own(args[0])
        if isinstance(args[0], Ids):
            self._tape.append(Call(name, "", (args[0].at,)))
        elif own is not None:
            self._tape.append(Call(name, "", (), (own.rpartition(".")[0],)))
        if isinstance(args[0], Ids) or (own is not None and self._is_computing(own)):
            args = (self._on_ids(args[0]), *args[1:])
        return operations.ATTRIBUTES[name](self, Operation(name, func, args, kwargs))

    def _on_ids(self, values: Any) -> Any:
        """The same structure with ids, by their roots, in place of activations and of the network's own tensors."""
        if type(values) in (tuple, list):
            return type(values)(self._on_ids(value) for value in values)
        if type(values) is dict:
            return {key: self._on_ids(value) for key, value in values.items()}
        if not isinstance(values, Tensor):
            return bool(values) if isinstance(values, Flag) else values
        if isinstance(values, Ids):
            return self._canonical(values)
        if id(values) in self._filled:
            return self._canonical(self._filled[id(values)])
        if id(values) not in self._own:
            return values
        name, tensor = self._own[id(values)]
        if not is_channels(tensor):
            return tensor
        if self._is_computing(name):
            self.by_rows.add(name.rpartition(".")[0])
            return self.sets.roots(computed.rows(self, name, tensor.shape)).as_subclass(Ids)
        ids = self.sets.roots(self.found.elements(name, tensor.shape)).as_subclass(Ids)
        ids.parameter = name
        return ids

    def _is_computing(self, tensor: str) -> bool:
        owner, _, attribute = tensor.rpartition(".")
        return attribute == "weight" and owner in self.computing

    def _canonical(self, ids: Ids) -> Ids:
        if ids.guards is not None:
            self.sets.freeze(ids.guards, AVERAGED)
        roots = self.sets.roots(ids)
        if roots is ids:
            return ids
        new = roots.as_subclass(Ids)
        new.at, new.stands_for, new.parameter = ids.at, ids.stands_for, ids.parameter
        return new

    def _written(self, call: Call, operation: Operation | None, result: Any, args: Any) -> Any:
        """The result of a call as the network gets it; the call is on the tape."""
        at = len(self._tape)
        self._tape.append(call)

        def wrapped(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            ids = value.as_subclass(Ids)
            ids.at, ids.stands_for = at, getattr(value, "stands_for", None)
            ids.guards = getattr(value, "guards", None)
            return ids

        result = pytree.tree_map(wrapped, result)
        if self.seen is not None:
            self.seen.append(Seen(call, operation, args[0] if args else None, result))
        return result

    @contextmanager
    def _scripted(self) -> Iterator[None]:
        """Functions of torch.jit.script run outside of Python, where no mode sees them: each is one operation."""
        kind = torch.jit.ScriptFunction
        original = kind.__call__

        def called(function: Any, *args: Any, **kwargs: Any) -> Any:
            if self.has_ids((args, kwargs)):

                def scripted(*inputs: Any, **named: Any) -> Any:
                    return original(function, *inputs, **named)

                scripted.__name__ = function.name
                with torch._C.DisableTorchFunction():
                    return self._function(scripted, args, kwargs)
            return original(function, *args, **kwargs)

        kind.__call__ = called  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            kind.__call__ = original  # type: ignore[method-assign]

    # -- layers ------------------------------------------------------------------------------------------------

    def _leaf(self, name: str, args: Any, kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            inputs = tuple(value.at for value in leaves((args, kwargs)) if isinstance(value, Ids))
            args, kwargs = self._on_ids(args), self._on_ids(kwargs)
            if not args and "input" in kwargs:
                args = (kwargs.pop("input"),)
            args = tuple(ids_of(v) if isinstance(v, Tensor) else v for v in args)
            self.found.ran(name)
            try:
                result = modules.call(self, name, self.model.get_submodule(name), args, kwargs)
                return self._written(Call("", name, inputs), None, result, args)
            except InputError:
                raise
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
                raise InputError(f"cannot run {name} on such images ({first_line(error)})") from error

    def _norm_like(self, name: str, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a module that may be a norm over its channels, of somebody's own, perhaps with an activation
        inside: where its operations would freeze the channels of its only input, and its result has the shape of
        this, all is as with a layer norm. While masked it runs as it will when cut, so nothing need be known of what
        it computes."""

        def followed(*args: Any, **kwargs: Any) -> Any:
            x = args[0] if len(args) == 1 and not kwargs else None
            with torch._C.DisableTorchFunction():
                given = self._canonical(x) if isinstance(x, Ids) else stand_in(())
                dims, length, at = channel_dims(given), channels_of(module), len(self._tape)
                may_be = (
                    len(dims) == 1
                    and given.shape[dims[0]] == length
                    and not any(modules.is_patched(part) for part in self.model.get_submodule(name).modules())
                )
                forget, known = (self.found.snapshot(), set(self.found.axes)) if may_be else (None, set())
                self.norm_groups = []
            result = forward(*args, **kwargs)
            with torch._C.DisableTorchFunction():
                alike = isinstance(result, Ids) and result.shape == given.shape
                if forget is None or not alike or not self.sets.is_frozen(given):
                    return result
                counted = {axis: len(ids) for axis, ids in self.found.axes.items() if axis not in known}
                numbers = [axis for axis, count in counted.items() if count == length]
                self.norm_groups += [count for count in counted.values() if count != length]
                if any(length % plain(groups) for groups in self.norm_groups):
                    return result  # not a number of groups of channels
                forget()
                del self._tape[at:]
                self.found.ran(name)
                ids = modules.own_norm(self, name, module, given, dims[0], [axis.tensor for axis in numbers])
                return self._written(Call("", name, (given.at,)), None, ids, args)

        return followed

    def _computing(self, name: str, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a layer of somebody's own, which may compute the weight it uses. Meanwhile all elements of a
        row of the weight have the id of its output, so that outputs that are computed one by one stay free; what
        happens along the rows is left to `computed.fits`. Where that finds no layer, all is as in other forwards."""

        def followed(*args: Any, **kwargs: Any) -> Any:
            x = args[0] if len(args) == 1 and not kwargs else None
            own, before = self.model.get_submodule(name), self.found.layers.get(name)
            if not isinstance(x, Ids) or modules.is_patched(own) or name in self.computing:
                return forward(*args, **kwargs)
            with torch._C.DisableTorchFunction():
                forget, at, seen = self.found.snapshot(), len(self._tape), len(self.seen or ())
            self.computing[name] = x
            self.by_rows.discard(name)
            try:
                result = forward(x)
            finally:
                del self.computing[name]
            with torch._C.DisableTorchFunction():
                layer = self.found.layers.get(name)
                if layer is not None and layer is not before:
                    if name in self.by_rows and layer.in_axis is not None:
                        if isinstance(result, Ids) and computed.fits(own, x.shape, result.shape):
                            self.found.computed.add(name)
                        else:
                            self.sets.freeze(self._canonical(x), f"is read by {name}, {computed.FIXED_INPUTS}")
                    return result
                forget()
                del self._tape[at:]
                if self.seen is not None:
                    del self.seen[seen:]
            return forward(x)

        return followed

    # -- for handlers ------------------------------------------------------------------------------------------

    def own(self, tensor: Any) -> str | None:
        """The name of a parameter or buffer of the network; None for any other tensor."""
        return self._own[id(tensor)][0] if id(tensor) in self._own else None

    def channels_along(self, x: Tensor, dim: int, what: str) -> Tensor:
        """The ids along one dimension, (C,). Where they change along another dimension too, all are frozen; `what`
        names the layer that needs them on one."""
        dim %= x.dim()
        few = unexpanded(x)
        rows = few.movedim(dim, 0).reshape(few.shape[dim], -1)
        if rows.shape[1] > 1 and not torch.equal(rows, rows[:, :1].expand_as(rows)):
            self.sets.freeze(few, f"{what} sees different channels at different places")
        return rows[:, 0].expand(x.shape[dim])

    def unknown_on_ids(self, op: Operation) -> Any:
        """`unknown`, for an operation that has got the network's own tensors as they are."""
        return self.unknown(replace(op, args=self._on_ids(op.args), kwargs=self._on_ids(op.kwargs)))

    def on_ids(self, function: Callable[..., Any], *args: Any) -> Any:
        """What a layer does by a function that is in the tables."""
        name, _ = operation_name(function)
        return operations.ON_IDS[name](self, Operation(name, function, args, {}))

    def activation(self, x: Any) -> Tensor:
        """The first argument of a layer's function, on ids."""
        ids = self._on_ids(x)
        return ids if isinstance(ids, Ids) else stand_in(ids.shape)

    def layer_before(self, x: Tensor) -> str:
        """The layer that gave an activation; "" if it was a function."""
        return self._tape[x.at].layer if isinstance(x, Ids) else ""

    @staticmethod
    def has_ids(values: Any) -> bool:
        return any(isinstance(value, Ids) for value in leaves(values))

    @staticmethod
    def probed(op: Operation, shape: Sequence[int]) -> Any:
        """The result of an operation on one tensor, for zeros of `shape` in its place. Real ones: on the meta device
        many a kernel is a Python reference, the first of which loads torch's compiler, for seconds."""
        zeros, kwargs = torch.zeros(tuple(shape)), plain(op.kwargs)
        if op.args:
            return op.function(zeros, *plain(op.args[1:]), **kwargs)
        return op.function(**{**kwargs, next(name for name in ("input", "self") if name in kwargs): zeros})

    def meta(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The result of `function` on the meta device: shapes and dtypes, nothing is computed."""

        def to_meta(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            dtype = (value.stands_for or self.found.dtype) if isinstance(value, Ids) else value.dtype
            return torch.empty(value.shape, device="meta", dtype=dtype)

        args, kwargs = pytree.tree_map(to_meta, (plain(args), plain(kwargs)))
        return function(*args, **kwargs)

    def freeze(self, values: Any, why: str) -> None:
        """Freeze all ids and counted channels in nested values."""
        for value in leaves(values):
            if isinstance(value, Ids):
                self.sets.freeze(value, why)
        self.freeze_counts(values)

    @staticmethod
    def freeze_counts(values: Any) -> None:
        """Counts that are used in a way that a cut would falsify."""
        for count in counts_in(values):
            count.freeze()

    def unknown(self, op: Operation, why: str = "") -> Any:
        """An operation that is in none of the tables, or not known for such arguments: its inputs are frozen, and so
        are its outputs."""
        for value in leaves((op.args, op.kwargs)):
            if isinstance(value, Ids) and value.parameter:
                self.found.freeze(value.parameter, value.shape, BY_THEMSELVES)
        self.freeze((op.args, op.kwargs), why or f"passes through {op.name!r}, which the channel graph does not know")
        out = self.meta(op.function, op.args, op.kwargs)
        return pytree.tree_map(lambda v: stand_in(v.shape, v.dtype) if isinstance(v, Tensor) else v, out)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _fixed(tensor: Tensor) -> Tensor:
    """What stands for an input: channels that cannot be cut; whole numbers are themselves."""
    if not tensor.is_floating_point():
        return tensor.detach().cpu().clone()
    images = stand_in(tensor.shape)
    images.at = 0
    return images
