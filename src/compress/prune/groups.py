"""The channel graph: which channels of a network live and die together.

The network is run once on *channel numbers* instead of activations. A convolution or linear layer issues fresh
numbers for its outputs, an addition unites the numbers it adds, and cat, chunk, flatten, permute and their kind are
executed on the numbers as they are. At the end every axis of every weight carries a vector of numbers: that is the
dependency graph, exact per channel, without special cases for residuals, concatenation or squeeze-excite.

Whatever is not understood freezes the channels it touches, and the report says where: wrong surgery is worse than
none. Reshapes, slices and pads whose literal sizes would be stale after a cut freeze too.

Related: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv:2301.12900, which walks from layer
to layer with index mappings; executing the ops on numbers needs no mapping per layer type.
"""

import inspect
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from compress.models.layers import ChannelPad
from compress.prune.plan import Plan
from compress.settings import InputError

FROZEN = 0
INDEX = torch.int32  # stands for a whole-number buffer of the network, which is no activation


class Axis(NamedTuple):
    """One dimension of one parameter or buffer: ("layer1.0.conv1.weight", 0)."""

    tensor: str
    dim: int


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer as the cost model and the search see it."""

    name: str
    kind: str  # "conv" or "linear"
    out_axis: Axis
    in_axis: Axis | None  # None: depthwise, the channel passes through
    macs_per_weight: int  # how often each weight is used for one image
    kernel: int
    stride: int
    groups: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that live and die together; a name, a width, and where each channel sits.

    `positions[axis]` is (width, m): the m places of every channel on that axis (m > 1 after a flatten).
    """

    name: str
    width: int
    positions: Mapping[Axis, Tensor]
    consumers: tuple[str, ...]  # layers that read these channels, in order of execution


@dataclass(frozen=True)
class ChannelGraph:
    """All groups of a network in order of execution, its weighted layers, and what could not be cut and why."""

    groups: tuple[ChannelGroup, ...]
    layers: tuple[Layer, ...]
    frozen: Mapping[str, str]

    def __post_init__(self) -> None:
        assert len({group.name for group in self.groups}) == len(self.groups)

    def kept(self, plan: Plan) -> dict[str, Tensor]:
        """Kept channels of every group, checked against its width.

        Raises:
            ValueError: the plan names a group or a channel that is not there.
        """
        widths = {group.name: group.width for group in self.groups}
        for name, channels in plan.kept.items():
            if name not in widths:
                raise ValueError(f"plan names group {name!r}; there are {', '.join(widths)}")
            if channels[0] < 0 or channels[-1] >= widths[name]:
                raise ValueError(f"plan for {name}: channels must be in [0, {widths[name]}), got {list(channels)}")
        return {
            name: torch.tensor(plan.kept[name]) if name in plan.kept else torch.arange(width)
            for name, width in widths.items()
        }

    def widths(self, plan: Plan) -> list[int]:
        return [len(plan.kept.get(group.name, range(group.width))) for group in self.groups]

    def dropped(self, plan: Plan) -> dict[Axis, Tensor]:
        """Places on each axis that the plan takes away."""
        kept = self.kept(plan)
        gone: dict[Axis, list[Tensor]] = defaultdict(list)
        for group in self.groups:
            if len(kept[group.name]) < group.width:
                out = torch.ones(group.width, dtype=torch.bool)
                out[kept[group.name]] = False
                for axis, places in group.positions.items():
                    gone[axis].append(places[out].flatten())
        return {axis: torch.cat(places).sort().values for axis, places in gone.items()}


class _Numbers:
    """Channel numbers with union-find; number 0 is the frozen one."""

    def __init__(self) -> None:
        self._parent = [FROZEN]
        self._why: dict[int, str] = {}

    def fresh(self, count: int) -> Tensor:
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def root(self, number: int) -> int:
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def roots(self, numbers: Tensor) -> Tensor:
        return torch.tensor([self.root(number) for number in numbers.flatten().tolist()]).view(numbers.shape)

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Element by element, after broadcasting."""
        pairs = torch.stack([part.flatten() for part in torch.broadcast_tensors(a, b)])
        for left, right in pairs.unique(dim=1).T.tolist():
            x, y = self.root(left), self.root(right)
            if x != y:
                self._parent[max(x, y)] = min(x, y)

    def freeze(self, numbers: Tensor, why: str) -> None:
        for number in _compact(numbers).unique().tolist():
            root = self.root(number)
            if root != FROZEN:
                self._why.setdefault(number, why)
                self._parent[root] = FROZEN

    def why(self, numbers: Tensor) -> str | None:
        """Why a frozen channel of these is frozen."""
        for number in numbers.flatten().tolist():
            if self.root(number) == FROZEN and number in self._why:
                return self._why[number]
        return "is united with channels that cannot be cut" if FROZEN in self.roots(numbers) else None


def _compact(numbers: Tensor) -> Tensor:
    """Broadcast dimensions narrowed to one: most activations hold one number per channel, expanded in space."""
    for dim, stride in enumerate(numbers.stride()):
        if stride == 0 and numbers.shape[dim] > 1:
            numbers = numbers.narrow(dim, 0, 1)
    return numbers


def _varying(numbers: Tensor) -> list[int]:
    """Dimensions along which the numbers change."""
    compact = _compact(numbers)
    return [
        dim
        for dim, size in enumerate(compact.shape)
        if size > 1 and not bool((compact == compact.narrow(dim, 0, 1)).all())
    ]


def _is_numbers(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64 and value.dim() > 0


ELEMENTWISE_MODULES = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid,
    nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Dropout, nn.Dropout2d, nn.AlphaDropout,
)  # fmt: skip
SPATIAL_MODULES = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d,
    nn.ReflectionPad2d, nn.ReplicationPad2d,
)  # fmt: skip
ELEMENTWISE = {
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.sigmoid, F.tanh, F.hardswish, F.hardsigmoid,
    F.hardtanh, F.dropout, F.dropout2d, torch.relu, torch.sigmoid, torch.tanh, torch.clone, torch.clamp,
    "relu", "relu_", "sigmoid", "tanh", "contiguous", "clone", "detach", "float", "clamp",
}  # fmt: skip
BINARY = {
    operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv,
    torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum, "add", "add_",
    "sub", "mul", "mul_", "div",
}  # fmt: skip
SPATIAL = {F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.avg_pool2d, F.max_pool2d, F.interpolate}
REDUCTIONS = {torch.mean, torch.sum, torch.amax, "mean", "sum", "amax"}
# Ops that may run on the numbers as they are; `_stale` says when a cut would make their arguments wrong.
RESHAPES = {torch.flatten, torch.reshape, "flatten", "reshape", "view"}
MOVES = {
    torch.permute, torch.transpose, torch.unsqueeze, torch.squeeze, "permute", "transpose", "unsqueeze", "squeeze",
    "expand", "t",
}  # fmt: skip
SHAPE_READS = {"size", "dim"}


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ChannelPad) or super().is_leaf_module(m, module_qualified_name)


class _Run(fx.Interpreter):
    """Executes a traced network on channel numbers and records which numbers sit on which axis."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.extra_traceback = False
        self.numbers = _Numbers()
        self.axes: dict[Axis, Tensor] = {}
        self.layers: dict[str, Layer] = {}
        self._node = next(iter(module.graph.nodes))

    def run_node(self, n: fx.Node) -> Any:
        self._node = n
        return super().run_node(n)

    # -- recording ---------------------------------------------------------------------------------------------

    def _record(self, tensor: str, dim: int, numbers: Tensor) -> None:
        """The numbers on an axis; a layer that runs twice must agree with itself."""
        axis = Axis(tensor, dim)
        if axis in self.axes:
            self.numbers.unite(self.axes[axis], numbers)
        else:
            self.axes[axis] = numbers

    def _issue(self, tensor: str, dim: int, count: int) -> Tensor:
        axis = Axis(tensor, dim)
        if axis not in self.axes:
            self.axes[axis] = self.numbers.fresh(count)
        return self.axes[axis]

    def _along(self, x: Tensor, dim: int, what: str) -> Tensor:
        """The numbers along one dimension, (C,); where they also change along another, all are frozen."""
        dim %= x.dim()
        if any(other != dim for other in _varying(x)):
            self.numbers.freeze(x, f"{what} sees different channels at different places")
        for other in range(x.dim()):
            if other != dim:
                x = x.narrow(other, 0, 1)
        return x.flatten()

    def _freeze_all(self, values: Any, why: str) -> None:
        for value in pytree.tree_leaves(values):
            if _is_numbers(value):
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
        x: Any = args[0] if args else None
        if isinstance(module, nn.Conv2d) and x.dim() == 4:
            return self._conv(name, module, x)
        if isinstance(module, nn.Linear):
            return self._linear(name, module, x)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            return self._batch_norm(name, module, x)
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
        if isinstance(module, nn.Flatten):
            return self._reshape(module, (x,), {}, literals=())
        own = dict(module.named_parameters()) | dict(module.named_buffers())

        def bare(*inputs: Any, **named: Any) -> Any:
            return torch.func.functional_call(module, {k: v.to("meta") for k, v in own.items()}, inputs, named)

        return self._unknown(bare, args, kwargs)

    def _conv(self, name: str, conv: nn.Conv2d, x: Tensor) -> Tensor:
        inputs = self._along(x, 1, name)
        outputs = self._issue(f"{name}.weight", 0, conv.out_channels)
        in_axis: Axis | None = Axis(f"{name}.weight", 1)
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
        self._layer(Layer(name, "conv", Axis(f"{name}.weight", 0), in_axis, uses, kernel, stride, conv.groups))
        return self._spread(outputs, shape)

    def _linear(self, name: str, linear: nn.Linear, x: Tensor) -> Tensor:
        self._record(f"{name}.weight", 1, self._along(x, -1, name))
        outputs = self._issue(f"{name}.weight", 0, linear.out_features)
        if linear.bias is not None:
            self._record(f"{name}.bias", 0, outputs)
        uses = x[..., 0].numel()
        axes = Axis(f"{name}.weight", 0), Axis(f"{name}.weight", 1)
        self._layer(Layer(name, "linear", *axes, uses, 1, 0, 1))
        return outputs.expand(*x.shape[:-1], -1)

    def _layer(self, layer: Layer) -> None:
        if layer.name in self.layers:  # runs twice
            before = self.layers[layer.name]
            layer = Layer(**{**vars(layer), "macs_per_weight": layer.macs_per_weight + before.macs_per_weight})
        self.layers[layer.name] = layer

    def _batch_norm(self, name: str, norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
        channels = self._along(x, 1, name)
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            if getattr(norm, tensor) is not None:
                self._record(f"{name}.{tensor}", 0, channels)
        return x

    def _spatial(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        channels = self._along(args[0], 1, str(self._node.target))
        return self._spread(channels, self._meta(function, args, kwargs).shape)

    def _channel_pad(self, name: str, pad: ChannelPad, x: Tensor) -> Tensor:
        """Padded channels are fresh ones; surgery lowers `before` and `after` by what goes."""
        before = self._issue(f"{name}.before", 0, pad.before)
        after = self._issue(f"{name}.after", 0, pad.after)
        channels = torch.cat([before, self._along(x, 1, name), after])
        return self._spread(channels, torch.Size([x.shape[0], len(channels), *x.shape[2:]]))

    # -- functions and methods ---------------------------------------------------------------------------------

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._call(target, target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        def method(owner: Any, *rest: Any, **named: Any) -> Any:
            return getattr(owner, target)(*rest, **named)

        return self._call(target, method, args, kwargs)

    def _call(self, op: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        inputs = [value for value in pytree.tree_leaves((args, kwargs)) if _is_numbers(value)]
        if not inputs or op in SHAPE_READS or op is getattr:
            return function(*args, **kwargs)
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
        if op in (torch.chunk, "chunk"):
            return self._chunk(function, args, kwargs)
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
        if not (_is_numbers(a) and _is_numbers(b)):
            return a if _is_numbers(a) else b
        self.numbers.unite(_compact(a), _compact(b))
        shape = torch.broadcast_shapes(a.shape, b.shape)
        wider: Tensor = a if _compact(a).numel() >= _compact(b).numel() else b
        return wider.expand(shape)

    def _reduce(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        x = args[0]
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        over = range(x.dim()) if dims is None else [d % x.dim() for d in ([dims] if isinstance(dims, int) else dims)]
        if set(over) & set(_varying(x)):
            return self._unknown(function, args, kwargs)  # type: ignore[no-any-return]
        keep = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
        for dim in sorted(over, reverse=True):
            x = x.narrow(dim, 0, 1) if keep else x.select(dim, 0)
        return x

    def _chunk(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        parts = function(*args, **kwargs)
        dim = kwargs.get("dim", args[2] if len(args) > 2 else 0) % args[0].dim()
        if dim in _varying(args[0]):
            if len({part.shape for part in parts}) > 1:
                return self._unknown(function, args, kwargs)
            for part in parts[1:]:  # all parts must keep as many channels
                self.numbers.unite(_compact(parts[0]), _compact(part))
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
            if not set(touched) & set(_varying(x)):
                return x[index]
        return self._unknown(operator.getitem, (x, index), {})

    def _reshape(self, function: Callable[..., Any], args: Any, kwargs: Any, literals: Sequence[int]) -> Any:
        x = args[0]
        out = self._meta(function, args, kwargs)
        if _splits(x.shape, out.shape, _varying(x)) or _fixes(x.shape, out.shape, _varying(x), literals):
            return self._unknown(function, args, kwargs)
        return x.reshape(out.shape)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A parameter used directly: numbers along its only long axis, else frozen."""
        tensor = self.fetch_attr(target)
        if not isinstance(tensor, Tensor) or tensor.dim() == 0:
            return tensor
        long = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        if len(long) != 1 or not isinstance(tensor, nn.Parameter):
            kind = INDEX if tensor.dtype == torch.int64 else torch.int64
            return torch.zeros(1, dtype=kind).expand(tensor.shape)
        numbers = self._issue(str(target), long[0], tensor.shape[long[0]])
        return numbers.view([-1 if dim == long[0] else 1 for dim in range(tensor.dim())])

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        self._freeze_all(args, "is the network's output")
        return args[0]


def _bounds(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Elements per step and per whole of each dimension, from the last: what lies in memory between them."""
    bounds, step = [], 1
    for size in reversed(shape):
        bounds.append((step, step * size))
        step *= size
    return bounds[::-1]


def _home(shape: Sequence[int], out: Sequence[int], dim: int) -> int | None:
    """The dimension of `out` that holds all of dimension `dim` of `shape`, or None if it is split."""
    low, high = _bounds(shape)[dim]
    for other, (start, end) in enumerate(_bounds(out)):
        if start <= low and high <= end:
            return other
    return None


def _splits(shape: Sequence[int], out: Sequence[int], varying: Sequence[int]) -> bool:
    return any(_home(shape, out, dim) is None for dim in varying)


def _fixes(shape: Sequence[int], out: Sequence[int], varying: Sequence[int], literals: Sequence[int]) -> bool:
    """Whether a written size stands where the channels are: it would be wrong after a cut."""
    homes = [_home(shape, out, dim) for dim in varying]
    return any(home is not None and out[home] in literals for home in homes)


def _trace(model: nn.Module) -> fx.GraphModule:
    """
    Raises:
        InputError: control flow that depends on values; names the line.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    rest = {p.name: p.default for p in parameters[1:] if p.default is not inspect.Parameter.empty}
    try:
        return fx.GraphModule(model, _Tracer().trace(model, concrete_args=rest or None))
    except (fx.proxy.TraceError, TypeError) as error:
        import traceback

        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
        where = f" at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if len(frames) > 1 else ""
        raise InputError(
            f"{type(model).__name__} cannot be traced{where} ({error}); move what depends on values or shapes "
            "out of forward, into __init__ or into a module of its own"
        ) from None


def channel_graph(model: nn.Module, shape: tuple[int, int, int]) -> ChannelGraph:
    """Find the groups of a network for images (C, H, W). The model is left as it was.

    Raises:
        InputError: the network cannot be traced.
    """
    was_training = model.training
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        run = _Run(_trace(model))
        images = torch.zeros(1, dtype=torch.int64).expand(1, *shape)
        defaults = [node.args[0] for node in run.graph.nodes if node.op == "placeholder" and node.args]
        with torch.no_grad():
            run.run(images, *defaults)
    finally:
        model.train(was_training)
        for name, module in model.named_modules():
            module.training = modes[name]
    return _collect(run)


def _collect(run: _Run) -> ChannelGraph:
    """Group the numbers by the set of places they sit in."""
    places: dict[int, list[tuple[Axis, int]]] = defaultdict(list)
    order: dict[int, tuple[int, int]] = {}  # of the first axis that carries a number
    for rank, (axis, numbers) in enumerate(run.axes.items()):
        for position, root in enumerate(run.numbers.roots(numbers).tolist()):
            if root != FROZEN:
                places[root].append((axis, position))
                order.setdefault(root, (rank, position))
    alike: dict[tuple[tuple[Axis, int], ...], list[int]] = defaultdict(list)
    for root in sorted(places, key=order.__getitem__):
        count = Counter(axis for axis, _ in places[root])
        alike[tuple(sorted(count.items()))].append(root)

    groups: list[ChannelGroup] = []
    names: Counter[str] = Counter()
    for roots in alike.values():
        positions: dict[Axis, list[list[int]]] = {}
        for root in roots:
            mine: dict[Axis, list[int]] = defaultdict(list)
            for axis, position in places[root]:
                mine[axis].append(position)
            for axis, where in mine.items():
                positions.setdefault(axis, []).append(where)
        producer = next(iter(positions)).tensor.rpartition(".")[0]
        names[producer] += 1
        name = producer if names[producer] == 1 else f"{producer}#{names[producer]}"
        consumers = tuple(layer.name for layer in run.layers.values() if layer.in_axis in positions)
        tensors = {axis: torch.tensor(where) for axis, where in positions.items()}
        groups.append(ChannelGroup(name, len(roots), tensors, consumers))

    frozen = {}
    for layer in run.layers.values():
        why = run.numbers.why(run.axes[layer.out_axis])
        if why is not None and why != "is the network's output":
            frozen[layer.name] = why
    return ChannelGraph(tuple(groups), tuple(run.layers.values()), frozen)
