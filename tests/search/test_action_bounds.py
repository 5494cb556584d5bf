"""The walls of an action against brute force: as far as the budget can still be met, and no further."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.graph.build import channel_graph
from compress.graph.types import ChannelGraph
from compress.prune.cost import CostModel, cost_model
from compress.prune.widths import all_choices
from compress.search.agent.action_bounds import BudgetMode, Upwards, Within, bias_macs

SIDE, FULL = 4, (8, 10, 12)


class Streams(nn.Module):
    """Two residual streams whose convolutions read and give them, so that they cost their width squared, and a plain
    layer between: every MAC is in `macs_by_hand`."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        one, two, three = FULL
        self.stem, self.first = nn.Conv2d(3, one, 3, padding=1), nn.Conv2d(one, one, 3, padding=1)
        self.between, self.onwards = nn.Conv2d(one, two, 1), nn.Conv2d(two, three, 1)
        self.second, self.head = nn.Conv2d(three, three, 3, padding=1), nn.Linear(three, 5, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.first(x.relu())
        x = self.onwards(self.between(x.relu()).relu())
        x = x + self.second(x.relu())
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def macs_by_hand(shares: Sequence[float], bias: bool) -> float:
    one, two, three = (share * full for share, full in zip(shares, FULL, strict=True))
    places = SIDE * SIDE
    streams = 9 * places * (3 * one + one**2 + three**2)
    return streams + places * (one * two + two * three) + 5 * three + bias * 5 * shares[2]


def network(bias: bool = False) -> tuple[nn.Module, ChannelGraph, CostModel]:
    torch.manual_seed(0)
    model = Streams(bias)
    graph = channel_graph(model, (3, SIDE, SIDE))
    assert [group.width for group in graph] == list(FULL)
    return model, graph, cost_model(model, graph, (3, SIDE, SIDE))


def crossing(macs: Callable[[float], float], limit: float) -> float:
    """The share, perhaps beyond [0, 1], at which a growing count reaches the limit."""
    low, high = 0.0, 4.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if macs(middle) < limit else (low, middle)
    return low


def prefixes(count: int) -> list[tuple[int, ...]]:
    return [widths for at in range(3) for widths in itertools.product(*[(2, 5, full) for full in FULL[:at]])][:count]


@pytest.mark.parametrize("rbound", [1.0, 0.8])
@pytest.mark.parametrize("bias", [False, True])
def test_a_share_is_clipped_where_the_macs_by_hand_cross_the_budget(bias: bool, rbound: float) -> None:
    model, graph, cost = network(bias)
    biases, lbound, inside = bias_macs(model, graph), 0.2, 0
    walls = {
        mode: Upwards(cost, biases, lbound=lbound, rbound=rbound, round_to=1, mode=mode)
        for mode in ("upper", "exact")
    }
    full = macs_by_hand((1, 1, 1), bias)
    assert walls["upper"].full_macs == pytest.approx(full)
    for widths, budget in itertools.product(prefixes(13), (0.2, 0.35, 0.5, 0.65, 0.8)):
        decided = [width / most for width, most in zip(widths, FULL, strict=False)]

        def after(share: float, later: float, decided: list[float] = decided) -> float:
            return macs_by_hand([*decided, share, *[later] * (2 - len(decided))], bias)

        high = crossing(lambda share: after(share, lbound), budget * full)
        low = crossing(lambda share: after(share, rbound), budget * full)
        top = max(min(high, rbound), lbound)
        bottom = max(min(low, high, rbound), lbound)
        assert walls["upper"].share(widths, 1.0, budget) == pytest.approx(top, abs=1e-9)
        assert walls["upper"].share(widths, 0.0, budget) == lbound
        assert walls["exact"].share(widths, 1.0, budget) == pytest.approx(top, abs=1e-9)
        assert walls["exact"].share(widths, 0.0, budget) == pytest.approx(bottom, abs=1e-9)
        middle = (bottom + top) / 2
        assert walls["exact"].share(widths, middle, budget) == pytest.approx(middle, abs=1e-9)
        inside += (lbound < high < rbound) + (lbound < low < rbound)
    assert inside > 25


@pytest.mark.parametrize("mode", ["upper", "exact"])
@pytest.mark.parametrize("round_to", [1, 3])
def test_a_width_is_the_nearest_from_which_the_budget_can_be_met(mode: BudgetMode, round_to: int) -> None:
    """Every way to go on is tried."""
    _, graph, cost = network()
    options = [widths.tolist() for widths in all_choices(graph, round_to, 0.2, 1.0)]
    walls = Within(cost, all_choices(graph, round_to, 0.2, 1.0), mode)
    every = np.array(list(itertools.product(*options)))
    ratios = cost.macs(every) / cost.full_macs
    cases = 0
    for at in range(3):
        for widths, budget in itertools.product(itertools.product(*options[:at]), (0.15, 0.4, 0.7, 1.0)):
            if cases % 7 and at == 2:  # there are many
                cases += 1
                continue
            cases += 1
            ways = (every[:, :at] == np.array(widths, dtype=int)).all(1)
            met = {w: ratios[ways & (every[:, at] == w)] for w in options[at]}
            fits = [w for w in options[at] if met[w].min() <= budget] or [options[at][0]]
            allowed = [w for w in fits if mode == "upper" or met[w].max() >= budget] or [fits[-1]]
            for share in (-0.5, 0.0, 0.31, 0.5, 0.77, 1.0, 1.5):
                wished = min(max(share, 0.0), 1.0) * FULL[at]
                nearest = min(options[at], key=lambda w: (abs(w - wished), w))
                expected = min(max(nearest, allowed[0]), allowed[-1])
                assert walls.width(widths, share, budget) == expected, (widths, budget, share)
    assert cases > 50
