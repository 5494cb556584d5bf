"""Functions that are layers, called with a parameter of the network; norms; pooling and padding."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from compress.graph import computed, modules
from compress.graph.counts import plain
from compress.graph.ids import channel_dims
from compress.graph.values import Ids, Operation

if TYPE_CHECKING:
    from compress.graph.run import Run

POOLS = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool")
IN_SPACE = (
    *(f"{name}{dims}d" for dims in (1, 2, 3) for name in POOLS),
    *("interpolate", "upsample", "upsample_bilinear2d", "upsample_nearest2d"),
)


CONV = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}  # arguments after the bias, in order
TRANSPOSED_CONV = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}


def _conv(run: "Run", op: Operation) -> Any:
    x, weight = op.x, op.get(1, "weight")
    name = run.own(weight) or computed.weight_behind(run, weight, x)
    dims = int(op.function.__name__[-2])
    back = "transpose" in op.name
    if name is None or x.dim() != dims + 2:
        return run.unknown_on_ids(op)
    if not modules.is_weight(run, name, modules.TRANSPOSED if back else modules.CONVOLUTIONS):
        return run.unknown_on_ids(op)
    defaults = TRANSPOSED_CONV if back else CONV
    given = {key: plain(op.get(at, key, default=value)) for at, (key, value) in enumerate(defaults.items(), 3)}
    over = (_each(given[key], dims) for key in ("stride", "padding", "dilation"))
    window, images = modules.Window(tuple(weight.shape[2:]), *over), run.activation(x)
    if back:
        more = _each(given["output_padding"], dims)
        return modules.transposed(run, name, weight.shape, images, window, more, given["groups"], op.get(2, "bias"))
    return modules.conv(run, name, weight.shape, images, window, given["groups"], op.get(2, "bias"))


def _each(value: Any, dims: int) -> Any:
    """One number for every dimension, or one each."""
    if isinstance(value, str):
        return value
    values = (value,) if isinstance(value, int) else tuple(value)
    return values if len(values) == dims else values * dims


def _linear(run: "Run", op: Operation) -> Any:
    x, weight = op.x, op.get(1, "weight")
    name = run.own(weight) or computed.weight_behind(run, weight, x)
    if name is None or not modules.is_weight(run, name, (*modules.CONVOLUTIONS, nn.Linear)):
        return run.unknown_on_ids(op)
    return modules.linear(run, name, weight.shape, run.activation(x), op.get(2, "bias"))


def _batch_norm(run: "Run", op: Operation) -> Any:
    """Running statistics, weight and bias have the channels of dimension 1."""
    x: Tensor = op.x
    channels = run.channels_along(x, 1, "batch_norm")
    for tensor in (*op.args[1:5], *op.kwargs.values()):
        if isinstance(tensor, Ids):
            run.sets.union(tensor, channels)
        elif isinstance(tensor, Tensor):
            run.sets.freeze(x, "is normalised by tensors that are not the network's")
    return run.sets.roots(x)


def _normalised(run: "Run", op: Operation) -> Any:
    """Layer and group norms, `normalize`: over dimensions without channels they leave the channels alone. Over the
    channels each output depends on all; `Run.normlike` knows modules that do only this."""
    x = op.x
    run.freeze_counts(op.args[1:])
    if op.name in ("layer_norm", "rms_norm"):
        over = set(range(x.dim() - len(op.get(1, "normalized_shape")), x.dim()))
    elif op.name == "group_norm":
        over = set(range(1, x.dim()))
        run.norm_groups.append(op.get(1, "num_groups"))
    else:
        over = {plain(op.get(2, "dim", default=1)) % x.dim()}
    if over & set(channel_dims(x)):
        return run.unknown(op)
    tensors = [value for value in (*op.args[1:], *op.kwargs.values()) if isinstance(value, Ids)]
    run.freeze(tensors, "scales what has a fixed number of elements")
    return x


def _in_space(run: "Run", op: Operation) -> Any:
    """(B, C, H, W) -> (B, C, H', W')."""
    run.freeze_counts((op.args[1:], op.kwargs))
    return modules.in_space(run, op)


def _pad(run: "Run", op: Operation) -> Any:
    """Dimensions that are padded must have no channels."""
    x, sizes = op.x, op.get(1, "pad")
    run.freeze_counts(sizes)
    padded = {x.dim() - 1 - at // 2 for at, size in enumerate(plain(sizes)) if size}
    if padded & set(channel_dims(x)):
        return run.unknown(op)
    out = run.meta(op.function, op.args, op.kwargs)
    for dim in padded:
        x = x.narrow(dim, 0, 1)
    return x.expand(out.shape)


ON_TENSORS: Mapping[str, Callable[["Run", Operation], Any]] = {
    **{f"conv{back}{dims}d": _conv for back in ("", "_transpose") for dims in (1, 2, 3)},
    "linear": _linear,
    "__set__": lambda run, op: None,  # `weight.data = ...`
}
ON_IDS: Mapping[str, Callable[["Run", Operation], Any]] = {
    **dict.fromkeys(("batch_norm", "instance_norm"), _batch_norm),
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm", "normalize"), _normalised),
    **dict.fromkeys(IN_SPACE, _in_space),
    "pad": _pad,
}
