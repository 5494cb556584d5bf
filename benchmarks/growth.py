"""How the time for a network grows with its layers: graph, prices, plan and cut, and the exponents.

    python benchmarks/growth.py

Chains of convolution, batch norm and ReLU, and dense concatenations, in which every layer reads all before it: there
the weights grow with the square of the layers. CPU seconds, one thread; the best of three.
"""

import math
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from tabulate import tabulate
from torch import Tensor, nn

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.prune.cost import cost_model
from compress.prune.surgery import cut

SHAPE, WIDTH = (3, 4, 4), 8
PARTS = ("graph", "prices", "one price", "cut", "all but counting")


def chain(length: int) -> nn.Module:
    blocks: list[nn.Module] = []
    for at in range(length):
        blocks += [nn.Conv2d(WIDTH if at else 3, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU()]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(WIDTH * 16, 5))


class Dense(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, WIDTH, 1), nn.Linear(WIDTH * (length + 1), 5)
        self.layers = nn.ModuleList(nn.Conv2d(WIDTH * (at + 1), WIDTH, 1) for at in range(length))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


NETWORKS: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...]]] = {
    "chain": (chain, (125, 250, 500, 1000)),
    "dense": (Dense, (32, 64, 128, 256)),
}


def seconds(model: nn.Module) -> list[float]:
    """CPU seconds of every part. `prices` runs the network once in torch.jit, to count what it costs."""
    at = [time.process_time()]
    graph = channel_graph(model, SHAPE)
    at.append(time.process_time())
    prices = cost_model(model, graph, SHAPE)
    at.append(time.process_time())
    plan = Plan({group.name: range(group.width // 2) for group in graph})
    prices.macs(plan)
    at.append(time.process_time())
    cut(model, graph, plan)
    at.append(time.process_time())
    parts = [after - before for before, after in pairwise(at)]
    return [*parts, sum(parts) - parts[1]]


def main() -> None:
    torch.set_num_threads(1)
    for name, (make, lengths) in NETWORKS.items():
        best = []
        for length in lengths:
            model = make(length).eval()
            best.append([min(times) for times in zip(*(seconds(model) for _ in range(3)), strict=True)])
        rows = [[length, *(f"{t:.3f}" for t in times)] for length, times in zip(lengths, best, strict=True)]
        span = math.log(lengths[-1] / lengths[0])
        rows.append(["exponent", *(f"{math.log(b / a) / span:.2f}" for a, b in zip(best[0], best[-1], strict=True))])
        print(tabulate(rows, [name, *PARTS], tablefmt="github", disable_numparse=True), end="\n\n")


if __name__ == "__main__":
    main()
