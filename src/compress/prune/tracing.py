"""Runs a network on channel numbers, op by op: what every op does to channels stands here.

Adding an op: a module type or function in one of the tables, or a method beside `_conv` that records axes.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from compress.models.layers import ChannelPad, ChannelSelection
from compress.prune.graph import Axis, Layer
from compress.prune.numbers import INDEX, Numbers, compact, fixes, is_numbers, splits, varying
from compress.settings import InputError, first_line

OUTPUT = "is the network's output"
LEAVES = (ChannelPad, ChannelSelection, nn.LayerNorm, nn.GroupNorm)  # never looked into, whoever wrote them

ELEMENTWISE_MODULES = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid,
    nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
    nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU, nn.Softsign, nn.LogSigmoid, nn.Hardshrink, nn.Softshrink,
)  # fmt: skip
SPATIAL_MODULES = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d,
    nn.ReflectionPad2d, nn.ReplicationPad2d,
)  # fmt: skip
ELEMENTWISE = {
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.sigmoid, F.tanh, F.hardswish, F.hardsigmoid,
    F.hardtanh, F.softplus, F.selu, F.celu, F.dropout, F.dropout2d, torch.relu, torch.sigmoid, torch.tanh,
    torch.clone, torch.clamp, torch.exp, torch.abs, torch.sqrt, torch.square, operator.neg,
    "relu", "relu_", "sigmoid", "tanh", "contiguous", "clone", "detach", "float", "to", "type_as", "clamp", "clamp_",
    "exp", "abs", "sqrt", "square", "neg", "requires_grad_",
}  # fmt: skip
BINARY = {
    operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv,
    operator.itruediv, operator.pow, torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.maximum,
    torch.minimum, "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "pow",
}  # fmt: skip
SPATIAL = {F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.avg_pool2d, F.max_pool2d, F.interpolate}
REDUCTIONS = {torch.mean, torch.sum, torch.amax, "mean", "sum", "amax"}
# Ops that may run on the numbers as they are, unless a cut would make their sizes wrong (`splits`, `fixes`).
RESHAPES = {torch.flatten, torch.reshape, "flatten", "reshape", "view"}
MOVES = {
    torch.permute, torch.transpose, torch.unsqueeze, torch.squeeze, "permute", "transpose", "unsqueeze", "squeeze",
    "t",
}  # fmt: skip
SHAPE_READS = {"size", "dim"}


class Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


class Channels:
    """What runs on channel numbers leave behind: which numbers sit on which axis, and the layers that were run."""

    def __init__(self, model: nn.Module) -> None:
        self.numbers = Numbers()
        self.axes: dict[Axis, Tensor] = {}
        self.layers: dict[str, Layer] = {}
        self.norms: dict[str, int] = {}  # of norms over several channels: the dimension of the channels
        # A parameter that two modules share has one name.
        first: dict[int, str] = {}
        tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        self._name = {name: first.setdefault(id(tensor), name) for name, tensor in tensors}
        self._idle = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}

    def axis(self, tensor: str, dim: int) -> Axis:
        return Axis(self._name.get(tensor, tensor), dim)

    def ran(self, module: str) -> None:
        """A module and all in it."""
        self._idle = {name for name in self._idle if name != module and not name.startswith(f"{module}.")}

    def idle(self) -> list[str]:
        """Convolutions and linear layers that no run has met."""
        return sorted(self._idle)


class NumberRun(fx.Interpreter):
    """Executes a traced network on channel numbers and records in `found` which numbers sit on which axis.

    Layers that only this run meets are not `counted`: they cost nothing in evaluation.
    """

    def __init__(self, module: fx.GraphModule, found: Channels, counted: bool) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.extra_traceback = False
        self.numbers, self._found, self._counted = found.numbers, found, counted
        self._node = next(iter(module.graph.nodes))

    def run_node(self, n: fx.Node) -> Any:
        """
        Raises:
            InputError: the network cannot take such images; names the op.
        """
        self._node = n
        try:
            return super().run_node(n)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise InputError(f"cannot run {n.target} on such images ({first_line(error)})") from error

    # -- recording ---------------------------------------------------------------------------------------------

    def _record(self, tensor: str, dim: int, numbers: Tensor) -> None:
        """The numbers on an axis; a layer that runs twice must agree with itself."""
        axes, axis = self._found.axes, self._found.axis(tensor, dim)
        if axis in axes:
            self.numbers.unite(axes[axis], numbers)
        else:
            axes[axis] = numbers

    def _issue(self, tensor: str, dim: int, count: int) -> Tensor:
        axes, axis = self._found.axes, self._found.axis(tensor, dim)
        if axis not in axes:
            axes[axis] = self.numbers.fresh(count)
        return axes[axis]

    def _along(self, x: Tensor, dim: int, what: str) -> Tensor:
        """The numbers along one dimension, (C,); where they also change along another, all are frozen."""
        dim %= x.dim()
        if any(other != dim for other in varying(x)):
            self.numbers.freeze(x, f"{what} sees different channels at different places")
        for other in range(x.dim()):
            if other != dim:
                x = x.narrow(other, 0, 1)
        return x.flatten()

    def _freeze_all(self, values: Any, why: str) -> None:
        for value in pytree.tree_leaves(values):
            if is_numbers(value):
                self.numbers.freeze(value, why)

    @staticmethod
    def _spread(channels: Tensor, shape: torch.Size) -> Tensor:
        """(C,) -> (1, C, H, W), one number per channel."""
        return channels.view(1, -1, *[1] * (len(shape) - 2)).expand(shape)

    @staticmethod
    def _meta(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What shape `function` gives, without computing anything."""

        def to_meta(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return torch.empty(value.shape, device="meta", dtype=torch.int64 if value.dtype == INDEX else None)

        args, kwargs = pytree.tree_map(to_meta, (args, kwargs))
        return function(*args, **kwargs)

    def _unknown(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """An op nobody described: its inputs may not be cut, its outputs are no channels of ours."""
        target = self._node.target
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        self._freeze_all((args, kwargs), f"passes through {name!r}, which the channel graph does not know")
        out = self._meta(function, args, kwargs)

        def as_frozen(value: Any) -> Any:
            return torch.zeros(1, dtype=torch.int64).expand(value.shape) if isinstance(value, Tensor) else value

        return pytree.tree_map(as_frozen, out)

    # -- modules -----------------------------------------------------------------------------------------------

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module, name = self.fetch_attr(target), str(target)
        self._found.ran(name)
        x: Any = args[0] if args else None
        if isinstance(module, nn.Conv2d) and x.dim() == 4 and "weight" in module._parameters:
            return self._conv(name, module, x)
        if isinstance(module, nn.Linear) and "weight" in module._parameters:
            return self._linear(name, module, x)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            return self._norm(name, module, x, 1)
        if isinstance(module, nn.InstanceNorm2d | nn.GroupNorm) and module.affine:
            return self._norm(name, module, x, 1)
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine and len(module.normalized_shape) == 1:
            return self._layer_norm(name, module, x)
        if isinstance(module, nn.PReLU):
            if module.num_parameters > 1:
                self._record(f"{name}.weight", 0, self._along(x, 1, name))
            return x
        if isinstance(module, ELEMENTWISE_MODULES):
            return x
        if isinstance(module, SPATIAL_MODULES):
            return self._spatial(module, args, kwargs)
        if isinstance(module, ChannelPad):
            return self._channel_pad(name, module, x)
        if isinstance(module, ChannelSelection):
            return self._selection(name, module, x)
        if isinstance(module, nn.Flatten):
            return self._reshape(module, (x,), {}, literals=())
        own = dict(module.named_parameters()) | dict(module.named_buffers())

        def bare(*inputs: Any, **named: Any) -> Any:
            return torch.func.functional_call(module, {k: v.to("meta") for k, v in own.items()}, inputs, named)

        return self._unknown(bare, args, kwargs)

    def _conv(self, name: str, conv: nn.Conv2d, x: Tensor) -> Tensor:
        inputs = self._along(x, 1, name)
        outputs = self._issue(f"{name}.weight", 0, conv.out_channels)
        in_axis: Axis | None = self._found.axis(f"{name}.weight", 1)
        per_group = conv.in_channels // conv.groups
        if conv.groups == 1:
            self._record(f"{name}.weight", 1, inputs)
        elif per_group == 1:  # depthwise: output j belongs to input j // multiplier, and whole groups may go
            self.numbers.unite(inputs[:, None], outputs.view(conv.groups, -1))
            in_axis = None
        else:  # every conv group must keep as many channels: tie the same place of all groups
            by_group = inputs.view(conv.groups, per_group)
            self.numbers.unite(by_group, by_group[:1])
            self._record(f"{name}.weight", 1, by_group[0])
            by_group = outputs.view(conv.groups, -1)
            self.numbers.unite(by_group, by_group[:1])
        if conv.bias is not None:
            self._record(f"{name}.bias", 0, outputs)
        shape = self._meta(
            lambda image, weight: F.conv2d(
                image, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups
            ),
            (x, conv.weight),
            {},
        ).shape
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        uses = shape[2] * shape[3]
        out_axis = self._found.axis(f"{name}.weight", 0)
        self._layer(Layer(name, "conv", out_axis, in_axis, uses, kernel, stride, conv.groups))
        return self._spread(outputs, shape)

    def _linear(self, name: str, linear: nn.Linear, x: Tensor) -> Tensor:
        self._record(f"{name}.weight", 1, self._along(x, -1, name))
        outputs = self._issue(f"{name}.weight", 0, linear.out_features)
        if linear.bias is not None:
            self._record(f"{name}.bias", 0, outputs)
        uses = x[..., 0].numel()
        axes = self._found.axis(f"{name}.weight", 0), self._found.axis(f"{name}.weight", 1)
        self._layer(Layer(name, "linear", *axes, uses, 1, 0, 1))
        return outputs.expand(*x.shape[:-1], -1)

    def _layer(self, layer: Layer) -> None:
        before = self._found.layers.get(layer.name)
        uses = before.macs_per_weight if before else 0  # more than 0: runs twice
        if self._counted:
            uses += layer.macs_per_weight
        self._found.layers[layer.name] = replace(layer, macs_per_weight=uses)

    def _norm(self, name: str, norm: nn.Module, x: Tensor, dim: int) -> Tensor:
        channels = self._along(x, dim, name)
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            if getattr(norm, tensor, None) is not None:
                self._record(f"{name}.{tensor}", 0, channels)
        if isinstance(norm, nn.GroupNorm) and norm.num_channels > norm.num_groups:
            by_group = channels.view(norm.num_groups, -1)  # every norm group must keep as many channels
            self.numbers.unite(by_group, by_group[:1])
        if isinstance(norm, nn.GroupNorm | nn.LayerNorm):
            self._found.norms[name] = dim
        return x

    def _layer_norm(self, name: str, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        """Over the last dimension; kinds of others that put the channels of (B, C, H, W) last themselves too."""
        own_kind = type(norm) is not nn.LayerNorm and x.dim() == 4 and varying(x) == [1]
        if own_kind and x.shape[1] == norm.normalized_shape[0]:
            return self._norm(name, norm, x, 1)
        return self._norm(name, norm, x, x.dim() - 1)

    def _spatial(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        channels = self._along(args[0], 1, str(self._node.target))
        return self._spread(channels, self._meta(function, args, kwargs).shape)

    def _channel_pad(self, name: str, pad: ChannelPad, x: Tensor) -> Tensor:
        """Padded channels are fresh ones; surgery lowers `before` and `after` by what goes."""
        before = self._issue(f"{name}.before", 0, pad.before)
        after = self._issue(f"{name}.after", 0, pad.after)
        channels = torch.cat([before, self._along(x, 1, name), after])
        return self._spread(channels, torch.Size([x.shape[0], len(channels), *x.shape[2:]]))

    def _selection(self, name: str, selection: ChannelSelection, x: Tensor) -> Tensor:
        """What is selected from keeps its width; what is selected is a choice of its own for those who read it."""
        self._freeze_all(x, f"is selected from by {name}")
        return self._spread(
            self._issue(f"{name}.indices", 0, len(selection.indices)),
            torch.Size([x.shape[0], len(selection.indices), *x.shape[2:]]),
        )

    # -- functions and methods ---------------------------------------------------------------------------------

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._call(target, target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        def method(owner: Any, *rest: Any, **named: Any) -> Any:
            return getattr(owner, target)(*rest, **named)

        return self._call(target, method, args, kwargs)

    def _call(self, op: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        named = [kwargs[name] for name in ("input", "other") if name in kwargs]
        if named:  # torch.add(x, other=y), torch.mean(input=x)
            args = (*named, *args) if "input" in kwargs else (*args, *named)
            kwargs = {name: value for name, value in kwargs.items() if name not in ("input", "other")}
        inputs = [value for value in pytree.tree_leaves((args, kwargs)) if is_numbers(value)]
        if not inputs or op in SHAPE_READS or op is getattr:
            return function(*args, **kwargs)
        if isinstance(op, type) and issubclass(op, tuple):  # several results under names
            return op(*args, **kwargs)
        if op in ELEMENTWISE or getattr(op, "__name__", "") == "stochastic_depth":
            return args[0]
        if op in BINARY:
            return self._binary(args)
        if op in SPATIAL:
            return self._spatial(function, args, kwargs)
        if op in REDUCTIONS:
            return self._reduce(function, args, kwargs)
        if op in (torch.cat, torch.concat):
            return function(*args, **kwargs)
        if op in (torch.chunk, "chunk", torch.split, "split"):
            return self._chunk(op, function, args, kwargs)
        if op == "expand":
            return self._expand(function, args, kwargs)
        if op == "expand_as":
            return self._binary((args[0], args[1]))
        if op is F.pad and len(args[1]) <= 2 * (args[0].dim() - 2):
            return self._spatial(function, args, kwargs)
        if op in RESHAPES:
            sizes = [a for a in pytree.tree_leaves(self._node.args[1:]) if isinstance(a, int)]
            return self._reshape(function, args, kwargs, () if op in ("flatten", torch.flatten) else sizes)
        if op is operator.getitem and isinstance(args[0], Tensor):
            return self._getitem(args[0], args[1])
        if op in MOVES or op is operator.getitem:
            return function(*args, **kwargs)
        return self._unknown(function, args, kwargs)

    def _binary(self, args: Any) -> Any:
        a, b = args[0], args[1]
        if not (is_numbers(a) and is_numbers(b)):
            x, other = (a, b) if is_numbers(a) else (b, a)
            computed = isinstance(other, int | float) and other not in self._node.args
            if computed:  # from a size, perhaps the number of channels
                self.numbers.freeze(x, "is scaled by a computed number, which a cut may change")
            return x
        self.numbers.unite(compact(a), compact(b))
        shape = torch.broadcast_shapes(a.shape, b.shape)
        wider = a if compact(a).numel() >= compact(b).numel() else b
        expanded: Tensor = wider.expand(shape)
        return expanded

    def _reduce(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        x: Tensor = args[0]
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        over = range(x.dim()) if dims is None else [d % x.dim() for d in ([dims] if isinstance(dims, int) else dims)]
        if set(over) & set(varying(x)):
            return self._unknown(function, args, kwargs)  # type: ignore[no-any-return]
        keep = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
        for dim in sorted(over, reverse=True):
            x = x.narrow(dim, 0, 1) if keep else x.select(dim, 0)
        return x

    def _chunk(self, op: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Equal parts stay equal; a written part size would be wrong after a cut."""
        parts = function(*args, **kwargs)
        dim = kwargs.get("dim", args[2] if len(args) > 2 else 0) % args[0].dim()
        if dim in varying(args[0]):
            written = op in (torch.split, "split") and not isinstance(self._node.args[1], fx.Node)
            if written or len({part.shape for part in parts}) > 1:
                return self._unknown(function, args, kwargs)
            for part in parts[1:]:  # all parts must keep as many channels
                self.numbers.unite(compact(parts[0]), compact(part))
        return parts

    def _getitem(self, x: Tensor, index: Any) -> Any:
        """Slices in space keep the channels; slices of channels have literal bounds that a cut makes stale."""
        places = index if isinstance(index, tuple) else (index,)
        if all(isinstance(place, slice | int | type(None) | type(Ellipsis)) for place in places):
            dims_named = sum(isinstance(place, slice | int) for place in places)
            dim, touched = 0, []
            for place in places:
                if place is Ellipsis:
                    dim += x.dim() - dims_named
                elif place is not None:
                    if place != slice(None):
                        touched.append(dim)
                    dim += 1
            if not set(touched) & set(varying(x)):
                return x[index]
        return self._unknown(operator.getitem, (x, index), {})

    def _expand(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Sizes may be written out where there are no channels."""
        x, sizes = args[0], pytree.tree_leaves(self._node.args[1:])
        shift = len(sizes) - x.dim()
        if any(isinstance(sizes[dim + shift], int) and sizes[dim + shift] != -1 for dim in varying(x)):
            return self._unknown(function, args, kwargs)
        return function(*args, **kwargs)

    def _reshape(self, function: Callable[..., Any], args: Any, kwargs: Any, literals: Sequence[int]) -> Any:
        x = args[0]
        out = self._meta(function, args, kwargs)
        if splits(x.shape, out.shape, varying(x)) or fixes(x.shape, out.shape, varying(x), literals):
            return self._unknown(function, args, kwargs)
        return x.reshape(out.shape)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A parameter used directly: numbers along its only long axis, else frozen."""
        tensor = self.fetch_attr(target)
        if not isinstance(tensor, Tensor) or tensor.dim() == 0:
            return tensor
        self._found.ran(str(target).rpartition(".")[0])
        long = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        if len(long) != 1 or not isinstance(tensor, nn.Parameter):
            kind = INDEX if tensor.dtype == torch.int64 else torch.int64
            return torch.zeros(1, dtype=kind).expand(tensor.shape)
        numbers = self._issue(str(target), long[0], tensor.shape[long[0]])
        return numbers.view([-1 if dim == long[0] else 1 for dim in range(tensor.dim())])

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        self._freeze_all(args, OUTPUT)
        return args[0]
