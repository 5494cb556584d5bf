"""Runs a network on channel ids, operation by operation: what every operation does to channels is defined here.

To add one: enter its module type or function in one of the tables, or write a method beside `_conv` that records
which ids are on which axis of which tensor. `op` is what torch.fx calls: a function, or the name of a tensor method.
"""

import copy
import operator
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from compress.errors import InputError, first_line
from compress.graph.ids import INTEGER_STAND_IN, ChannelIds, channel_dims, ids_along, is_ids, reshaped_dim, unexpanded
from compress.graph.symbolic_size import (
    ChannelCount,
    SymbolicShape,
    counts_in,
    flat_sizes,
    slice_bounds,
    symbolic_shape,
    without_counts,
)
from compress.graph.types import Axis, Layer
from compress.models.layers import ChannelPad, ChannelSelection, EmptyConv

OUTPUT = "is the network's output"
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)  # normalise over several channels at once
LEAVES = (ChannelPad, ChannelSelection, EmptyConv, *NORMS)  # never traced into, subclasses of users included
CHANNELWISE_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d)  # each channel by itself

ELEMENTWISE_MODULES = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid,
    nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
    nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU, nn.Softsign, nn.LogSigmoid, nn.Hardshrink, nn.Softshrink,
)  # fmt: skip
SPATIAL_MODULES = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.Upsample, nn.ZeroPad2d,
    nn.ReflectionPad2d, nn.ReplicationPad2d,
)  # fmt: skip
ELEMENTWISE = {
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.sigmoid, F.tanh, F.hardswish, F.hardsigmoid,
    F.hardtanh, F.softplus, F.selu, F.celu, F.dropout, F.dropout2d, torch.relu, torch.relu_, torch.sigmoid,
    torch.tanh, torch.clone, torch.clamp, torch.exp, torch.log, torch.abs, torch.sqrt, torch.rsqrt, torch.square,
    torch.erf, torch.logical_not, operator.neg, operator.invert, torch.ones_like, torch.zeros_like,
    torch.rand_like, torch.empty_like,
    "relu", "relu_", "sigmoid", "sigmoid_", "tanh", "contiguous", "clone", "detach", "float", "to", "type", "type_as",
    "clamp", "clamp_", "exp", "log", "abs", "sqrt", "rsqrt", "square", "neg", "erf", "requires_grad_", "bernoulli_",
    "uniform_", "normal_", "floor_", "floor",
}  # fmt: skip
# Elementwise operations of two or more operands, with broadcasting.
BROADCASTING = {
    operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv,
    operator.itruediv, operator.pow, operator.gt, operator.ge, operator.lt, operator.le, operator.eq, operator.ne,
    torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.maximum, torch.minimum, torch.where, torch.lerp,
    torch.gt, torch.ge, torch.lt, torch.le, torch.logical_and, torch.logical_or, torch.addcmul,
    "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_",
    "pow", "gt", "ge", "lt", "le", "where", "masked_fill", "masked_fill_", "lerp", "expand_as",
}  # fmt: skip
SPATIAL = {
    F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.avg_pool2d, F.max_pool2d, F.lp_pool2d, F.interpolate,
    torch.max_pool2d, torch.adaptive_avg_pool2d if hasattr(torch, "adaptive_avg_pool2d") else F.adaptive_avg_pool2d,
}  # fmt: skip
REDUCTIONS = {
    torch.mean, torch.sum, torch.amax, torch.amin, torch.std, torch.var, torch.prod, torch.logsumexp, torch.norm,
    "mean", "sum", "amax", "amin", "std", "var", "prod", "logsumexp", "norm",
}  # fmt: skip
SOFTMAXES = {F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, "softmax", "log_softmax"}
# Functions -> the module that may own the weight they are called with.
LAYER_FUNCTIONS: dict[Any, type[nn.Conv2d] | type[nn.Linear]] = {
    F.conv2d: nn.Conv2d, torch.conv2d: nn.Conv2d, F.linear: nn.Linear,
}  # fmt: skip
EXTREMES = {torch.max, torch.min, "max", "min"}  # of two tensors, or along a dimension, with indices
RESHAPES = {torch.reshape, "reshape", "view"}
FLATTENS = {torch.flatten, "flatten"}
REARRANGEMENTS = {
    torch.permute, torch.transpose, torch.swapaxes, torch.unsqueeze, torch.squeeze, torch.stack, torch.movedim,
    "permute", "transpose", "swapaxes", "unsqueeze", "squeeze", "movedim", "t",
}  # fmt: skip
SQUEEZES = {torch.squeeze, "squeeze"}
CREATIONS = {"new_empty", "new_zeros", "new_ones", "new_full"}


class Extreme(NamedTuple):
    """The result of `max` or `min` along a dimension, as torch names its fields."""

    values: Tensor
    indices: Tensor


class Operand(NamedTuple):
    """One operand of an elementwise operation."""

    ids: Tensor
    is_parameter: bool  # or a buffer of the network, used directly


class Tracer(fx.Tracer):
    """torch.fx's tracer with our leaf modules. `proxy_buffers`: buffers are nodes of the graph, not constants (which
    fails where control flow depends on one)."""

    def __init__(self, proxy_buffers: bool) -> None:
        super().__init__()
        self.proxy_buffer_attributes = proxy_buffers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or _branches_on_sizes(m) or super().is_leaf_module(m, module_qualified_name)


def _branches_on_sizes(module: nn.Module) -> bool:
    """Whether torch.fx cannot trace it: a layer of torchvision, known by name, as torchvision is slow to import."""
    return type(module).__module__ == "torchvision.ops.deform_conv"


def frozen_stand_in(shape: Any, dtype: torch.dtype | None = None) -> Tensor:
    """An activation of this shape with frozen channels. `dtype` is that of the real one, None for the network's; an
    integer tensor (indices, a mask) becomes one of `INTEGER_STAND_IN`, of which only the shape is used."""
    if dtype in (torch.int64, torch.int32, torch.uint8):
        return torch.zeros((), dtype=INTEGER_STAND_IN).expand(shape)
    stand_in = torch.zeros((), dtype=torch.int64).expand(shape)
    stand_in.stands_for = dtype  # type: ignore[attr-defined]
    return stand_in


class IdRecord:
    """What the runs of one network record: the ids on every axis of every tensor, and the layers that were run."""

    def __init__(self, model: nn.Module) -> None:
        self.ids = ChannelIds()
        self.axes: dict[Axis, Tensor] = {}
        self.layers: dict[str, Layer] = {}
        self.norms: dict[str, tuple[int, Axis]] = {}
        self.scaled_by: dict[str, str] = {}
        # A tensor that several modules share goes by its first name.
        first: dict[int, str] = {}
        tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        self._name = {name: first.setdefault(id(tensor), name) for name, tensor in tensors}
        self.dtype = next((t.dtype for _, t in tensors if t.is_floating_point()), torch.float32)
        self._idle = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}

    def axis(self, tensor: str, dim: int) -> Axis:
        return Axis(self._name.get(tensor, tensor), dim)

    def has(self, tensor: str) -> bool:
        """Whether the network has this parameter or buffer; torch.fx adds constants of its own."""
        return tensor in self._name

    def ran(self, module: str, with_parts: bool = True) -> None:
        """Mark a module as run, and with it all modules inside."""
        parts = f"{module}." if with_parts else "\0"
        self._idle = {name for name in self._idle if name != module and not name.startswith(parts)}

    def idle(self) -> list[str]:
        """Convolutions and linear layers that no run has called."""
        return sorted(self._idle)


class IdInterpreter(fx.Interpreter):
    """Executes a traced network on channel ids and records in `found` which ids are on which axis.

    `counted` is False for the run in train mode: layers that only it calls get 0 `macs_per_weight`.
    """

    def __init__(self, model: nn.Module, traced: fx.GraphModule, found: IdRecord, counted: bool) -> None:
        super().__init__(traced, garbage_collect_values=True)
        self._model = model
        self.extra_traceback = False
        self.ids, self._found, self._counted = found.ids, found, counted
        self._node = next(iter(traced.graph.nodes))

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

    def _record(self, tensor: str, dim: int, ids: Tensor) -> None:
        """Put ids (C,) on an axis. If it has some already (a layer that runs twice), the two are united."""
        axes, axis = self._found.axes, self._found.axis(tensor, dim)
        if axis in axes:
            self.ids.union(axes[axis], ids)
        else:
            axes[axis] = ids

    def _issue(self, tensor: str, dim: int, count: int) -> Tensor:
        """The ids of an axis (count,), fresh ones if it has none yet."""
        axes, axis = self._found.axes, self._found.axis(tensor, dim)
        if axis not in axes:
            axes[axis] = self.ids.fresh(count)
        return axes[axis]

    def _channels_along(self, x: Tensor, dim: int, what: str) -> Tensor:
        """The ids along one dimension, (C,). Where they change along another dimension too, all are frozen; `what`
        names the layer that needs them on one."""
        dim %= x.dim()
        if any(other != dim for other in channel_dims(x)):
            self.ids.freeze(x, f"{what} sees different channels at different places")
        return ids_along(x, dim)

    def _freeze_all(self, values: Any, why: str) -> None:
        for value in pytree.tree_leaves(values):
            if is_ids(value):
                self.ids.freeze(value, why)

    @staticmethod
    def _spread(channels: Tensor, shape: torch.Size) -> Tensor:
        """Ids (C,) expanded to an activation: `shape` is (B, C, ...)."""
        return channels.view(1, -1, *[1] * (len(shape) - 2)).expand(shape)

    def _meta(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The result of `function` on the meta device: shapes and dtypes, nothing is computed."""

        def to_meta(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            integer = value.dtype == INTEGER_STAND_IN
            dtype = torch.int64 if integer else getattr(value, "stands_for", None) or self._found.dtype
            return torch.empty(value.shape, device="meta", dtype=dtype)

        args, kwargs = pytree.tree_map(to_meta, without_counts((args, kwargs)))
        return function(*args, **kwargs)

    def _unknown(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """An operation that is in none of the tables: its inputs are frozen, and so are its outputs."""
        target = self._node.target
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        self._freeze_all((args, kwargs), f"passes through {name!r}, which the channel graph does not know")
        self._freeze_counts((args, kwargs))
        out = self._meta(function, args, kwargs)
        return pytree.tree_map(lambda v: frozen_stand_in(v.shape, v.dtype) if isinstance(v, Tensor) else v, out)

    def _freeze_counts(self, values: Any) -> None:
        """Freeze the channels of every `ChannelCount` in `values`: it is used in a way that a cut would falsify."""
        for count in counts_in(values):
            self.ids.freeze(count.channels, "their number is computed with, and a cut would change it")

    # -- modules -----------------------------------------------------------------------------------------------

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module, name = self.fetch_attr(target), str(target)
        self._found.ran(name)
        x: Any = args[0] if args else None
        if _is_patched(module):
            return self._opaque(name, _without_forward_hooks(module), args, kwargs)
        if isinstance(module, nn.Conv2d) and x.dim() == 4 and "weight" in module._parameters:
            return self._conv(name, module, x)
        if isinstance(module, nn.Linear) and "weight" in module._parameters:
            return self._linear(name, module, x)
        if isinstance(module, CHANNELWISE_NORMS):
            return self._norm(name, module, x, 1, "num_features")
        if isinstance(module, nn.GroupNorm):
            return self._norm(name, module, x, 1, "num_channels")
        if isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1:
            return self._layer_norm(name, module, x)
        if isinstance(module, nn.PReLU):
            if module.num_parameters > 1:
                self._record(f"{name}.weight", 0, self._channels_along(x, 1, name))
            return x
        if isinstance(module, ELEMENTWISE_MODULES):
            return x
        if isinstance(module, SPATIAL_MODULES):
            return self._spatial(module, args, kwargs)
        if isinstance(module, ChannelPad):
            return self._channel_pad(name, module, x)
        if isinstance(module, ChannelSelection):
            return self._selection(name, module, x)
        if isinstance(module, EmptyConv):
            return self._empty_conv(name, module, x)
        if isinstance(module, nn.Flatten):
            return self._reshape(module, (x,), {}, None)
        return self._opaque(name, module, args, kwargs)

    def _opaque(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A module that is in none of the tables. Its tensors are frozen too: other layers may share them."""
        own = dict(module.named_parameters()) | dict(module.named_buffers())
        for tensor, value in own.items():
            self._freeze_tensor(f"{name}.{tensor}", value, f"shares weights with {name!r}")

        def bare(*inputs: Any, **named: Any) -> Any:
            on_meta = {k: v.to("meta") for k, v in own.items()}
            return torch.func.functional_call(module, on_meta, inputs, named)

        return self._unknown(bare, args, kwargs)

    def _freeze_tensor(self, name: str, tensor: Tensor, why: str) -> None:
        for dim, size in enumerate(tensor.shape):
            self.ids.freeze(self._issue(name, dim, size), why)

    def _conv(self, name: str, conv: nn.Conv2d, x: Tensor, shape: torch.Size | None = None) -> Tensor:
        """`shape` (B, C, H, W) of the outputs: of `F.conv2d` with the layer's weight; None: the layer is called."""
        inputs = self._channels_along(x, 1, name)
        outputs = self._issue(f"{name}.weight", 0, conv.out_channels)
        in_axis: Axis | None = self._found.axis(f"{name}.weight", 1)
        per_group = conv.in_channels // conv.groups
        if conv.groups == 1:
            self._record(f"{name}.weight", 1, inputs)
        elif per_group == 1:  # depthwise: output j belongs to input j // multiplier; whole conv groups can be cut
            self.ids.union(inputs[:, None], outputs.view(conv.groups, -1))
            in_axis = None
        else:  # all conv groups must keep equally many channels: couple channel i of every conv group
            by_group = inputs.view(conv.groups, per_group)
            self.ids.union(by_group, by_group[:1])
            self._record(f"{name}.weight", 1, by_group[0])
            by_group = outputs.view(conv.groups, -1)
            self.ids.union(by_group, by_group[:1])
        if conv.bias is not None:
            self._record(f"{name}.bias", 0, outputs)
        if shape is None:
            how: Any = conv.stride, conv.padding, conv.dilation, conv.groups
            shape = self._meta(lambda image, weight: F.conv2d(image, weight, None, *how), (x, conv.weight), {}).shape
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        uses = shape[0] * shape[2] * shape[3]
        out_axis = self._found.axis(f"{name}.weight", 0)
        self._layer(Layer(name, "conv", out_axis, in_axis, uses, kernel, stride, conv.groups))
        return self._spread(outputs, shape)

    def _linear(self, name: str, linear: nn.Linear, x: Tensor) -> Tensor:
        self._record(f"{name}.weight", 1, self._channels_along(x, -1, name))
        outputs = self._issue(f"{name}.weight", 0, linear.out_features)
        if linear.bias is not None:
            self._record(f"{name}.bias", 0, outputs)
        uses = x[..., 0].numel()
        axes = self._found.axis(f"{name}.weight", 0), self._found.axis(f"{name}.weight", 1)
        self._layer(Layer(name, "linear", *axes, uses, 1, 0, 1))
        return outputs.expand(*x.shape[:-1], -1)

    def _layer(self, layer: Layer) -> None:
        before = self._found.layers.get(layer.name)
        uses = before.macs_per_weight if before else 0  # of earlier calls of the same layer
        if self._counted:
            uses += layer.macs_per_weight
        self._found.layers[layer.name] = replace(layer, macs_per_weight=uses)

    def _norm(self, name: str, norm: nn.Module, x: Tensor, dim: int, attribute: str) -> Tensor:
        """A norm over dimension `dim`. One without tensors still has its number of channels as an int, `attribute`,
        which surgery lowers: that is recorded as its axis."""
        channels = self._channels_along(x, dim, name)
        tensors = [t for t in ("weight", "bias", "running_mean", "running_var") if getattr(norm, t, None) is not None]
        for tensor in tensors or [attribute]:
            self._record(f"{name}.{tensor}", 0, channels)
        if isinstance(norm, nn.GroupNorm) and norm.num_channels > norm.num_groups:
            by_group = channels.view(norm.num_groups, -1)  # all norm groups must keep equally many channels
            self.ids.union(by_group, by_group[:1])
        if isinstance(norm, NORMS):
            last = isinstance(norm, nn.LayerNorm | nn.RMSNorm) and dim == x.dim() - 1
            axis = self._found.axis(f"{name}.{(tensors or [attribute])[0]}", 0)
            self._found.norms[name] = -1 if last else dim, axis
        return x

    def _layer_norm(self, name: str, norm: nn.LayerNorm | nn.RMSNorm, x: Tensor) -> Tensor:
        """Over the last dimension; over dimension 1 of (B, C, H, W) for subclasses that permute it themselves, like
        torchvision's LayerNorm2d."""
        own_forward = type(norm).forward not in (nn.LayerNorm.forward, nn.RMSNorm.forward) and channel_dims(x) == [1]
        dim = 1 if own_forward and x.dim() == 4 and x.shape[1] == norm.normalized_shape[0] else x.dim() - 1
        return self._norm(name, norm, x, dim, "normalized_shape")

    def _spatial(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Pooling, resizing, padding in space: (B, C, H, W) -> (B, C, H', W')."""
        out = self._meta(function, args, kwargs)
        if not isinstance(out, Tensor) or args[0].dim() != 4:
            return self._unknown(function, args, kwargs)
        return self._spread(self._channels_along(args[0], 1, str(self._node.target)), out.shape)

    def _channel_pad(self, name: str, pad: ChannelPad, x: Tensor) -> Tensor:
        """Padded channels get fresh ids; surgery lowers the ints `before` and `after` by the channels it cuts."""
        before = self._issue(f"{name}.before", 0, pad.before)
        after = self._issue(f"{name}.after", 0, pad.after)
        channels = torch.cat([before, self._channels_along(x, 1, name), after])
        return self._spread(channels, torch.Size([x.shape[0], len(channels), *x.shape[2:]]))

    def _selection(self, name: str, selection: ChannelSelection, x: Tensor) -> Tensor:
        """Input channels are frozen; the selected ones get fresh ids, so that each selection is cut by itself."""
        before = self._node.args[0]
        is_module = isinstance(before, fx.Node) and before.op == "call_module"
        if is_module and isinstance(self.fetch_attr(str(before.target)), CHANNELWISE_NORMS):
            self._found.scaled_by[f"{name}.indices"] = str(before.target)
        self._freeze_all(x, f"is selected from by {name}")
        return self._spread(
            self._issue(f"{name}.indices", 0, len(selection.indices)),
            torch.Size([x.shape[0], len(selection.indices), *x.shape[2:]]),
        )

    def _empty_conv(self, name: str, conv: EmptyConv, x: Tensor) -> Tensor:
        """Outputs get fresh ids; no input is read. Surgery lowers the int `out_channels` by the channels it cuts."""
        outputs = self._issue(f"{name}.out_channels", 0, conv.out_channels)
        if conv.bias is not None:
            self._record(f"{name}.bias", 0, outputs)
        return self._spread(outputs, torch.Size([x.shape[0], len(outputs), *conv.size(x)]))

    # -- functions and methods ---------------------------------------------------------------------------------

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._call(target, target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        def method(owner: Any, *rest: Any, **named: Any) -> Any:
            return getattr(owner, target)(*rest, **named)

        return self._call(target, method, args, kwargs)

    def _call(self, op: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A function or method: brings its arguments into one form, and dispatches on `op`."""
        named = [kwargs[name] for name in ("input", "other") if name in kwargs]
        if named:  # torch.add(x, other=y), torch.mean(input=x)
            args = (*named, *args) if "input" in kwargs else (*args, *named)
            kwargs = {name: value for name, value in kwargs.items() if name not in ("input", "other")}
        kwargs = {{"axis": "dim", "keepdims": "keepdim"}.get(name, name): value for name, value in kwargs.items()}
        if not [value for value in pytree.tree_leaves((args, kwargs)) if is_ids(value)]:
            return self._on_sizes(op, function, args, kwargs)
        if op in ("size", getattr, "dim", "numel"):
            return self._attribute(op, function, args, kwargs)
        if isinstance(op, type) and issubclass(op, tuple):  # a namedtuple of results
            return op(*args, **kwargs)
        if op in RESHAPES:
            return self._reshape(function, args, kwargs, flat_sizes(args[1:]) or flat_sizes(kwargs.values()))
        if op == "expand":
            return self._expand(args[0], flat_sizes(args[1:]))
        if op is operator.getitem and isinstance(args[0], Tensor):
            return self._getitem(args[0], args[1])
        if op in (torch.chunk, "chunk", torch.split, "split"):
            return self._chunk(op, function, args, kwargs)
        self._freeze_counts((args, kwargs))
        args, kwargs = without_counts((args, kwargs))
        if (layer := self._layer_behind(self._node)) is not None:
            name, module = layer
            self._found.ran(name)
            if isinstance(module, nn.Linear):
                return self._linear(name, module, args[0])
            return self._conv(name, module, args[0], self._meta(function, args, kwargs).shape)
        return self._known(op, function, args, kwargs)

    def _layer_behind(self, node: fx.Node) -> tuple[str, nn.Conv2d | nn.Linear] | None:
        """The layer whose weight `F.conv2d` or `F.linear` is called with: a module with a forward of its own."""
        weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
        kind = LAYER_FUNCTIONS.get(node.target)
        if kind is None or not (isinstance(weight, fx.Node) and weight.op == "get_attr"):
            return None
        name, _, tensor = str(weight.target).rpartition(".")
        module = self._model.get_submodule(name)
        if not isinstance(module, kind) or tensor != "weight" or tensor not in module._parameters:
            return None
        return name, module

    def _known(self, op: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Look `op` up in the tables."""
        x = args[0]
        if op in BROADCASTING:
            return self._broadcast([*args, *kwargs.values()])
        if op in EXTREMES:
            return self._extreme(function, args, kwargs)
        if op in ELEMENTWISE or getattr(op, "__name__", "") == "stochastic_depth":
            others = [value for value in pytree.tree_leaves((args[1:], kwargs)) if is_ids(value)]
            return self._unknown(function, args, kwargs) if others or not is_ids(x) else x
        if op in CREATIONS:
            return frozen_stand_in(flat_sizes(args[1:] if op != "new_full" else args[1:2]))
        if op in (F.batch_norm, torch.batch_norm):
            return self._functional_batch_norm(args, kwargs)
        if op in SPATIAL or (op is F.pad and len(args[1]) <= 2 * (x.dim() - 2)):
            return self._spatial(function, args, kwargs)
        if op in REDUCTIONS:
            return self._reduce(function, args, kwargs, 2 if op in (torch.norm, "norm") else 1)
        if op in SOFTMAXES:
            return self._softmax(function, args, kwargs)
        if op in (torch.cat, torch.concat):
            return function(*args, **kwargs)
        if op in FLATTENS:
            return self._reshape(function, args, kwargs, None)
        if op in SQUEEZES and set(channel_dims(x)) & set(_dims(x, args, kwargs)):
            return self._unknown(function, args, kwargs)  # a single channel would vanish
        if op in REARRANGEMENTS or op is operator.getitem:
            return function(*args, **kwargs)
        return self._unknown(function, args, kwargs)

    def _on_sizes(self, op: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """An operation without activations among its arguments. Products and exact quotients of sizes stay
        `ChannelCount`s; any other arithmetic makes plain ints and freezes the channels that were counted."""
        counts = counts_in((args, kwargs))
        if not counts or op is operator.getitem or (op is operator.add and isinstance(args[0], tuple)):
            result = function(*args, **kwargs)
            result = SymbolicShape(result) if counts and type(result) is tuple else result
        else:
            result = self._scaled(op, args) if op in (operator.mul, operator.floordiv) else None
            if op == "numel":
                result = args[0].numel()
            if not isinstance(result, ChannelCount):
                self._freeze_counts((args, kwargs))
                args, kwargs = without_counts((args, kwargs))
                result = function(*args, **kwargs)
        return frozen_stand_in(result.shape, result.dtype) if type(result) is Tensor and result.dim() > 0 else result

    @staticmethod
    def _scaled(op: Any, args: Any) -> ChannelCount | None:
        """A `ChannelCount` times or divided by a literal int >= 1; None for anything else."""
        a, b = args
        if op is operator.mul and isinstance(b, ChannelCount):
            a, b = b, a
        if not isinstance(a, ChannelCount) or isinstance(b, ChannelCount) or type(b) is not int or b < 1:
            return None
        return a.times(Fraction(b) if op is operator.mul else Fraction(1, b))

    def _attribute(self, op: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Size, shape, dtype and other attributes of an activation."""
        x = args[0]
        if op == "numel":
            return symbolic_shape(x).numel()
        if op == "size" or (op is getattr and args[1] == "shape"):
            dim = (args[1] if len(args) > 1 else kwargs.get("dim")) if op == "size" else None
            return symbolic_shape(x) if dim is None else symbolic_shape(x)[dim]
        if op is getattr and args[1] == "dtype":
            return self._found.dtype
        return function(*args, **kwargs)

    def _broadcast(self, values: list[Any]) -> Tensor:
        """An elementwise operation of several operands. Where one has a single element along a dimension, the result
        has the channels of the others there."""
        nodes = [*self._node.args, *self._node.kwargs.values()]
        operands: list[Operand] = []
        for value, node in zip(values, nodes, strict=False):
            if isinstance(value, Tensor) and value.dtype == INTEGER_STAND_IN:  # as many elements as ever: frozen
                value = frozen_stand_in(value.shape)
            if is_ids(value):
                operands.append(Operand(value, isinstance(node, fx.Node) and node.op == "get_attr"))
        result = operands[0]
        for other in operands[1:]:
            ids = self._broadcast_pair(result, other)
            result = Operand(ids, result.is_parameter and other.is_parameter)
        return result.ids

    def _broadcast_pair(self, one: Operand, two: Operand) -> Tensor:
        """Ids of the result of two operands. Per dimension, by where their channels lie:

        - channels on channels: united;
        - channels on one element: they pass;
        - channels on several elements that are no channels (a literal size): frozen, a cut would not fit them;
        - channels of one across channels of the other on another dimension, (C, 1) with (1, D): both frozen. If one
          is a parameter (a scale per head, an embedding per position), only its axis is: it is not one of channels.
        """
        shape = torch.broadcast_shapes(one.ids.shape, two.ids.shape)
        a, b = (x.ids.view(*[1] * (len(shape) - x.ids.dim()), *x.ids.shape) for x in (one, two))
        dims_a, dims_b = channel_dims(a), channel_dims(b)
        for x, dims, other, other_dims in ((a, dims_a, b, dims_b), (b, dims_b, a, dims_a)):
            if any(other.shape[dim] > 1 and dim not in other_dims for dim in dims):
                self.ids.freeze(x, "is combined with something that has a fixed number of channels")
        if not (dims_a and dims_b):
            return (a if dims_a else b).expand(shape)
        if set(dims_a) & set(dims_b):
            self.ids.union(unexpanded(a), unexpanded(b))
            wider: Tensor = a if unexpanded(a).numel() >= unexpanded(b).numel() else b
            return wider.expand(shape)
        if two.is_parameter:
            result, frozen = a, [b]
        elif one.is_parameter:
            result, frozen = b, [a]
        else:
            result, frozen = a, [a, b]
        for x in frozen:
            self.ids.freeze(x, "is combined with channels on another dimension")
        return result.expand(shape)

    def _functional_batch_norm(self, args: Any, kwargs: Any) -> Tensor:
        """Running statistics, weight and bias have the channels of dimension 1."""
        x: Tensor = args[0]
        channels = self._channels_along(x, 1, "batch_norm")
        for tensor in pytree.tree_leaves((args[1:], kwargs)):
            if is_ids(tensor):
                self.ids.union(tensor, channels)
        return x

    def _extreme(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """`max` and `min`: of two tensors elementwise, or along a dimension that is none of channels."""
        if len(args) > 1 and is_ids(args[1]):
            return self._broadcast(list(args))
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if dim is None or not is_ids(args[0]) or dim % args[0].dim() in channel_dims(args[0]):
            return self._unknown(function, args, kwargs)
        values = self._reduce(function, args, kwargs)
        return Extreme(values, frozen_stand_in(values.shape, torch.int64))

    def _reduce(self, function: Callable[..., Any], args: Any, kwargs: Any, dims_at: int = 1) -> Any:
        """A sum, mean, ... over dimensions, which are argument number `dims_at`. At least one dimension of channels
        must be left; where one of several is reduced (branches stacked and summed), the channels along it are
        united."""
        x: Tensor = args[0]
        over = _dims(x, args, kwargs, dims_at)
        on_channels = set(channel_dims(x))
        if on_channels and on_channels <= set(over):
            return self._unknown(function, args, kwargs)
        out = pytree.tree_leaves(self._meta(function, args, kwargs))[0]
        keep = out.dim() == x.dim()
        for dim in sorted(over, reverse=True):
            if dim in on_channels:
                self.ids.union(unexpanded(x), unexpanded(x).narrow(dim, 0, 1))
            x = x.narrow(dim, 0, 1) if keep else x.select(dim, 0)
        return x

    def _softmax(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Over branches, pixels or heads. Over the channels themselves each output depends on all: not described."""
        x, dim = args[0], kwargs.get("dim", args[1] if len(args) > 1 else None)
        if dim is None or channel_dims(x) == [dim % x.dim()]:
            return self._unknown(function, args, kwargs)
        if dim % x.dim() in channel_dims(x):
            self.ids.union(unexpanded(x), unexpanded(x).narrow(dim, 0, 1))
        return x

    def _chunk(self, op: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """`chunk` into equal parts couples them: channel i of every part. `split` with a literal size along channels
        is not described, as the size would be stale after a cut."""
        if op in (torch.chunk, "chunk"):
            self._freeze_counts((args, kwargs))
        sizes = kwargs.get("split_size", kwargs.get("split_size_or_sections", args[1] if len(args) > 1 else None))
        plain, named = without_counts((args, kwargs))
        parts = function(*plain, **named)
        dim = kwargs.get("dim", args[2] if len(args) > 2 else 0) % args[0].dim()
        if dim not in channel_dims(args[0]):
            self._freeze_counts((args, kwargs))
            return parts
        fixed = op in (torch.split, "split") and not (
            isinstance(sizes, ChannelCount) and self._counts_channels(sizes, args[0], dim)
        )
        if fixed or len({part.shape for part in parts}) > 1:
            return self._unknown(function, args, kwargs)
        for part in parts[1:]:  # all parts must keep equally many channels
            self.ids.union(unexpanded(parts[0]), unexpanded(part))
        return parts

    def _counts_channels(self, count: Any, x: Tensor, dim: int) -> bool:
        """Whether a size is the number of channels on dimension `dim` of `x`. One that counts other channels, but
        equally many, is united with them: from then on it counts both."""
        if not isinstance(count, ChannelCount) or len(count.channels) != x.shape[dim]:
            return False
        self.ids.union(count.channels, self._channels_along(x, dim, "a size"))
        return True

    def _getitem(self, x: Tensor, index: Any) -> Any:
        """Slices along pixels keep the channels. Slices along channels are not described, as literal bounds would be
        stale after a cut, unless they take all channels."""
        parts = index if isinstance(index, tuple) else (index,)
        counts = [bound for bound in slice_bounds(index) if isinstance(bound, ChannelCount)]
        if all(isinstance(part, slice | int | type(None) | type(Ellipsis)) for part in parts):
            dims_named = sum(isinstance(part, slice | int) for part in parts)
            dim, touched = 0, []
            for part in parts:
                if part is Ellipsis:
                    dim += x.dim() - dims_named
                elif part is not None:
                    if not self._takes_all(part, x, dim, counts):
                        touched.append(dim)
                    dim += 1
            self._freeze_counts(counts)
            if not set(touched) & set(channel_dims(x)):
                return x[index]
        self._freeze_counts(counts)
        return self._unknown(operator.getitem, (x, index), {})

    def _takes_all(self, part: Any, x: Tensor, dim: int, counts: list[ChannelCount]) -> bool:
        """Whether an index is a slice that takes a whole dimension, after a cut too. A `ChannelCount` used as its
        stop is then removed from `counts`, as it need not be frozen."""
        if not isinstance(part, slice) or part.start not in (None, 0) or part.step not in (None, 1):
            return False
        stop = part.stop
        if isinstance(stop, ChannelCount):
            follows = dim in channel_dims(x) and stop.factor == 1 and self._counts_channels(stop, x, dim)
            counts[:] = [count for count in counts if not (follows and count is stop)]
            return follows
        return stop is None or stop >= x.shape[dim]

    def _expand(self, x: Tensor, sizes: list[int]) -> Any:
        """A dimension of channels may be expanded to its own size only; one of a single element also to a
        `ChannelCount`, and then has these channels."""
        on_channels = channel_dims(x)
        shape = [1] * (len(sizes) - x.dim()) + list(x.shape)
        shift = len(sizes) - x.dim()
        result = x.view(shape)
        for dim, size in enumerate(sizes):
            if dim - shift in on_channels:
                if size != -1 and not self._counts_channels(size, result, dim):
                    return self._unknown(lambda t: t.expand(without_counts(sizes)), (x,), {})
            elif isinstance(size, ChannelCount):
                if size.factor == 1 and shape[dim] == 1 and not on_channels:
                    result = size.channels.view([-1 if d == dim else 1 for d in range(len(sizes))])
                else:
                    self._freeze_counts([size])
        return result.expand([int(size) for size in sizes])

    def _reshape(self, function: Callable[..., Any], args: Any, kwargs: Any, sizes: list[int] | None) -> Any:
        """`sizes` are those of `view` or `reshape`, None for `flatten`. Each dimension of channels must stay whole or
        be merged into one, whose size is -1 or computed from their number: a literal one would be stale after a
        cut."""
        x = args[0]
        out = self._meta(function, args, kwargs)
        followed = []
        for dim in channel_dims(x):
            where = reshaped_dim(x.shape, out.shape, dim)
            if where is None:
                return self._unknown(function, args, kwargs)
            size = -1 if sizes is None else sizes[where]
            if isinstance(size, ChannelCount) and not size.rounded and self._counts_channels(size, x, dim):
                followed.append(size)
            elif size != -1:
                return self._unknown(function, args, kwargs)
        self._freeze_counts([size for size in sizes or [] if not any(size is one for one in followed)])
        return x.reshape(out.shape)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A parameter or buffer used directly: ids along its only axis longer than 1; with several it is frozen."""
        tensor = self.fetch_attr(target)
        if not isinstance(tensor, Tensor) or tensor.dim() == 0:
            return tensor
        self._found.ran(str(target).rpartition(".")[0], with_parts=False)
        long = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        if len(long) != 1 or not tensor.is_floating_point() or not self._found.has(str(target)):
            if self._found.has(str(target)) and any(self._layer_behind(user) is None for user in self._node.users):
                self._freeze_tensor(str(target), tensor, "has weights that are used by themselves")
            return frozen_stand_in(tensor.shape, tensor.dtype)
        ids = self._issue(str(target), long[0], tensor.shape[long[0]])
        return ids.view([-1 if dim == long[0] else 1 for dim in range(tensor.dim())])

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        self._freeze_all(args, OUTPUT)
        return args[0]


def _dims(x: Tensor, args: Any, kwargs: Any, at: int = 1) -> list[int]:
    """The dimensions that an operation is given, as argument number `at` or by name; all of them if none is."""
    dims = kwargs.get("dim", args[at] if len(args) > at else None)
    if dims is None or isinstance(dims, bool) or dims in ((), []):
        return list(range(x.dim()))
    return [dim % x.dim() for dim in ([dims] if isinstance(dims, int) else dims)]


def _is_patched(module: nn.Module) -> bool:
    """Whether a layer may not compute what its class does: `forward` replaced, hooks, or a weight or bias that is
    computed from other parameters (a plain attribute, as old weight norm sets it)."""
    if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
        return True
    return any(isinstance(vars(module).get(name), Tensor) for name in ("weight", "bias"))


def _without_forward_hooks(module: nn.Module) -> nn.Module:
    """A shallow copy of a module, so that hooks of users are not called with meta tensors."""
    twin = copy.copy(module)
    twin._forward_hooks = OrderedDict()
    return twin
