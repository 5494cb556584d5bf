"""The layers of a network as blocks: what the time of one depends on besides its widths.

A block is a convolution of images or a linear layer, with an activation behind it, as it is when batch norms are
folded. Layers of other kinds, and what no layer does (additions, poolings), have no block: the fit of the prediction
takes them in (`compress.prune.latency.prediction`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compress.graph.types import ChannelGraph
from compress.io.files import JSON
from compress.measure.latency import Pass
from compress.measure.macs import in_eval_mode
from compress.models.inputs import call
from compress.prune.folding import fold
from compress.prune.latency.runtime import Shape, Where, in_onnxruntime, in_torch


@dataclass(frozen=True)
class Block:
    """`size` is that of its input, behind batch and channels (of a linear layer: between batch and features)."""

    size: tuple[int, ...]
    kernel: tuple[int, int] | None = None  # None: linear
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    per_group: tuple[int, int] | None = None  # channels in and out of each conv group, if there are several

    def to_json(self) -> JSON:
        return asdict(self)

    def run(self, inputs: int, outputs: int, where: Where) -> Pass:
        """A pass of this block with so many channels."""
        shape = (inputs, *self.size) if self.kernel is not None else (*self.size, inputs)
        if where.runtime == "onnxruntime":
            return in_onnxruntime(self._onnx(inputs, outputs, where.batch), {"x": where.zeros(*shape)}, where)
        return in_torch(self._module(inputs, outputs), where.zeros(*shape), where)

    def _groups(self, outputs: int) -> int:
        return 1 if self.per_group is None else max(1, outputs // self.per_group[1])

    def _module(self, inputs: int, outputs: int) -> nn.Module:
        if self.kernel is None:
            return nn.Linear(inputs, outputs)
        conv = nn.Conv2d(
            inputs, outputs, self.kernel, self.stride, self.padding, self.dilation, self._groups(outputs), bias=False
        )
        made = nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)).eval()
        fold(made, [("0", "1")])
        return made

    def _onnx(self, inputs: int, outputs: int, batch: int) -> bytes:
        """As an ONNX model of input x: written by hand, since an export takes seconds."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        groups = self._groups(outputs)
        if self.kernel is None:
            weight, shape = torch.zeros(inputs, outputs), [batch, *self.size, inputs]
            nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Add", ["y", "b"], ["z"])]
        else:
            weight, shape = torch.zeros(outputs, inputs // groups, *self.kernel), [batch, inputs, *self.size]
            settings: dict[str, Any] = {
                "kernel_shape": self.kernel, "strides": self.stride, "pads": (*self.padding, *self.padding),
                "dilations": self.dilation, "group": groups,
            }  # fmt: skip
            nodes = [
                helper.make_node("Conv", ["x", "w", "b"], ["y"], **settings),
                helper.make_node("Relu", ["y"], ["z"]),
            ]
        tensors = [
            numpy_helper.from_array(value.numpy(), name)
            for name, value in (("w", weight), ("b", torch.zeros(outputs)))
        ]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * len(shape))
        graph = helper.make_graph(nodes, "block", [x], [z], tensors)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made)
        return bytes(made.SerializeToString())


class Use(NamedTuple):
    """One call of a layer."""

    block: Block
    layer: int  # its place among the graph's


def uses(model: nn.Module, graph: ChannelGraph, shape: Shape) -> list[Use]:
    """The calls, in order, of those layers that are blocks, for images of `shape`. The network is left as it was."""
    modules = dict(model.named_modules())
    found: list[Use] = []

    def note(layer: int, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and (block := _block(module, inputs[0].shape)) is not None:
            found.append(Use(block, layer))

    hooks = []
    try:
        for at, layer in enumerate(graph.layers):
            if layer.name in modules:
                hooks.append(modules[layer.name].register_forward_pre_hook(_noting(note, at)))
        with in_eval_mode(model), torch.no_grad():
            call(model, shape)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _noting(note: Any, layer: int) -> Any:
    return lambda module, inputs: note(layer, module, inputs)


def _block(module: nn.Module, shape: Sequence[int]) -> Block | None:
    if type(module) is nn.Linear:
        return Block(tuple(shape[1:-1]))
    if type(module) is not nn.Conv2d or isinstance(module.padding, str):
        return None
    grouped = (module.in_channels // module.groups, module.out_channels // module.groups)
    height, width = module.kernel_size
    pads = [int(size) for size in module.padding]
    return Block(
        tuple(shape[2:]), (height, width), _pair(module.stride), (pads[0], pads[1]), _pair(module.dilation),
        grouped if module.groups > 1 else None,
    )  # fmt: skip


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second


def distinct(found: Sequence[Use]) -> Iterator[Block]:
    yield from dict.fromkeys(use.block for use in found)
