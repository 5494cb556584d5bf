"""Looking at a network, pricing and cutting it take time in proportion to its size, not to its square."""

import cProfile
import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from torch import Tensor, nn

from compress.graph.build import channel_graph
from compress.graph.liveness import CONSTANT, DEAD, LIVE, SUMS, Liveness
from compress.graph.plan import Plan
from compress.graph.tape import IMAGES, OUTPUT, Call, Tape
from compress.prune.cost import cost_model
from compress.prune.surgery import cut

SHAPE = (3, 4, 4)


def chain(length: int) -> nn.Module:
    widths = [3, *[4] * length]
    blocks = [nn.Sequential(nn.Conv2d(a, b, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairwise(widths)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(4 * 16, 5)).eval()


class Residual(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)) for _ in range(length // 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def calls(function: Callable[[], Any]) -> int:
    """Calls of Python and C functions: a measure of time that is the same on every machine."""
    profile = cProfile.Profile()
    profile.runcall(function)
    return sum(entry.callcount for entry in profile.getstats())


def everything(model: nn.Module) -> None:
    graph = channel_graph(model, SHAPE)
    plan = Plan({group.name: range(group.width // 2) for group in graph})
    cut(model, graph, plan)
    cost_model(model, graph, SHAPE).macs(plan)


@pytest.mark.parametrize("make", [chain, Residual])
def test_twice_the_layers_take_twice_the_time(make: Callable[[int], nn.Module]) -> None:
    everything(make(10))  # what is loaded once
    short, long = (calls(partial(everything, make(length))) for length in (60, 120))
    assert long / short < 2**1.1


def random_tape(draw: random.Random) -> Tape:
    """Of layers, sums and products; now and then a value that no image reaches."""
    tape = [Call(IMAGES, "", ())]
    for at in range(1, draw.randint(3, 25)):
        inputs = tuple(draw.choices(range(max(0, at - 4), at), k=draw.choice((0, 1, 1, 1, 2, 2))))
        kind = draw.choice(("layer", "add", "mul", "relu"))
        tape.append(Call("", f"layer{at % 9}", inputs) if kind == "layer" else Call(kind, "", inputs))
    return (*tape, Call(OUTPUT, "", (len(tape) - 1,)))


def state_of_output(tape: Tape, dead_layers: set[str]) -> int | None:
    """By the definition, one call after the other; None where dead and live values meet in another way than a sum."""
    states: list[int] = []
    for call in tape:
        inputs = {states[at] for at in call.inputs} - {CONSTANT}
        if call.op == IMAGES:
            states.append(LIVE)
        elif call.layer in dead_layers:
            states.append(DEAD)
        elif inputs == {LIVE, DEAD} and call.op not in SUMS:
            return None
        else:
            states.append(LIVE if LIVE in inputs else max(inputs, default=CONSTANT))
    return states[-1]


def test_liveness_is_what_it_is_defined_to_be() -> None:
    draw = random.Random(0)
    seen = set()
    for _ in range(3000):
        tape = random_tape(draw)
        dead = set(draw.sample([f"layer{at}" for at in range(9)], draw.randint(1, 3)))
        defined = state_of_output(tape, dead)
        error = Liveness(tape).error(dead)
        assert (error is None) == (defined == LIVE), (tape, dead)
        seen.add((defined, error))
    assert len(seen) == 4  # live; dead; no image reaches it; met in a product
