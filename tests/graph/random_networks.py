"""Random networks, and the law that every one of them has to keep.

A network is a seeded sequence of the kinds of operation of `network_kinds`. Each takes an activation that is there,
mostly one that nothing has read yet, so sums, products and concatenations make it an acyclic graph; in the end every
activation that nothing reads gets a linear layer, and these are summed. The network is Python source, so that a
failure can be read and reproduced:

    python tests/graph/random_networks.py SEED      # prints the network of a seed, its groups, and what is wrong
"""

import copy
import linecache
import random
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import peoples_layers
import torch
import torch.utils.checkpoint
from network_kinds import KINDS, Kind
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.measure.macs import count_macs, count_params
from compress.prune.cost import CostModel, cost_model
from compress.prune.surgery import CutCopy, cut, masked

SIZES = ((8, 8), (12, 10))  # of the images that a network must take; one that is of one image size, only the first
BATCHES = (2, 3)
WIDTHS = (4, 6, 8, 12)
RANKS = {"map": 4, "tokens": 3, "vector": 2, "row": 3, "volume": 5}
CHANNELS = {"tokens": -1}  # the dimension of channels; 1 elsewhere
# torch's counter has no formula for these, or counts them as nothing
NOT_IN_TORCH = {"bilinear", "recurrent", "sum over height, outer", "spectral norm", "sampled on a grid"}
TOLERANCE = 1e-9  # of the largest logit

Scope = dict[str, Any]
NAMES: Scope = {"np": np, "random": random, "torch": torch, "nn": nn, "F": F, "Tensor": Tensor} | {
    name: value for name, value in vars(peoples_layers).items() if isinstance(value, type) and name != "Any"
}


@dataclass
class Network:
    """A network as source, and what it is made of."""

    seed: int
    kinds: tuple[str, ...]
    source: str
    sizes: tuple[tuple[int, int], ...]

    def build(self) -> nn.Module:
        """With random weights and statistics: nothing is zero or one. Eval mode, float64."""
        file = f"<network {self.seed}>"
        linecache.cache[file] = (len(self.source), None, self.source.splitlines(True), file)  # for error messages
        scope: Scope = {**NAMES, "__name__": "random_networks"}
        exec(compile(self.source, file, "exec"), scope)
        torch.manual_seed(self.seed)
        model: nn.Module = scope["Network"]().double().eval()
        return perturbed(model)


def perturbed(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.rand_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
            elif buffer.is_floating_point() and buffer.dim() > 0:
                buffer.uniform_(-0.5, 0.5)
    return model


# -- making one -------------------------------------------------------------------------------------------------


@dataclass
class Value:
    """An activation: its name in forward, and its tensor for every image size."""

    name: str
    layout: str
    tensors: tuple[Tensor, ...]
    readers: int = 0

    @property
    def channels(self) -> int:
        return self.tensors[0].shape[CHANNELS.get(self.layout, 1)]

    def places(self, but: bool = True) -> list[list[int]]:
        """Its shapes, without the number of channels."""
        at = CHANNELS.get(self.layout, 1) % self.tensors[0].dim()
        return [[n for dim, n in enumerate(t.shape) if not (but and dim == at)] for t in self.tensors]


def as_strided_copy(x: Tensor) -> Tensor:
    """A copy that a `view` takes if it takes the tensor: `clone` makes slices contiguous."""
    return x.clone() if 0 in x.stride() else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(x)


@dataclass
class Sketch:
    """A network in the making. Every operation is run as it is added, so that all shapes are known."""

    draw: random.Random
    one_size: bool
    model: nn.Module = field(default_factory=nn.Module)
    inits: list[str] = field(default_factory=list)
    forwards: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def sizes(self) -> tuple[tuple[int, int], ...]:
        return SIZES[:1] if self.one_size else SIZES

    def grow(self, kinds: Sequence[Kind]) -> None:
        """Add a kind that fits, at random."""
        while True:
            x = self.choose()
            moves = self.draw.random() < 0.25  # to another layout, or all would be maps
            fitting = [kind for kind in kinds if kind.takes == x.layout and moves == (kind.gives != x.layout)]
            if not fitting:
                continue
            kind = self.draw.choice(fitting)
            words = self.words(kind, x)
            with suppress(RuntimeError):  # a view that the strides of x do not allow
                if words is not None:
                    self.add(kind, x, *words)
                    return

    def choose(self) -> Value:
        """Mostly a value that nothing has read, and of these mostly a late one; small ones only."""
        able = [value for value in self.values if value.channels <= 24]
        unread = [value for value in able if not value.readers]
        return self.draw.choice(unread[-3:] if unread and self.draw.random() < 0.8 else able[-6:])

    def words(self, kind: Kind, x: Value) -> tuple[dict[str, Any], list[Value]] | None:
        """What the templates of a kind are filled with, and what else it reads; None if there is no such thing."""
        used = set(re.findall(r"{(\w)}|{(sizes)}", kind.init + kind.forward))
        used = {a or b for a, b in used}
        c, at = x.channels, len(self.kinds)
        words: dict[str, Any] = {"x": x.name, "y": f"x{at + 1}", "s": f"self.m{at}", "t": f"t{at}", "i": at}
        words |= {"c": c, "d": self.draw.choice(WIDTHS), "h": c // 2}
        others = [value for value in self.values if value is not x]
        alike = [v for v in others if v.layout == x.layout and v.places() == x.places()]
        among = {
            "z": [value for value in alike if value.channels == c],
            "w": alike,
            "v": [v for v in others if v.layout == "vector" and v.channels <= 24],
        }
        read = [x]
        for word, choice in among.items():
            if word in used:
                if word in "zw" and not choice and self.draw.random() < 0.5:
                    choice = [x]  # meets itself
                if not choice:
                    return None
                other = self.draw.choice(choice)
                words |= {word: other.name, {"z": "_", "w": "e", "v": "f"}[word]: other.channels}
                read.append(other)
        divisors = [n for n in range(2, c) if c % n == 0]
        if ({"g", "k"} & used and not divisors) or ("h" in used and c < 4) or c < 3:
            return None
        if divisors:
            words["g"] = self.draw.choice(divisors)
            words["k"] = words["g"] * self.draw.choice((1, 2, 3))
        if {"n", "sizes"} & used and not self.one_size:
            return None
        pixels = list(x.tensors[0].shape[2:])
        words["sizes"] = pixels
        words["n"] = x.tensors[0].shape[1] if x.layout == "tokens" else int(np.prod(pixels))
        return (words, read) if self.fits(kind, x) else None

    def fits(self, kind: Kind, x: Value) -> bool:
        """Whether there are pixels enough for a pool, and few enough to stay quick; an even number of channels where
        halves are taken."""
        text = kind.init + kind.forward
        places = [n for shape in x.places() for n in shape[1:]]
        halves = ("// 2" in text and "kernel" not in text) or "chunk(2, -1)" in kind.forward or "::2]" in text
        halves = halves or "-1, 2)" in text
        if halves and x.channels % 2:
            return False
        if kind.takes == "map" and min(places) < 3:
            return False
        if kind.takes in ("row", "volume", "tokens") and places and min(places[-2:]) < 4 and "pool" in kind.name:
            return False
        if kind.takes == "volume" and min(places[-2:]) < 2:
            return False
        return int(np.prod([*x.places()[-1][1:], x.channels])) <= 4000

    def add(self, kind: Kind, x: Value, words: Mapping[str, Any], read: Sequence[Value]) -> None:
        inits = [line.strip().format(**words) for line in kind.init.split(";;") if line.strip()]
        lines = [line.strip().format(**words) for line in kind.forward.split(";;")]
        self.run(inits, {})
        self.model.eval()
        results = []
        for at in range(len(self.sizes())):
            scope = {value.name: as_strided_copy(value.tensors[at]) for value in self.values}
            self.run(lines, scope)
            results.append(scope[words["y"]])
        self.inits += inits
        self.forwards += lines
        self.kinds.append(kind.name)
        for value in read:
            value.readers += 1
        assert results[0].dim() == RANKS[kind.gives], kind.name
        self.values.append(Value(words["y"], kind.gives, tuple(results)))

    def run(self, lines: Sequence[str], scope: Scope) -> None:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            everything = {**NAMES, "self": self.model, **scope}
            exec("\n".join(lines), everything)
            scope |= {name: everything[name] for name in everything if re.fullmatch(r"x\d+", name)}

    def finish(self) -> None:
        """A linear layer for whatever nothing has read."""
        logits = []
        for value in self.values:
            if not value.readers:
                over = tuple(range(2, RANKS[value.layout])) if value.layout != "tokens" else (1,)
                pooled = f"{value.name}.mean({over})" if over else value.name
                self.inits.append(f"self.head_{value.name} = nn.Linear({value.channels}, 5)")
                logits.append(f"self.head_{value.name}({pooled})")
        self.forwards.append("return " + " + ".join(logits))

    def source(self) -> str:
        """Of the class `Network`."""
        init = "".join(f"        {line}\n" for line in self.inits)
        forward = "".join(f"        {line}\n" for line in self.forwards)
        return (
            "class Network(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            f"{init}\n    def forward(self, x0):\n{forward}"
        )


def random_network(seed: int, kinds: Sequence[Kind] = KINDS, length: int | None = None) -> Network:
    """The network of a seed: 3 to 12 operations after one or two convolutions of the images."""
    draw = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sketch = Sketch(draw, one_size=draw.random() < 0.3)
        sketch.model.eval()
        images = Value("x0", "map", tuple(torch.randn(1, 3, *size) for size in sketch.sizes()))
        sketch.values = [images]
        by_name = {kind.name: kind for kind in KINDS}
        for _ in range(draw.choice((1, 2))):
            kind = by_name[draw.choice(("conv", "conv-bn-relu", "conv 1x1 without bias"))]
            words, read = sketch.words(kind, images) or ({}, [])
            sketch.add(kind, images, words, read)
        images.readers = 1
        sketch.values.remove(images)
        steps = draw.randint(3, 12) if length is None else length
        for _ in range(steps):
            sketch.grow(kinds)
        sketch.finish()
    return Network(seed, tuple(sketch.kinds), sketch.source(), sketch.sizes())


# -- the law ----------------------------------------------------------------------------------------------------


@dataclass
class Finding:
    """What was found of a network."""

    wrong: list[str] = field(default_factory=list)
    graph: ChannelGraph | None = None
    moved: float = 0.0  # by the largest plan: of the largest logit
    macs_left: float = 1.0  # by the smallest plan

    @property
    def is_cut(self) -> bool:
        return self.graph is not None and len(self.graph) > 0


def check(network: Network, plans: int = 3) -> Finding:
    """Hold a network to the law."""
    found = Finding()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check(network, found, plans)
    except Exception as error:  # whatever it is, it is told with the network
        frame = traceback.extract_tb(error.__traceback__)[-1]
        found.wrong.append(f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})")
    return found


def _check(network: Network, found: Finding, plans: int) -> None:
    shape = (3, *network.sizes[0])
    model = network.build()
    with unchanged(model, found.wrong, "channel_graph"):
        graph = found.graph = channel_graph(model, shape)
    with unchanged(model, found.wrong, "cost_model"):
        costs = cost_model(model, graph, shape)
    draw = random.Random(network.seed)
    copies = CutCopy(model, graph)
    for _ in range(plans if len(graph) else 1):
        plan = random_plan(graph, draw)
        with unchanged(model, found.wrong, "cut"):
            small = cut(model, graph, plan)
        _check_costs(network, found, costs, plan, small, shape)
        if not graph.emptied(plan):
            _check_copy(small, copies(plan), found, torch.randn(2, *shape, dtype=torch.float64))
        for training in (False, True):
            for size, batch in zip(network.sizes, BATCHES, strict=False):
                images = torch.randn(batch, 3, *size, dtype=torch.float64)
                _check_outputs(model, small, found, plan, images, training)


def _check_costs(
    network: Network, found: Finding, costs: CostModel, plan: Plan, small: nn.Module, shape: tuple[int, int, int]
) -> None:
    counted, by_torch = count_macs(small, shape), macs_by_torch(small, shape)
    if costs.macs(plan) != counted or (not NOT_IN_TORCH & set(network.kinds) and counted != by_torch):
        found.wrong.append(f"MACs: {costs.macs(plan)} priced, {counted} counted, {by_torch} by torch; {plan}")
    if costs.params(plan) != count_params(small):
        found.wrong.append(f"parameters: {costs.params(plan)} priced, {count_params(small)} counted; {plan}")
    found.macs_left = min(found.macs_left, counted / max(costs.full_macs, 1))


def _check_copy(small: nn.Module, other: nn.Module, found: Finding, images: Tensor) -> None:
    """What a search runs is what is cut."""
    with torch.no_grad():
        torch.manual_seed(1)
        expected = copy.deepcopy(small)(images)
        torch.manual_seed(1)
        difference = float(
            (expected - copy.deepcopy(other)(images)).abs().max() / expected.abs().max().clamp_min(1e-12)
        )
    if not difference < TOLERANCE:
        found.wrong.append(f"a copy that is cut anew for every plan differs by {difference:.2g} of the largest logit")


def _check_outputs(
    model: nn.Module, small: nn.Module, found: Finding, plan: Plan, images: Tensor, training: bool
) -> None:
    """Both are copied: in train mode they change their statistics."""
    assert found.graph is not None
    wide, narrow = copy.deepcopy(model).train(training), copy.deepcopy(small).train(training)
    before = [dict(vars(module)) for module in wide.modules()]
    mode = f"{'train' if training else 'eval'} mode, {tuple(images.shape)}; {plan}"
    with torch.no_grad():
        with masked(wide, found.graph, plan):
            torch.manual_seed(1)
            expected = wide(images)
        torch.manual_seed(1)
        got = narrow(images)
        full = copy.deepcopy(model).train(training)(images)
    largest = float(expected.abs().max())
    difference = float((expected - got).abs().max()) / max(largest, 1e-12)
    if not difference < TOLERANCE:
        found.wrong.append(f"masked and cut differ by {difference:.2g} of the largest logit, {mode}")
    if [sorted(vars(module)) for module in wide.modules()] != [sorted(values) for values in before]:
        found.wrong.append(f"masked left attributes behind, {mode}")
    found.moved = max(found.moved, float((expected - full).abs().max()) / max(largest, 1e-12))


def random_plan(graph: ChannelGraph, draw: random.Random) -> Plan:
    """For each group a random number of random channels; now and then none of it where that is possible."""
    kept = {g.name: sorted(draw.sample(range(g.width), draw.randint(1, g.width))) for g in graph}
    for name in sorted(graph.emptiable):
        if draw.random() < 0.2:
            try:
                graph.kept(Plan({**kept, name: []}))
            except ValueError:
                continue  # each alone may be emptied, but not these together
            kept[name] = []
    return Plan(kept)


def macs_by_torch(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Fused attention, which torch has no formula for on a CPU, is taken apart."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            copy.deepcopy(model).eval().requires_grad_(False)(torch.zeros(1, *shape, dtype=torch.float64))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() // 2


@contextmanager
def unchanged(model: nn.Module, wrong: list[str], by: str) -> Iterator[None]:
    """Tells what of the model, or of the random generators, is another after the block."""
    before = state(model)
    yield
    after = state(model)
    changed = [key for key in {**before, **after} if not _same(before.get(key), after.get(key))]
    wrong += [f"{by} changed {key}" for key in changed]


def state(model: nn.Module) -> dict[str, Any]:
    """All that looking at a model must leave as it is. Tensors are copied, other values are as they are."""
    found: dict[str, Any] = {
        "torch's generator": torch.get_rng_state(), "Python's generator": random.getstate(),
        "numpy's generator": np.random.get_state()[1].tolist(),  # type: ignore[union-attr, index]
    }  # fmt: skip
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            own = dict(value) if isinstance(value, dict) else value
            found[f"{name or 'the network'}.{key}"] = own.clone() if isinstance(own, Tensor) else own
        for key, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None:
                found[f"{name}.{key}, the values"] = tensor.detach().clone()
                found[f"{name}.{key}, the gradient"] = (tensor.requires_grad, tensor.grad is None)
    return found


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return list(one) == list(two) and all(one[key] is two[key] for key in one)
    return one is two or bool(one == two)


def told(network: Network, found: Finding) -> str:
    """A failure with all that is needed to reproduce it."""
    wrong = "\n  ".join(found.wrong)
    command = f"python tests/graph/random_networks.py {network.seed}"
    return f"{command}\n{network.source}\n  {wrong}"


def main(seeds: Sequence[str]) -> None:
    torch.set_num_threads(1)
    for seed in seeds:
        network = random_network(int(seed))
        print(network.source)
        found = check(network)
        for group in found.graph or ():
            print(f"{group.name}: {group.width}, read by {', '.join(group.consumers)}")
        for layer, why in (found.graph.frozen if found.graph else {}).items():
            print(f"{layer} stays whole: {why}")
        print(f"{found.macs_left:.2f} of the MACs left, logits moved by {found.moved:.2g}")
        print("\n".join(found.wrong) or "the law holds")


if __name__ == "__main__":
    main(sys.argv[1:])
