"""A network as it runs where it is used: what its time is measured on.

`torch`: eager, batch norms folded into the convolutions before them, in channels_last on a CPU, which oneDNN is
fastest in. `onnxruntime`: exported, on the CPU, with a pool of threads of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.io.files import JSON
from compress.measure.latency import Pass
from compress.models.onnx import export_onnx
from compress.models.unchanged import copy_replacing
from compress.prune.folding import Pair, fold, foldable, still_foldable
from compress.schema.settings import Runtime

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Where:
    """What a latency belongs to, besides the network."""

    device: torch.device
    runtime: Runtime
    threads: int
    batch: int

    def to_json(self) -> JSON:
        return {"runtime": self.runtime, "threads": self.threads, "batch": self.batch, "versions": self._versions()}

    def _versions(self) -> list[str]:
        if self.runtime == "torch":
            return [torch.__version__]
        import onnxruntime

        return [torch.__version__, onnxruntime.__version__]

    def zeros(self, *shape: int) -> Tensor:
        """Zeros of a shape, behind the axis of the batch; images in the memory format of the runtime."""
        made = torch.zeros(self.batch, *shape, device=self.device)
        return made.to(memory_format=torch.channels_last) if self.is_channels_last and made.dim() == 4 else made

    @property
    def is_channels_last(self) -> bool:
        return self.runtime == "torch" and self.device.type == "cpu"


def pairs_of(model: nn.Module, shape: Shape) -> list[Pair]:
    """The batch norms of a network that can be folded; none of one that cannot be followed."""
    try:
        graph = channel_graph(model, shape)
    except InputError:
        return []
    return foldable(model, graph.tapes[0])


def runnable(model: nn.Module, shape: Shape, where: Where, pairs: Sequence[Pair]) -> Pass:
    """A forward pass in eval mode for a batch of images of `shape` (C, H, W), of a copy of the network. `pairs` are
    those of `pairs_of`, or of the network that this one was cut of."""
    if where.runtime == "onnxruntime":
        return _session(model, shape, where)
    copied = copy_replacing(model, {}).to(where.device).eval()
    fold(copied, still_foldable(copied, pairs))
    return in_torch(copied, where.zeros(*shape), where)


def in_torch(module: nn.Module, inputs: Tensor, where: Where) -> Pass:
    """A pass of a module, which is moved, through the inputs."""
    module = module.to(where.device).eval()
    if where.is_channels_last:
        module = module.to(memory_format=torch.channels_last)
    return lambda: module(inputs)


def _session(model: nn.Module, shape: Shape, where: Where) -> Pass:
    with TemporaryDirectory(prefix="compress-") as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path, shape)
        return in_onnxruntime(path.read_bytes(), {"images": where.zeros(*shape)}, where)


def in_onnxruntime(content: bytes, inputs: dict[str, Tensor], where: Where) -> Pass:
    """A pass of an ONNX model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = where.threads, 1
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    fed = {name: value.cpu().numpy() for name, value in inputs.items()}
    return lambda: session.run(None, fed)
