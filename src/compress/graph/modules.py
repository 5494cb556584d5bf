"""Layers: which ids are on which axis of which tensor.

To add one: enter its type in `SAME`, `IN_SPACE` or `KNOWN`, there with a function of the run, the layer's name, the
layer and its input, that gives the ids of the output. A layer of torch.nn that is not here freezes what it touches.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from compress.graph.counts import Count, plain
from compress.graph.ids import channel_dims, spread, unexpanded
from compress.graph.recurrent import CELLS, RECURRENT, cell, recurrent
from compress.graph.twin import DROPS, is_leaf
from compress.graph.types import Axis, Layer
from compress.graph.values import Ids, Operation, stand_in
from compress.models.layers import Attention, ChannelPad, ChannelSelection, EmptyConv
from compress.models.unchanged import copy_replacing

if TYPE_CHECKING:
    from compress.graph.record import Record
    from compress.graph.run import Run

CHANNELWISE_NORMS = (  # each channel by itself
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)  # fmt: skip
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)  # over several channels at once
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
SAME = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid,
    nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
    nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU, nn.Softsign, nn.LogSigmoid, nn.Hardshrink,
    nn.Softshrink, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
IN_SPACE = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.LPPool1d, nn.LPPool2d, nn.LPPool3d, nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d, nn.ZeroPad1d,
    nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d,
    nn.ReplicationPad2d, nn.ReplicationPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
    nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d,
)  # fmt: skip


ACROSS = "mixes what is no channel, for every channel by itself"


class Window(NamedTuple):
    """How a convolution moves over its images."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]

    def over(self, sizes: torch.Size) -> list[int]:
        """Height and width (or length, ...) of the output."""
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        if isinstance(self.padding, str):
            padded = reach if self.padding == "same" else [0] * len(reach)
        else:
            padded = [2 * padding for padding in self.padding]
        out = [(n + p - r - 1) // s + 1 for n, p, r, s in zip(sizes, padded, reach, self.stride, strict=True)]
        if min(out) < 1:
            raise ValueError(f"a kernel of {self.kernel} on images of {tuple(sizes)}")
        return out

    def back_over(self, sizes: torch.Size, more: Sequence[int]) -> list[int]:
        """Height and width (or length, ...) of the output of a transposed one, with `more` pixels at the end."""
        window = zip(sizes, self.stride, self.padding, self.dilation, self.kernel, more, strict=True)
        return [(n - 1) * s - 2 * int(p) + d * (k - 1) + m + 1 for n, s, p, d, k, m in window]


def call(run: "Run", name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
    """A layer of the network, with its hooks and tensors as they are there, called with ids."""
    if not is_patched(module):
        for kinds, handler in KNOWN:
            if type(module).__name__ in DROPS if kinds is DROPS else isinstance(module, kinds):
                if (result := handler(run, name, module, *args, **kwargs)) is not None:
                    return result
                break
    return opaque(run, name, module, args, kwargs)


def is_patched(module: nn.Module) -> bool:
    """Whether a layer may not compute what its class does: `forward` replaced, hooks, or a weight or bias that is
    computed from other parameters (a plain attribute, as old weight norm sets it; a parametrization)."""
    if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
        return True
    return "parametrizations" in module._modules or any(
        isinstance(vars(module).get(name), Tensor) for name in ("weight", "bias")
    )


def opaque(run: "Run", name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
    """A layer that is in none of the tables. Its tensors are frozen too: other layers may share them."""
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    if own:
        run.found.whole[name] = f"is a {type(module).__name__} that the channel graph does not know"
    for tensor, value in own.items():
        run.found.freeze(f"{name}.{tensor}" if name else tensor, value.shape, f"shares weights with {name!r}")
    on_meta = {tensor: nn.Parameter(new, False) if isinstance(tensor, nn.Parameter) else new
               for tensor in own.values() for new in [torch.empty_like(tensor, device="meta")]}  # fmt: skip
    bare = copy_replacing(module, on_meta)
    for part in bare.modules():  # hooks of users are not called with meta tensors
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return run.unknown(Operation(name, bare, args, kwargs))


# -- numbers of channels that a network reads off its layers -----------------------------------------------------


def number_layers(twin: nn.Module, found: "Record") -> None:
    """Replace the numbers of channels of layers (`conv.out_channels`) by `Count`s, as a cut changes them."""
    for name, module in twin.named_modules():
        if is_leaf(module):
            vars(module).update(_numbers(found, name, module))


def _numbers(found: "Record", name: str, module: Any) -> dict[str, Any]:
    def count(tensor: str, dim: int, value: int, factor: int = 1) -> int:
        axis = _within(name, tensor)
        number: int = Count.later(found.ids, lambda: found.size(axis, dim, value), value * factor, factor)
        return number

    if isinstance(module, CONVOLUTIONS) and isinstance(module.weight, Tensor):
        out, per_group = module.weight.shape[:2]
        numbers = {"out_channels": count("weight", 0, out)}
        if module.groups == module.in_channels > 1:  # depthwise: one channel for `out // groups` outputs
            groups, weight = module.groups, _within(name, "weight")
            first = lambda: found.size(weight, 0, out).view(groups, -1)[:, 0]  # noqa: E731
            return {**numbers, **dict.fromkeys(("in_channels", "groups"), Count.later(found.ids, first, groups))}
        return {**numbers, "in_channels": count("weight", 1, per_group, module.groups)}
    if isinstance(module, nn.Linear):
        return {
            "out_features": count("weight", 0, module.out_features),
            "in_features": count("weight", 1, module.in_features),
        }
    if isinstance(module, (*CHANNELWISE_NORMS, *NORMS)):
        attribute = _number_of(module)
        tensor = next(iter(_norm_tensors(module)), attribute)
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            shape = module.normalized_shape
            return {attribute: (count(tensor, 0, shape[0]),)} if len(shape) == 1 else {}
        return {attribute: count(tensor, 0, getattr(module, attribute))}
    return {}


def _number_of(norm: nn.Module) -> str:
    """The attribute of a norm that holds its number of channels."""
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        return "normalized_shape"
    return "num_channels" if isinstance(norm, nn.GroupNorm) else "num_features"


def _norm_tensors(norm: nn.Module) -> list[str]:
    return [
        name for name in ("weight", "bias", "running_mean", "running_var") if getattr(norm, name, None) is not None
    ]


# -- layers with weights ----------------------------------------------------------------------------------------


def is_weight(run: "Run", tensor: str, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a tensor is the weight of a layer of these kinds, which a function may be called with."""
    owner, _, attribute = tensor.rpartition(".")
    module = run.model.get_submodule(owner)
    return attribute == "weight" and isinstance(module, kinds) and "weight" in module._parameters


def _outputs(run: "Run", weight: str, dim: int, count: int, bias: Any) -> Tensor:
    """The ids of a layer's outputs, on its bias too: the name of a parameter, or ids."""
    outputs = run.found.issue(weight, dim, count)
    _biased(run, outputs, bias)
    return outputs


def _biased(run: "Run", outputs: Tensor, bias: Any) -> None:
    if isinstance(bias, Tensor):
        if (own := run.own(bias)) is not None:
            run.found.put(own, 0, outputs)
        else:
            run.sets.union(bias if isinstance(bias, Ids) else stand_in(bias.shape), outputs)


def _expect(count: int, x: Tensor, dim: int) -> None:
    if x.shape[dim] != count:
        raise ValueError(f"it takes {count} channels, and gets {x.shape[dim]}")


def conv(run: "Run", weight: str, shape: torch.Size, x: Tensor, window: Window, groups: int, bias: Any) -> Tensor:
    """A convolution (also of one or three dimensions) with a weight (out, in / groups, ...) of the network."""
    name = weight.rpartition(".")[0]
    per_group = shape[1]
    _expect(per_group * groups, x, 1)
    pointwise = {*window.kernel, *window.stride} == {1} and groups == 1
    if pointwise and works_across(x, 1) and torch.Size(window.over(x.shape[2:])) == x.shape[2:]:
        return across(run, weight, shape, x, 1, bias)
    inputs = run.channels_along(x, 1, name)
    outputs = _outputs(run, weight, 0, shape[0], bias)
    in_axis: Axis | None = run.found.axis(weight, 1)
    if groups == 1:
        run.found.put(weight, 1, inputs)
    elif per_group == 1:  # depthwise: output j belongs to input j // multiplier; whole conv groups can be cut
        run.sets.union(inputs[:, None], outputs.view(groups, -1))
        in_axis = None
    else:  # all conv groups must keep equally many channels: couple channel i of every conv group
        by_group = inputs.reshape(groups, per_group)
        run.sets.union(by_group, by_group[:1])
        run.found.put(weight, 1, by_group[0])
        by_group = outputs.view(groups, -1)
        run.sets.union(by_group, by_group[:1])
    out = torch.Size([x.shape[0], shape[0], *window.over(x.shape[2:])])
    uses = out.numel() // shape[0]
    kind = "conv" if len(window.kernel) == 2 else f"conv{len(window.kernel)}d"
    run.found.layer(
        Layer(name, kind, run.found.axis(weight, 0), in_axis, uses, window.kernel[0], window.stride[0], groups),
        run.counted,
    )
    return spread(outputs, out)


def works_across(x: Tensor, dim: int) -> bool:
    """Whether channels lie on other dimensions only, so that a layer over this one treats every channel by itself:
    a mixer of tokens."""
    dims = channel_dims(x)
    return bool(dims) and dim not in dims


def across(run: "Run", weight: str, shape: torch.Size, x: Tensor, dim: int, bias: Any) -> Tensor:
    """A linear layer along dimension `dim`, on which there are no channels: its own widths stay as they are, and it
    costs the same for every channel that is left."""
    name = weight.rpartition(".")[0]
    run.found.whole[name] = ACROSS
    run.found.freeze(weight, shape, ACROSS)
    if isinstance(bias, Tensor):
        _biased(run, stand_in(shape[:1]), bias)
    few = unexpanded(x.narrow(dim, 0, 1))
    each = x.shape.numel() // (x.shape[dim] * few.numel()) * shape[:2].numel()
    run.found.products.append((few.flatten(), each * run.counted))
    return x.narrow(dim, 0, 1).expand([shape[0] if at == dim else size for at, size in enumerate(x.shape)])


def transposed(
    run: "Run", weight: str, shape: torch.Size, x: Tensor, window: Window, more: Sequence[int], groups: int, bias: Any
) -> Tensor:
    """A transposed convolution with a weight (in, out / groups, ...) of the network."""
    name = weight.rpartition(".")[0]
    _expect(shape[0], x, 1)
    inputs = run.channels_along(x, 1, name)
    run.found.put(weight, 0, inputs)
    by_group = inputs.reshape(groups, -1)
    own, other = run.found.axis(weight, 1), run.found.axis(weight, 0)
    if groups > 1 and by_group.shape[1] == 1:  # depthwise: whole conv groups can be cut, outputs with their input
        outputs = inputs.repeat_interleave(shape[1])
        _biased(run, outputs, bias)
        axes: tuple[Axis, Axis | None] = other, None
    else:  # all conv groups must keep equally many channels
        run.sets.union(by_group, by_group[:1])
        outputs = run.found.issue(weight, 1, shape[1]).repeat(groups)
        _biased(run, outputs, bias)
        axes = own, other
    places = x.shape[0] * x.shape[2:].numel()
    kind = f"transposed{len(window.kernel)}d"
    run.found.layer(Layer(name, kind, *axes, places, window.kernel[0], window.stride[0], groups), run.counted)
    return spread(outputs, [x.shape[0], len(outputs), *window.back_over(x.shape[2:], more)])


def linear(run: "Run", weight: str, shape: torch.Size, x: Tensor, bias: Any) -> Tensor:
    name = weight.rpartition(".")[0]
    _expect(shape[1], x, -1)
    if works_across(x, x.dim() - 1):
        return across(run, weight, shape, x, x.dim() - 1, bias)
    run.found.put(weight, 1, run.channels_along(x, -1, name))
    outputs = _outputs(run, weight, 0, shape[0], bias)
    _layer(run, name, weight, uses=x.shape[:-1].numel())
    return outputs.expand(*x.shape[:-1], -1)


def _within(name: str, attribute: str) -> str:
    return f"{name}.{attribute}" if name else attribute


def _conv(run: "Run", name: str, module: Any, x: Tensor) -> Tensor | None:
    if x.dim() != len(module.kernel_size) + 2:  # one image without a batch
        return None
    window = Window(module.kernel_size, module.stride, module.padding, module.dilation)
    weight = _within(name, "weight")
    return conv(run, weight, module.weight.shape, x, window, module.groups, module.bias)


def _transposed(run: "Run", name: str, module: Any, x: Tensor, output_size: Any = None) -> Tensor | None:
    over = len(module.kernel_size)
    if x.dim() != over + 2:
        return None
    more = module.output_padding
    if output_size is not None:
        run.freeze_counts(output_size)
        settings = module.stride, module.padding, module.kernel_size, over, module.dilation
        more = module._output_padding(x, plain(list(output_size)), *settings)
    window = Window(module.kernel_size, module.stride, module.padding, module.dilation)
    return transposed(run, _within(name, "weight"), module.weight.shape, x, window, more, module.groups, module.bias)


def _embedding(run: "Run", name: str, module: nn.Embedding, x: Tensor) -> Tensor | None:
    """Rows of a table, whose columns are the channels; with a largest norm it changes its rows by all of them."""
    if module.max_norm is not None or channel_dims(x):
        return None
    outputs = run.found.issue(_within(name, "weight"), 1, module.embedding_dim)
    run.found.tables[name] = run.found.axis(_within(name, "weight"), 1)
    return outputs.expand(*x.shape, -1)


def _linear(run: "Run", name: str, module: nn.Linear, x: Tensor) -> Tensor:
    return linear(run, _within(name, "weight"), module.weight.shape, x, module.bias)


def _attention(
    run: "Run",
    name: str,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    """Attention by whole heads: a head is its rows of q, k and v, its columns of the output's projection, and one of
    `num_heads`. With one weight for all three they read the channels of one stream."""
    bare = isinstance(module, Attention) or (module.bias_k is None and not module.add_zero_attn)
    fits = query.dim() == key.dim() == value.dim() == 3 and key.shape[:2] == value.shape[:2]
    masks = [mask for mask in (key_padding_mask, attn_mask) if isinstance(mask, Tensor)]
    if not (bare and fits) or run.has_ids(masks) or any(mask.dim() == 3 for mask in masks):
        return None
    heads = run.found.issue(_within(name, "num_heads"), 0, module.num_heads)
    rows = heads.repeat_interleave(module.head_dim)
    together = module.in_proj_weight is not None
    for letter, x in (("q", query), ("k", key), ("v", value)):
        tensor = "in_proj_weight" if together else f"{letter}_proj_weight"
        _expect(getattr(module, tensor).shape[1], x, -1)
        run.found.put(_within(name, tensor), 1, run.channels_along(x, -1, name))
        run.found.put(_within(name, tensor), 0, rows.repeat(3 if together else 1))
        if not together:
            _layer(run, _within(name, f"{letter}_proj"), _within(name, tensor), x.shape[:-1].numel())
    if module.in_proj_bias is not None:
        run.found.put(_within(name, "in_proj_bias"), 0, rows.repeat(3))
    if together:  # a third of the weight is used for each token of each
        uses = sum(x.shape[:-1].numel() for x in (query, key, value))
        _layer(run, _within(name, "in_proj"), _within(name, "in_proj_weight"), uses / 3 if uses % 3 else uses // 3)
    batch, tokens = query.shape[:2] if module.batch_first else (query.shape[1], query.shape[0])
    others = key.shape[1 if module.batch_first else 0]
    run.found.products.append((heads, 2 * batch * tokens * others * module.head_dim * run.counted))
    projection = _within(name, "out_proj.weight")
    mixed = rows.expand(*query.shape[:-1], -1)
    out = linear(run, projection, module.out_proj.weight.shape, mixed, module.out_proj.bias)
    if not need_weights:
        return out, None
    of_heads = () if average_attn_weights else (module.num_heads,)
    weights = stand_in((batch, *of_heads, tokens, others))
    weights.guards = heads
    return out, weights


def _layer(run: "Run", name: str, weight: str, uses: float) -> None:
    axes = run.found.axis(weight, 0), run.found.axis(weight, 1)
    run.found.layer(Layer(name, "linear", *axes, uses, 1, 0, 1), run.counted)


# -- norms ------------------------------------------------------------------------------------------------------


def _norm(run: "Run", name: str, norm: nn.Module, x: Tensor, dim: int) -> Tensor:
    """A norm over dimension `dim`. One without tensors still has its number of channels as an int, which surgery
    lowers: that is recorded as its axis."""
    channels = run.channels_along(x, dim, name)
    tensors, attribute = _norm_tensors(norm), _number_of(norm)
    if tensors:
        _expect(len(getattr(norm, tensors[0])), x, dim)
    for tensor in tensors or [attribute]:
        run.found.put(_within(name, tensor), 0, channels)
    if isinstance(norm, nn.GroupNorm) and norm.num_channels > norm.num_groups:
        by_group = channels.reshape(norm.num_groups, -1)  # all norm groups must keep equally many channels
        run.sets.union(by_group, by_group[:1])
    if isinstance(norm, NORMS):
        last = isinstance(norm, nn.LayerNorm | nn.RMSNorm)
        axis = run.found.axis(_within(name, (tensors or [attribute])[0]), 0)
        run.found.norms[name] = -1 if last else dim, axis
    return run.sets.roots(x)


def own_norm(run: "Run", name: str, norm: nn.Module, x: Tensor, dim: int, numbers: Sequence[str]) -> Tensor:
    """A norm of somebody's own over dimension `dim`: its tensors have the channels, and so have the integer
    attributes among `numbers` that its forward has read."""
    channels = run.channels_along(x, dim, name)
    tensors = {_within(name, t): None for t, value in own_tensors(norm) if value.dim()}
    for tensor in {**tensors, **{n: None for n in numbers if n.rpartition(".")[0] == name}}:
        run.found.put(tensor, 0, channels)
    attributes = list(vars(run.twin.get_submodule(name)).values())
    for groups in run.norm_groups:
        if plain(groups) == len(channels) and any(groups is number for number in attributes):
            continue  # an attribute that is lowered with the channels
        by_group = channels.reshape(plain(groups), -1)
        run.sets.union(by_group, by_group[:1])
    run.found.norms[name] = -1 if dim == x.dim() - 1 else dim, run.found.axis(next(iter(tensors)), 0)
    return run.sets.roots(x)


def own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    own = (*module._parameters.items(), *module._buffers.items())
    return [(name, tensor) for name, tensor in own if tensor is not None]


def _channelwise_norm(run: "Run", name: str, norm: nn.Module, x: Tensor) -> Tensor:
    return _norm(run, name, norm, x, 1)


def _group_norm(run: "Run", name: str, norm: nn.Module, x: Tensor) -> Tensor:
    return _norm(run, name, norm, x, 1)


def _layer_norm(run: "Run", name: str, norm: nn.LayerNorm, x: Tensor) -> Tensor | None:
    return _norm(run, name, norm, x, x.dim() - 1) if len(norm.normalized_shape) == 1 else None


def _prelu(run: "Run", name: str, module: nn.PReLU, x: Tensor) -> Tensor:
    if module.num_parameters > 1:
        run.found.put(_within(name, "weight"), 0, run.channels_along(x, 1, name))
    return x


# -- layers without weights -------------------------------------------------------------------------------------


def _same(run: "Run", name: str, module: nn.Module, x: Tensor, *_: Any) -> Tensor:
    return x


def _in_space(run: "Run", name: str, module: nn.Module, *args: Any) -> Any:
    return in_space(run, Operation(type(module).__name__, module, args, {}), name)


def in_space(run: "Run", op: Operation, layer: str = "") -> Any:
    """Pooling, resizing, padding in space: (B, C, H, W) -> (B, C, H', W'). Two dimensions without a batch are
    (C, H, W)."""
    x = op.x
    over = next((int(letter) for letter in op.name if letter.isdigit()), x.dim() - 2)
    if x.dim() != over + 2 or run.has_ids((op.args[1:], op.kwargs)):
        return run.unknown(op)
    out = run.probed(op, (1, 1, *x.shape[2:]))
    if not isinstance(out, Tensor) or out.shape[:2] != (1, 1):
        return run.unknown(op)
    return spread(run.channels_along(x, 1, layer or op.name), (*x.shape[:2], *out.shape[2:]))


def _channel_pad(run: "Run", name: str, pad: ChannelPad, x: Tensor) -> Tensor:
    """Padded channels get fresh ids; surgery lowers the ints `before` and `after` by the channels it cuts."""
    before = run.found.issue(_within(name, "before"), 0, pad.before)
    after = run.found.issue(_within(name, "after"), 0, pad.after)
    channels = torch.cat([before, run.channels_along(x, 1, name), after])
    return spread(channels, [x.shape[0], len(channels), *x.shape[2:]])


def _selection(run: "Run", name: str, selection: ChannelSelection, x: Tensor) -> Tensor:
    """Input channels are frozen; the selected ones get fresh ids, so that each selection is cut by itself."""
    before = run.layer_before(x)
    if before and isinstance(run.model.get_submodule(before), CHANNELWISE_NORMS):
        run.found.scaled_by[_within(name, "indices")] = before
    run.freeze(x, f"is selected from by {name}")
    chosen = run.found.issue(_within(name, "indices"), 0, len(selection.indices))
    return spread(chosen, [x.shape[0], len(chosen), *x.shape[2:]])


def _empty_conv(run: "Run", name: str, conv: EmptyConv, x: Tensor) -> Tensor:
    """Outputs get fresh ids; no input is read. Surgery lowers the int `out_channels` by the channels it cuts."""
    outputs = _outputs(run, _within(name, "out_channels"), 0, conv.out_channels, conv.bias)
    return spread(outputs, [x.shape[0], len(outputs), *conv.size(x)])


def _flatten(run: "Run", name: str, module: nn.Flatten, x: Tensor) -> Any:
    return run.on_ids(torch.flatten, x, module.start_dim, module.end_dim)


def _unflatten(run: "Run", name: str, module: nn.Unflatten, x: Tensor) -> Any:
    return run.on_ids(Tensor.unflatten, x, module.dim, module.unflattened_size)


def _softmax(run: "Run", name: str, module: nn.Softmax, x: Tensor) -> Any:
    return run.on_ids(torch.softmax, x, module.dim)


def _pixel_shuffle(run: "Run", name: str, module: nn.PixelShuffle, x: Tensor) -> Any:
    return run.on_ids(torch.pixel_shuffle, x, module.upscale_factor)


def _pixel_unshuffle(run: "Run", name: str, module: nn.PixelUnshuffle, x: Tensor) -> Any:
    return run.on_ids(torch.pixel_unshuffle, x, module.downscale_factor)


def _channel_shuffle(run: "Run", name: str, module: nn.ChannelShuffle, x: Tensor) -> Any:
    return run.on_ids(torch.channel_shuffle, x, module.groups)


KNOWN: tuple[tuple[Any, Callable[..., Any]], ...] = (
    (CONVOLUTIONS, _conv),
    (TRANSPOSED, _transposed),
    (nn.Linear, _linear),
    (nn.Embedding, _embedding),
    (RECURRENT, recurrent),
    (CELLS, cell),
    ((nn.MultiheadAttention, Attention), _attention),
    (CHANNELWISE_NORMS, _channelwise_norm),
    (nn.GroupNorm, _group_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    (nn.PReLU, _prelu),
    (SAME, _same),
    (DROPS, _same),
    (IN_SPACE, _in_space),
    (ChannelPad, _channel_pad),
    (ChannelSelection, _selection),
    (EmptyConv, _empty_conv),
    (nn.Flatten, _flatten),
    (nn.Unflatten, _unflatten),
    ((nn.Softmax, nn.LogSoftmax), _softmax),
    (nn.PixelShuffle, _pixel_shuffle),
    (nn.PixelUnshuffle, _pixel_unshuffle),
    (nn.ChannelShuffle, _channel_shuffle),
)
