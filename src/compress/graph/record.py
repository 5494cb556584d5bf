"""What a run on channel ids records: the ids on every axis of every tensor, and the layers that were run."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from compress.graph.ids import ChannelIds
from compress.graph.types import Axis, Layer

BY_THEMSELVES = "has weights that are used by themselves"
WITH_WEIGHTS = (  # that are named where no run calls them
    nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention,
)  # fmt: skip
FIXED = "is as long as a tensor that is not cut"
OPEN_ELEMENTS = 300_000  # of a parameter that is used by itself and gets an id per element; a larger one is frozen


class Record:
    """All runs of one network share one. Tensors go by their names in the network."""

    def __init__(self, model: nn.Module) -> None:
        self.ids = ChannelIds()
        self.axes: dict[Axis, Tensor] = {}
        self.layers: dict[str, Layer] = {}
        self.norms: dict[str, tuple[int, Axis]] = {}
        self.computed: set[str] = set()  # layers that compute their weights
        self.scaled_by: dict[str, str] = {}
        self.tables: dict[str, Axis] = {}  # embeddings, which produce channels and are no layers
        self.whole: dict[
            str, str
        ] = {}  # modules with weights that are no layers of the graph, and why they stay whole
        # A tensor that several modules share goes by its first name.
        first: dict[int, str] = {}
        tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        self._name = {name: first.setdefault(id(tensor), name) for name, tensor in tensors}
        self.products: list[
            tuple[Tensor, int]
        ] = []  # of activations: ids (n,), and the MACs of each of these channels
        self._parameters = {name for name, _ in model.named_parameters()}
        self._open: dict[str, Tensor] = {}  # by tensor: an id for every element
        self.measured: dict[str, None] = {}  # modules of which a size was read, in order
        self._sizes: dict[Axis, Tensor] = {}  # of tensors, read by the network before anything was known of the axis
        self.dtype = next((t.dtype for _, t in tensors if t.is_floating_point()), torch.float32)
        self._may_idle = [name for name, module in model.named_modules() if isinstance(module, WITH_WEIGHTS)]
        self._ran: dict[str, bool] = {}  # modules that were run, and whether all their parts count as run

    def axis(self, tensor: str, dim: int) -> Axis:
        return Axis(self._name.get(tensor, tensor), dim)

    def put(self, tensor: str, dim: int, ids: Tensor) -> None:
        """Put ids (C,) on an axis. If it has some already (a layer that runs twice), the two are united."""
        axis = self.axis(tensor, dim)
        if axis in self.axes:
            self.ids.union(self.axes[axis], ids)
        else:
            self.axes[axis] = ids

    def issue(self, tensor: str, dim: int, count: int) -> Tensor:
        """The ids of an axis (count,), fresh ones if it has none yet."""
        axis = self.axis(tensor, dim)
        if axis not in self.axes:
            self.axes[axis] = self.ids.fresh(count)
        return self.axes[axis]

    def freeze(self, tensor: str, shape: torch.Size, why: str) -> None:
        """Freeze all axes of a tensor of the network."""
        for dim, size in enumerate(shape):
            self.ids.freeze(self.issue(tensor, dim, size), why)

    def elements(self, tensor: str, shape: torch.Size) -> Tensor:
        """Ids of a parameter that the network uses by itself: of its channels if only one axis is longer than 1, else
        one for every element, and `close` finds the axis that channels lie on."""
        long = [dim for dim, size in enumerate(shape) if size > 1]
        if len(long) == 1:
            return self.issue(tensor, long[0], shape[long[0]]).view(
                [-1 if dim == long[0] else 1 for dim in range(len(shape))]
            )
        if shape.numel() > OPEN_ELEMENTS:
            self.freeze(tensor, shape, BY_THEMSELVES)
            return torch.zeros((), dtype=torch.int64).expand(shape)
        name = self._name.get(tensor, tensor)
        if name not in self._open:
            self._open[name] = self.ids.fresh(shape.numel()).view(shape)
        return self._open[name]

    def size(self, tensor: str, dim: int, count: int) -> Tensor:
        """The ids (count,) that the size of an axis counts. Where there are none, `close` finds out whether the axis
        has got channels; otherwise its size is fixed."""
        axis = self.axis(tensor, dim)
        self.measured[tensor.rpartition(".")[0]] = None
        if axis in self.axes:
            return self.axes[axis]
        if axis not in self._sizes:
            self._sizes[axis] = self.ids.fresh(count)
        return self._sizes[axis]

    def close(self) -> None:
        """Put the ids of parameters that were used by themselves on an axis: the one along which every index meets at
        most one channel that other tensors have too. Without such an axis the parameter is frozen."""
        for name, ids in self._open.items():
            dim = self._channel_axis(ids)
            if dim is None or any(axis.tensor == name for axis in self.axes):
                self.ids.freeze(ids, BY_THEMSELVES)
                if name in self._parameters:
                    self.whole.setdefault(name.rpartition(".")[0], BY_THEMSELVES)
                self.freeze(name, ids.shape, BY_THEMSELVES)
            else:
                rows = ids.movedim(dim, 0).flatten(1)
                self.ids.union(rows, rows[:, :1])
                self.put(name, dim, rows[:, 0])
        for axis, ids in self._sizes.items():
            if axis in self.axes:
                self.ids.union(self.axes[axis], ids)
            else:
                self.ids.freeze(ids, FIXED)

    def _channel_axis(self, ids: Tensor) -> int | None:
        roots = self.ids.roots(ids)
        known = torch.zeros(len(self.ids.all_roots()), dtype=torch.bool)
        known[self.ids.roots(torch.cat([*self.axes.values(), ids.new_zeros(1)]))] = True
        met = known[roots]
        if not bool((met & (roots != 0)).any()):
            return None
        high = torch.where(met, roots, -1)
        low = torch.where(met, roots, len(known))
        for dim in range(ids.dim()):
            most, least = (x.movedim(dim, 0).flatten(1) for x in (high, low))
            most, least = most.amax(1), least.amin(1)
            if ids.shape[dim] > 1 and bool(((most == least) | (most < 0)).all()):
                return dim
        return None

    def layer(self, layer: Layer, counted: bool) -> None:
        """Add a call of a layer; one that only a run in train mode makes costs nothing."""
        before = self.layers.get(layer.name)
        uses = before.macs_per_weight if before else 0  # of earlier calls of the same layer
        self.layers[layer.name] = replace(layer, macs_per_weight=uses + layer.macs_per_weight * counted)

    def snapshot(self) -> Callable[[], None]:
        """A function that forgets what was recorded since now."""
        sets = self.ids.snapshot()
        own = {
            name: dict(getattr(self, name))
            for name in ("axes", "layers", "norms", "scaled_by", "whole", "_open", "_sizes")
        }
        products = len(self.products)

        def forget() -> None:
            self.ids.restore(sets)
            del self.products[products:]
            for name, value in own.items():
                setattr(self, name, value)

        return forget

    def ran(self, module: str, with_parts: bool = True) -> None:
        """Mark a module as run, and with it all modules inside."""
        self._ran[module] = self._ran.get(module, False) or with_parts

    def idle(self) -> list[str]:
        """Layers with weights that no run has called."""
        return sorted(name for name in self._may_idle if not self._has_run(name))

    def _has_run(self, name: str) -> bool:
        parts = name.split(".")
        return name in self._ran or any(self._ran.get(".".join(parts[:at])) for at in range(1, len(parts)))
