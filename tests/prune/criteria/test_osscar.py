"""The greedy removal: every set on the way is refitted by least squares, and a score is what is lost on the way."""

import pytest
import torch
from conftest import CPU
from torch import Tensor, nn
from torch.nn import functional as F

from compress.config.criteria import GivenBatches, criterion_of
from compress.graph.build import channel_graph
from compress.prune.criteria.criterion import totals
from compress.prune.criteria.osscar import Reader, losses_in_order
from compress.prune.refit import refit


def layer(inputs: int, area: int, outputs: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of inputs (N, inputs * area) that depend on each other, a weight (outputs, inputs, area, 1), and which of
    its columns are whose."""
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn(inputs * area, inputs * area, generator=random, dtype=torch.float64)
    x = torch.randn(500, inputs * area, generator=random, dtype=torch.float64) @ mixed
    weight = torch.randn(outputs, inputs, area, 1, generator=random, dtype=torch.float64)
    return x, weight, torch.arange(inputs * area).view(inputs, area)


def loss_of(x: Tensor, weight: Tensor, kept: list[int], rows: Tensor) -> float:
    """By a solver of its own: the share of the squared outputs that the best weights of the kept channels lose."""
    y = x @ weight.flatten(1).T
    if not kept:
        return 1.0
    columns = x[:, rows[kept].flatten()]
    best = torch.linalg.lstsq(columns, y).solution
    return float(((columns @ best - y) ** 2).sum() / (y**2).sum())


@pytest.mark.parametrize("area", [1, 3])
def test_the_first_losses_are_those_of_each_channel_alone(area: int) -> None:
    x, weight, rows = layer(6, area, 4)
    losses = Reader(weight, x.T @ x, rows).losses()
    for channel in range(6):
        others = [c for c in range(6) if c != channel]
        assert float(losses[channel]) == pytest.approx(loss_of(x, weight, others, rows), rel=1e-4)


@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("area", [1, 3])
def test_every_set_on_the_way_ends_in_the_least_squares_optimum(area: int, block: int) -> None:
    x, weight, rows = layer(6, area, 4)
    gram = x.T @ x
    system = Reader(weight, gram, rows)
    left = torch.arange(6)
    while len(left) > block:
        gone = system.losses().argsort(stable=True)[:block]
        system.remove(gone)
        left = left[[at for at in range(len(left)) if at not in gone.tolist()]]
        best = refit(weight, gram, left).flatten(1)[:, rows[left].flatten()]
        torch.testing.assert_close(system.weight.T, best, rtol=1e-4, atol=1e-4)


def test_scores_are_the_losses_of_the_sets_on_the_way() -> None:
    x, weight, rows = layer(6, 2, 4)
    lost = losses_in_order([Reader(weight, x.T @ x, rows)], 6, block=1)
    order = lost.argsort().tolist()
    for count in range(1, 7):
        assert float(lost[order[count - 1]]) == pytest.approx(loss_of(x, weight, order[count:], rows), rel=1e-4)
    alone = [loss_of(x, weight, [c for c in range(6) if c != channel], rows) for channel in range(6)]
    assert order[0] == alone.index(min(alone))
    assert float(lost.max()) == pytest.approx(1.0, abs=1e-9)


def test_a_block_that_goes_at_once_loses_what_it_loses_together() -> None:
    x, weight, rows = layer(6, 2, 4)
    lost = losses_in_order([Reader(weight, x.T @ x, rows)], 6, block=2)
    order = lost.argsort().tolist()
    for count in (2, 4, 6):
        assert float(lost[order[count - 1]]) == pytest.approx(loss_of(x, weight, order[count:], rows), rel=1e-4)


def test_several_readers_agree_by_the_mean_of_their_shares() -> None:
    one, two = layer(5, 1, 3, seed=1), layer(5, 1, 3, seed=2)

    def systems() -> list[Reader]:
        return [Reader(weight * scale, x.T @ x, rows) for (x, weight, rows), scale in ((one, 1.0), (two, 100.0))]

    lost = losses_in_order(systems(), 5, block=1)
    order = lost.argsort().tolist()
    for count in (1, 3, 5):
        shares = [loss_of(x, weight, order[count:], rows) for x, weight, rows in (one, two)]
        assert float(lost[order[count - 1]]) == pytest.approx(sum(shares) / 2, rel=1e-4)


class Twins(nn.Module):
    """Channels 0 and 1 are copies, 2 is dead, and 3 is a channel of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.read = nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 2, 3, padding=1)
        with torch.no_grad():
            self.make.weight.copy_(torch.tensor([1.0, 1.0, 0.0, -1.0])[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.read(F.relu(self.make(x))).mean((2, 3))  # type: ignore[no-any-return]


def test_what_others_can_replace_goes_before_what_nothing_can() -> None:
    net = Twins().eval()
    graph = channel_graph(net, (1, 6, 6))
    x = torch.randn(300, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    scores = totals(criterion_of("osscar")(net, graph, GivenBatches([(x, torch.zeros(300))], CPU, 0, "")))["make"]
    order = scores.argsort(stable=True).tolist()
    assert set(order[:2]) in ({0, 2}, {1, 2})
    assert float(scores[order[1]]) < 1e-3 < 0.1 < float(scores[order[2]])
