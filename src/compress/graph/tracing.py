"""Runs a network on channel numbers, op by op: what every op does to channels stands here.

Adding an op: a module type or function in one of the tables, or a method beside `_conv` that records axes.
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
from compress.graph.ids import INDEX, Numbers, compact, home, is_numbers, line, varying
from compress.graph.symbolic_size import ChannelCount, Sizes, bounds, counts_in, flat, sizes_of, without_counts
from compress.graph.types import Axis, Layer
from compress.models.layers import ChannelPad, ChannelSelection, Nothing

OUTPUT = "is the network's output"
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)  # over several channels at once
LEAVES = (ChannelPad, ChannelSelection, Nothing, *NORMS)  # never looked into, whoever wrote them
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d)  # every channel by itself

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
# Of two activations or more, element by element, with broadcasting.
ELEMENTS = {
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
LAYER_FUNCTIONS: dict[Any, type[nn.Conv2d] | type[nn.Linear]] = {
    F.conv2d: nn.Conv2d, torch.conv2d: nn.Conv2d, F.linear: nn.Linear,
}  # fmt: skip
EXTREMES = {torch.max, torch.min, "max", "min"}  # of two, or along one dimension with its index
RESHAPES = {torch.reshape, "reshape", "view"}
FLATTENS = {torch.flatten, "flatten"}
MOVES = {
    torch.permute, torch.transpose, torch.swapaxes, torch.unsqueeze, torch.squeeze, torch.stack, torch.movedim,
    "permute", "transpose", "swapaxes", "unsqueeze", "squeeze", "movedim", "t",
}  # fmt: skip
SQUEEZES = {torch.squeeze, "squeeze"}
MAKES = {"new_empty", "new_zeros", "new_ones", "new_full"}


class Extreme(NamedTuple):
    """What `max` and `min` along a dimension give."""

    values: Tensor
    indices: Tensor


class Tracer(fx.Tracer):
    """Buffers are read when the network runs, unless `forward` decides by one."""

    def __init__(self, proxy_buffers: bool) -> None:
        super().__init__()
        self.proxy_buffer_attributes = proxy_buffers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or _decides_by_sizes(m) or super().is_leaf_module(m, module_qualified_name)


def _decides_by_sizes(module: nn.Module) -> bool:
    """Layers of torchvision that torch.fx cannot look into; torchvision is imported only where it is used."""
    return type(module).__module__ == "torchvision.ops.deform_conv"


def frozen_stand_in(shape: Any, dtype: torch.dtype | None = None) -> Tensor:
    """An activation whose channels nothing may cut; whole numbers stand for themselves only in their shape."""
    if dtype in (torch.int64, torch.int32, torch.uint8):
        return torch.zeros((), dtype=INDEX).expand(shape)
    stand_in = torch.zeros((), dtype=torch.int64).expand(shape)
    stand_in.stands_for = dtype  # type: ignore[attr-defined]
    return stand_in


class Channels:
    """What runs on channel numbers leave behind: which numbers sit on which axis, and the layers that were run."""

    def __init__(self, model: nn.Module) -> None:
        self.numbers = Numbers()
        self.axes: dict[Axis, Tensor] = {}
        self.layers: dict[str, Layer] = {}
        self.norms: dict[str, tuple[int, Axis]] = {}
        self.scaled_by: dict[str, str] = {}
        # A parameter that two modules share has one name.
        first: dict[int, str] = {}
        tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        self._name = {name: first.setdefault(id(tensor), name) for name, tensor in tensors}
        self.dtype = next((t.dtype for _, t in tensors if t.is_floating_point()), torch.float32)
        self._idle = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}

    def axis(self, tensor: str, dim: int) -> Axis:
        return Axis(self._name.get(tensor, tensor), dim)

    def has(self, tensor: str) -> bool:
        """Whether this is one of the network's own, and not a constant that tracing has made."""
        return tensor in self._name

    def ran(self, module: str, with_parts: bool = True) -> None:
        parts = f"{module}." if with_parts else "\0"
        self._idle = {name for name in self._idle if name != module and not name.startswith(parts)}

    def idle(self) -> list[str]:
        """Convolutions and linear layers that no run has met."""
        return sorted(self._idle)


class NumberRun(fx.Interpreter):
    """Executes a traced network on channel numbers and records in `found` which numbers sit on which axis.

    Layers that only this run meets are not `counted`: they cost nothing in evaluation.
    """

    def __init__(self, model: nn.Module, traced: fx.GraphModule, found: Channels, counted: bool) -> None:
        super().__init__(traced, garbage_collect_values=True)
        self._model = model
        self.extra_traceback = False
        self.numbers, self._found, self._counted = found.numbers, found, counted
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
        return line(x, dim)

    def _freeze_all(self, values: Any, why: str) -> None:
        for value in pytree.tree_leaves(values):
            if is_numbers(value):
                self.numbers.freeze(value, why)

    @staticmethod
    def _spread(channels: Tensor, shape: torch.Size) -> Tensor:
        """(C,) -> (1, C, H, W), one number per channel."""
        return channels.view(1, -1, *[1] * (len(shape) - 2)).expand(shape)

    def _meta(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What shape `function` gives, without computing anything."""

        def to_meta(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            dtype = torch.int64 if value.dtype == INDEX else getattr(value, "stands_for", None) or self._found.dtype
            return torch.empty(value.shape, device="meta", dtype=dtype)

        args, kwargs = pytree.tree_map(to_meta, without_counts((args, kwargs)))
        return function(*args, **kwargs)

    def _unknown(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """An op nobody described: its inputs may not be cut, its outputs are no channels of ours."""
        target = self._node.target
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        self._freeze_all((args, kwargs), f"passes through {name!r}, which the channel graph does not know")
        self._freeze_counts((args, kwargs))
        out = self._meta(function, args, kwargs)
        return pytree.tree_map(lambda v: frozen_stand_in(v.shape, v.dtype) if isinstance(v, Tensor) else v, out)

    def _freeze_counts(self, values: Any) -> None:
        for count in counts_in(values):
            self.numbers.freeze(count.channels, "their number is computed with, and a cut would change it")

    # -- modules -----------------------------------------------------------------------------------------------

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module, name = self.fetch_attr(target), str(target)
        self._found.ran(name)
        x: Any = args[0] if args else None
        if _is_its_own_way(module):
            return self._foreign(name, _without_forward_hooks(module), args, kwargs)
        if isinstance(module, nn.Conv2d) and x.dim() == 4 and "weight" in module._parameters:
            return self._conv(name, module, x)
        if isinstance(module, nn.Linear) and "weight" in module._parameters:
            return self._linear(name, module, x)
        if isinstance(module, BATCH_NORMS):
            return self._norm(name, module, x, 1, "num_features")
        if isinstance(module, nn.GroupNorm):
            return self._norm(name, module, x, 1, "num_channels")
        if isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1:
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
        if isinstance(module, Nothing):
            return self._nothing(name, module, x)
        if isinstance(module, nn.Flatten):
            return self._reshape(module, (x,), {}, None)
        return self._foreign(name, module, args, kwargs)

    def _foreign(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A module nobody described; its tensors may belong to others too."""
        own = dict(module.named_parameters()) | dict(module.named_buffers())
        for tensor, value in own.items():
            self._freeze_tensor(f"{name}.{tensor}", value, f"shares weights with {name!r}")

        def bare(*inputs: Any, **named: Any) -> Any:
            on_meta = {k: v.to("meta") for k, v in own.items()}
            return torch.func.functional_call(module, on_meta, inputs, named)

        return self._unknown(bare, args, kwargs)

    def _freeze_tensor(self, name: str, tensor: Tensor, why: str) -> None:
        for dim, size in enumerate(tensor.shape):
            self.numbers.freeze(self._issue(name, dim, size), why)

    def _conv(self, name: str, conv: nn.Conv2d, x: Tensor, shape: torch.Size | None = None) -> Tensor:
        """`shape` of the outputs, where another call than the layer's own makes them."""
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
        if shape is None:
            how: Any = conv.stride, conv.padding, conv.dilation, conv.groups
            shape = self._meta(lambda image, weight: F.conv2d(image, weight, None, *how), (x, conv.weight), {}).shape
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        uses = shape[0] * shape[2] * shape[3]
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

    def _norm(self, name: str, norm: nn.Module, x: Tensor, dim: int, attribute: str) -> Tensor:
        """A norm without tensors still states its number of channels, in `attribute`."""
        channels = self._along(x, dim, name)
        tensors = [t for t in ("weight", "bias", "running_mean", "running_var") if getattr(norm, t, None) is not None]
        for tensor in tensors or [attribute]:
            self._record(f"{name}.{tensor}", 0, channels)
        if isinstance(norm, nn.GroupNorm) and norm.num_channels > norm.num_groups:
            by_group = channels.view(norm.num_groups, -1)  # every norm group must keep as many channels
            self.numbers.unite(by_group, by_group[:1])
        if isinstance(norm, NORMS):
            last = isinstance(norm, nn.LayerNorm | nn.RMSNorm) and dim == x.dim() - 1
            axis = self._found.axis(f"{name}.{(tensors or [attribute])[0]}", 0)
            self._found.norms[name] = -1 if last else dim, axis
        return x

    def _layer_norm(self, name: str, norm: nn.LayerNorm | nn.RMSNorm, x: Tensor) -> Tensor:
        """Over the last dimension; kinds of others that put the channels of (B, C, H, W) last themselves too."""
        own_kind = type(norm).forward not in (nn.LayerNorm.forward, nn.RMSNorm.forward) and varying(x) == [1]
        dim = 1 if own_kind and x.dim() == 4 and x.shape[1] == norm.normalized_shape[0] else x.dim() - 1
        return self._norm(name, norm, x, dim, "normalized_shape")

    def _spatial(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        out = self._meta(function, args, kwargs)
        if not isinstance(out, Tensor) or args[0].dim() != 4:
            return self._unknown(function, args, kwargs)
        return self._spread(self._along(args[0], 1, str(self._node.target)), out.shape)

    def _channel_pad(self, name: str, pad: ChannelPad, x: Tensor) -> Tensor:
        """Padded channels are fresh ones; surgery lowers `before` and `after` by what goes."""
        before = self._issue(f"{name}.before", 0, pad.before)
        after = self._issue(f"{name}.after", 0, pad.after)
        channels = torch.cat([before, self._along(x, 1, name), after])
        return self._spread(channels, torch.Size([x.shape[0], len(channels), *x.shape[2:]]))

    def _selection(self, name: str, selection: ChannelSelection, x: Tensor) -> Tensor:
        """What is selected from keeps its width; what is selected is a choice of its own for those who read it."""
        before = self._node.args[0]
        is_module = isinstance(before, fx.Node) and before.op == "call_module"
        if is_module and isinstance(self.fetch_attr(str(before.target)), BATCH_NORMS):
            self._found.scaled_by[f"{name}.indices"] = str(before.target)
        self._freeze_all(x, f"is selected from by {name}")
        return self._spread(
            self._issue(f"{name}.indices", 0, len(selection.indices)),
            torch.Size([x.shape[0], len(selection.indices), *x.shape[2:]]),
        )

    def _nothing(self, name: str, nothing: Nothing, x: Tensor) -> Tensor:
        """Fresh channels that are made of no others; surgery lowers `out_channels` by what goes."""
        outputs = self._issue(f"{name}.out_channels", 0, nothing.out_channels)
        if nothing.bias is not None:
            self._record(f"{name}.bias", 0, outputs)
        return self._spread(outputs, torch.Size([x.shape[0], len(outputs), *nothing.size(x)]))

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
        kwargs = {{"axis": "dim", "keepdims": "keepdim"}.get(name, name): value for name, value in kwargs.items()}
        if not [value for value in pytree.tree_leaves((args, kwargs)) if is_numbers(value)]:
            return self._without_channels(op, function, args, kwargs)
        if op in ("size", getattr, "dim", "numel"):
            return self._asked(op, function, args, kwargs)
        if isinstance(op, type) and issubclass(op, tuple):  # several results under names
            return op(*args, **kwargs)
        if op in RESHAPES:
            return self._reshape(function, args, kwargs, flat(args[1:]) or flat(kwargs.values()))
        if op == "expand":
            return self._expand(args[0], flat(args[1:]))
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
        """The layer whose weight a functional convolution or product is called with: its `forward` is its own."""
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
        x = args[0]
        if op in ELEMENTS:
            return self._elements([*args, *kwargs.values()])
        if op in EXTREMES:
            return self._extreme(function, args, kwargs)
        if op in ELEMENTWISE or getattr(op, "__name__", "") == "stochastic_depth":
            others = [value for value in pytree.tree_leaves((args[1:], kwargs)) if is_numbers(value)]
            return self._unknown(function, args, kwargs) if others or not is_numbers(x) else x
        if op in MAKES:
            return frozen_stand_in(flat(args[1:] if op != "new_full" else args[1:2]))
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
        if op in SQUEEZES and set(varying(x)) & set(_dims(x, args, kwargs)):
            return self._unknown(function, args, kwargs)  # a single channel would vanish
        if op in MOVES or op is operator.getitem:
            return function(*args, **kwargs)
        return self._unknown(function, args, kwargs)

    def _without_channels(self, op: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Sizes and what is made of them: products keep their channels in mind, the rest makes them fixed."""
        counts = counts_in((args, kwargs))
        if not counts or op is operator.getitem or (op is operator.add and isinstance(args[0], tuple)):
            made = function(*args, **kwargs)
            made = Sizes(made) if counts and type(made) is tuple else made
        else:
            made = self._scaled(op, args) if op in (operator.mul, operator.floordiv) else None
            if op == "numel":
                made = args[0].numel()
            if not isinstance(made, ChannelCount):
                self._freeze_counts((args, kwargs))
                args, kwargs = without_counts((args, kwargs))
                made = function(*args, **kwargs)
        return frozen_stand_in(made.shape, made.dtype) if type(made) is Tensor and made.dim() > 0 else made

    @staticmethod
    def _scaled(op: Any, args: Any) -> ChannelCount | None:
        a, b = args
        if op is operator.mul and isinstance(b, ChannelCount):
            a, b = b, a
        if not isinstance(a, ChannelCount) or isinstance(b, ChannelCount) or type(b) is not int or b < 1:
            return None
        return a.times(Fraction(b) if op is operator.mul else Fraction(1, b))

    def _asked(self, op: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        x = args[0]
        if op == "numel":
            return sizes_of(x).numel()
        if op == "size" or (op is getattr and args[1] == "shape"):
            dim = (args[1] if len(args) > 1 else kwargs.get("dim")) if op == "size" else None
            return sizes_of(x) if dim is None else sizes_of(x)[dim]
        if op is getattr and args[1] == "dtype":
            return self._found.dtype
        return function(*args, **kwargs)

    def _elements(self, values: list[Any]) -> Tensor:
        """Broadcast together. Where one has a single element along a dimension, the others' channels lie on it."""
        nodes = [*self._node.args, *self._node.kwargs.values()]
        tensors: list[tuple[Tensor, bool]] = []
        for value, node in zip(values, nodes, strict=False):
            if isinstance(value, Tensor) and value.dtype == INDEX:  # of the network's own: stay as many as they are
                value = frozen_stand_in(value.shape)
            if is_numbers(value):
                tensors.append((value, isinstance(node, fx.Node) and node.op == "get_attr"))
        result, is_own = tensors[0]
        for other, other_is_own in tensors[1:]:
            result = self._two(result, other, is_own, other_is_own)
            is_own = is_own and other_is_own
        return result

    def _two(self, a: Tensor, b: Tensor, a_is_own: bool, b_is_own: bool) -> Tensor:
        shape = torch.broadcast_shapes(a.shape, b.shape)
        a, b = (x.view(*[1] * (len(shape) - x.dim()), *x.shape) for x in (a, b))
        on_a, on_b = varying(a), varying(b)
        for x, other, theirs in ((a, b, on_b), (b, a, on_a)):
            if any(other.shape[dim] > 1 and dim not in theirs for dim in varying(x)):
                self.numbers.freeze(x, "is combined with something that has a fixed number of channels")
        if set(on_a) & set(on_b):
            self.numbers.unite(compact(a), compact(b))
        elif on_a and on_b:  # channels of one across places of the other
            if not b_is_own:
                self.numbers.freeze(a, "is combined with channels on another dimension")
            if b_is_own or not a_is_own:
                self.numbers.freeze(b, "is combined with channels on another dimension")
            return b.expand(shape) if a_is_own and not b_is_own else a.expand(shape)
        if not (on_a and on_b):
            return (a if on_a else b).expand(shape)
        wider: Tensor = a if compact(a).numel() >= compact(b).numel() else b
        return wider.expand(shape)

    def _functional_batch_norm(self, args: Any, kwargs: Any) -> Tensor:
        x: Tensor = args[0]
        channels = self._along(x, 1, "batch_norm")
        for own in pytree.tree_leaves((args[1:], kwargs)):
            if is_numbers(own):
                self.numbers.unite(own, channels)
        return x

    def _extreme(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if len(args) > 1 and is_numbers(args[1]):
            return self._elements(list(args))
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if dim is None or not is_numbers(args[0]) or dim % args[0].dim() in varying(args[0]):
            return self._unknown(function, args, kwargs)
        values = self._reduce(function, args, kwargs)
        return Extreme(values, frozen_stand_in(values.shape, torch.int64))

    def _reduce(self, function: Callable[..., Any], args: Any, kwargs: Any, dims_at: int = 1) -> Any:
        x: Tensor = args[0]
        over = _dims(x, args, kwargs, dims_at)
        changing = set(varying(x))
        if changing and changing <= set(over):
            return self._unknown(function, args, kwargs)
        out = pytree.tree_leaves(self._meta(function, args, kwargs))[0]
        keep = out.dim() == x.dim()
        for dim in sorted(over, reverse=True):
            if dim in changing:  # branches that are summed: the same channel of each
                self.numbers.unite(compact(x), compact(x).narrow(dim, 0, 1))
            x = x.narrow(dim, 0, 1) if keep else x.select(dim, 0)
        return x

    def _softmax(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Across branches, places or heads; across channels each depends on all."""
        x, dim = args[0], kwargs.get("dim", args[1] if len(args) > 1 else None)
        if dim is None or varying(x) == [dim % x.dim()]:
            return self._unknown(function, args, kwargs)
        if dim % x.dim() in varying(x):
            self.numbers.unite(compact(x), compact(x).narrow(dim, 0, 1))
        return x

    def _chunk(self, op: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Equal parts stay equal; a written part size would be wrong after a cut."""
        if op in (torch.chunk, "chunk"):
            self._freeze_counts((args, kwargs))
        sizes = kwargs.get("split_size", kwargs.get("split_size_or_sections", args[1] if len(args) > 1 else None))
        plain, named = without_counts((args, kwargs))
        parts = function(*plain, **named)
        dim = kwargs.get("dim", args[2] if len(args) > 2 else 0) % args[0].dim()
        if dim not in varying(args[0]):
            self._freeze_counts((args, kwargs))
            return parts
        fixed = op in (torch.split, "split") and not (
            isinstance(sizes, ChannelCount) and self._same(sizes, args[0], dim)
        )
        if fixed or len({part.shape for part in parts}) > 1:
            return self._unknown(function, args, kwargs)
        for part in parts[1:]:  # all parts must keep as many channels
            self.numbers.unite(compact(parts[0]), compact(part))
        return parts

    def _same(self, count: Any, x: Tensor, dim: int) -> bool:
        """Whether a number counts the channels on this dimension; if as many, from now on it does."""
        if not isinstance(count, ChannelCount) or len(count.channels) != x.shape[dim]:
            return False
        self.numbers.unite(count.channels, self._along(x, dim, "a size"))
        return True

    def _getitem(self, x: Tensor, index: Any) -> Any:
        """Slices in space keep the channels; slices of channels have literal bounds that a cut makes stale."""
        places = index if isinstance(index, tuple) else (index,)
        counts = [bound for bound in bounds(index) if isinstance(bound, ChannelCount)]
        if all(isinstance(place, slice | int | type(None) | type(Ellipsis)) for place in places):
            dims_named = sum(isinstance(place, slice | int) for place in places)
            dim, touched = 0, []
            for place in places:
                if place is Ellipsis:
                    dim += x.dim() - dims_named
                elif place is not None:
                    if not self._takes_all(place, x, dim, counts):
                        touched.append(dim)
                    dim += 1
            self._freeze_counts(counts)
            if not set(touched) & set(varying(x)):
                return x[index]
        self._freeze_counts(counts)
        return self._unknown(operator.getitem, (x, index), {})

    def _takes_all(self, place: Any, x: Tensor, dim: int, counts: list[ChannelCount]) -> bool:
        """Whether an index is a slice that leaves nothing out, also after a cut. A count so used is taken from
        `counts`: it is the number of these channels."""
        if not isinstance(place, slice) or place.start not in (None, 0) or place.step not in (None, 1):
            return False
        stop = place.stop
        if isinstance(stop, ChannelCount):
            follows = dim in varying(x) and stop.factor == 1 and self._same(stop, x, dim)
            counts[:] = [count for count in counts if not (follows and count is stop)]
            return follows
        return stop is None or stop >= x.shape[dim]

    def _expand(self, x: Tensor, sizes: list[int]) -> Any:
        """Along channels only to their own number; a single element may become as many as there are channels."""
        changing = varying(x)
        shape = [1] * (len(sizes) - x.dim()) + list(x.shape)
        shift = len(sizes) - x.dim()
        result = x.view(shape)
        for dim, size in enumerate(sizes):
            if dim - shift in changing:
                if size != -1 and not self._same(size, result, dim):
                    return self._unknown(lambda t: t.expand(without_counts(sizes)), (x,), {})
            elif isinstance(size, ChannelCount):
                if size.factor == 1 and shape[dim] == 1 and not changing:
                    result = size.channels.view([-1 if d == dim else 1 for d in range(len(sizes))])
                else:
                    self._freeze_counts([size])
        return result.expand([int(size) for size in sizes])

    def _reshape(self, function: Callable[..., Any], args: Any, kwargs: Any, sizes: list[int] | None) -> Any:
        """`sizes` as given, or None where none are. A fixed one where channels lie would be wrong after a cut."""
        x = args[0]
        out = self._meta(function, args, kwargs)
        followed = []
        for dim in varying(x):
            where = home(x.shape, out.shape, dim)
            if where is None:
                return self._unknown(function, args, kwargs)
            size = -1 if sizes is None else sizes[where]
            if isinstance(size, ChannelCount) and not size.rounded and self._same(size, x, dim):
                followed.append(size)
            elif size != -1:
                return self._unknown(function, args, kwargs)
        self._freeze_counts([size for size in sizes or [] if not any(size is one for one in followed)])
        return x.reshape(out.shape)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A parameter or buffer used directly: numbers along its only long axis, else frozen."""
        tensor = self.fetch_attr(target)
        if not isinstance(tensor, Tensor) or tensor.dim() == 0:
            return tensor
        self._found.ran(str(target).rpartition(".")[0], with_parts=False)
        long = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        if len(long) != 1 or not tensor.is_floating_point() or not self._found.has(str(target)):
            if self._found.has(str(target)) and any(self._layer_behind(user) is None for user in self._node.users):
                self._freeze_tensor(str(target), tensor, "has weights that are used by themselves")
            return frozen_stand_in(tensor.shape, tensor.dtype)
        numbers = self._issue(str(target), long[0], tensor.shape[long[0]])
        return numbers.view([-1 if dim == long[0] else 1 for dim in range(tensor.dim())])

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        self._freeze_all(args, OUTPUT)
        return args[0]


def _dims(x: Tensor, args: Any, kwargs: Any, at: int = 1) -> list[int]:
    """The dimensions that an op is told, in its argument number `at` or by name; all where none are."""
    dims = kwargs.get("dim", args[at] if len(args) > at else None)
    if dims is None or isinstance(dims, bool) or dims in ((), []):
        return list(range(x.dim()))
    return [dim % x.dim() for dim in ([dims] if isinstance(dims, int) else dims)]


def _is_its_own_way(module: nn.Module) -> bool:
    """Whether a layer may not do what its class says: another `forward`, hooks, or tensors that are computed."""
    if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
        return True
    return any(isinstance(vars(module).get(name), Tensor) for name in ("weight", "bias"))


def _without_forward_hooks(module: nn.Module) -> nn.Module:
    """The same module, so that what others listen with does not hear of a run on nothing."""
    quiet = copy.copy(module)
    quiet._forward_hooks = OrderedDict()
    return quiet
