"""Least squares from Gram matrices is least squares on the rows."""

from typing import Any

import pytest
import torch
from conftest import livened
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.models.resnet_cifar import resnet
from compress.prune.order import channel_orders
from compress.prune.refit import (
    Moments,
    NestedRefit,
    Reconstructor,
    factored,
    input_moments,
    refit,
    refitted,
    sampled_rows,
)


def gram_of(rows: torch.Tensor) -> torch.Tensor:
    return rows.double().T @ rows.double()


def test_it_is_the_least_squares_solution() -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(500, 12), torch.randn(7, 12)
    rows[:, 6:] += rows[:, :6]  # correlated, so that dropped inputs can be made up for
    kept = torch.tensor([0, 2, 3, 7, 11])
    new = refit(weight[:, :, None, None], gram_of(rows), kept)[:, :, 0, 0]
    expected = torch.linalg.lstsq(rows[:, kept], rows @ weight.T).solution.T
    assert torch.allclose(new[:, kept], expected, atol=1e-4)
    dropped = [i for i in range(12) if i not in kept.tolist()]
    assert new[:, dropped].abs().max() == 0


def test_keeping_all_changes_nothing() -> None:
    rows, weight = torch.randn(400, 6), torch.randn(5, 6)
    assert torch.allclose(
        refit(weight[:, :, None, None], gram_of(rows), torch.arange(6))[:, :, 0, 0], weight, atol=1e-6
    )


def test_im2col_rows_times_the_kernel_are_the_convolution() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
    x = torch.randn(2, 3, 8, 8)
    rows = sampled_rows(conv, x, 16, torch.Generator().manual_seed(1))
    assert rows is not None
    chosen = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    expected = conv(x).flatten(2)[:, :, chosen].transpose(1, 2).flatten(0, 1)
    assert torch.allclose(rows @ conv.weight.flatten(1).T, expected, atol=1e-5)


def test_grouped_and_dilated_layers_are_left_out() -> None:
    x, random = torch.randn(1, 4, 8, 8), torch.Generator()
    assert sampled_rows(nn.Conv2d(4, 4, 3, groups=2), x, 4, random) is None
    assert sampled_rows(nn.Conv2d(4, 4, 3, dilation=2), x, 4, random) is None


def test_nested_solves_equal_direct_ones_for_every_width() -> None:
    torch.manual_seed(0)
    weight, rows = torch.randn(5, 6, 3, 3), torch.randn(900, 54)
    rows[:, 20:40] += 0.5 * rows[:, :20]
    order = torch.randperm(6)
    nested = NestedRefit(weight, gram_of(rows), order)
    for count in range(1, 7):
        assert torch.allclose(nested(count), refit(weight, gram_of(rows), order[:count]), atol=1e-4)


def test_what_the_samples_say_nothing_of_stays_as_it_was() -> None:
    """Fewer rows than inputs: the Gram matrix is singular, and both ways must agree on rows never seen."""
    torch.manual_seed(0)
    weight, rows, new = torch.randn(4, 60, 1, 1), torch.randn(20, 60), torch.randn(200, 60)
    order = torch.arange(60)
    nested, direct = NestedRefit(weight, gram_of(rows), order)(59), refit(weight, gram_of(rows), order[:59])
    old = new @ weight.flatten(1).T
    for found in (nested, direct):
        apart = (new @ found.flatten(1).T - old).norm() / old.norm()
        assert apart < 0.5, apart
    assert torch.allclose(nested, direct, atol=1e-3)


def test_layers_too_wide_for_a_gram_matrix_keep_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.prune.refit.MOST_COLUMNS", 20)
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(16, 2))
    graph = channel_graph(net, (1, 2, 2))
    moments = input_moments(net, graph, [torch.randn(30, 1, 2, 2)], 4, torch.Generator().manual_seed(0))
    assert set(moments) == {"3"}  # the 3x3 layer has 27 columns


def test_refitted_outputs_are_nearer_to_the_old_ones() -> None:
    torch.manual_seed(0)
    model = livened(resnet(depth=8, width=8, shortcut="conv", in_channels=3, num_classes=10)).eval()
    graph = channel_graph(model, (3, 16, 16))
    images = torch.randn(64, 3, 16, 16)
    moments = input_moments(model, graph, [images], 10, torch.Generator().manual_seed(0))
    orders = channel_orders(model, graph)
    assert set(moments) == {name for group in graph.groups for name in group.consumers}
    kept = {g.name: orders[g.name][: g.width // 2].sort().values for g in graph.groups}
    maker = Reconstructor(model, graph, moments, orders)
    new = maker.weights(kept)["linear.weight"]
    assert maker.weights(kept)["linear.weight"] is new  # remembered
    features = torch.randn(0)

    def keep_features(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal features
        features = inputs[0].detach()

    handle = model.get_submodule("linear").register_forward_pre_hook(keep_features)
    model(images)
    handle.remove()
    old = model.get_parameter("linear.weight").detach()
    masked = old.clone()
    dropped = [i for i in range(32) if i not in set(kept["layer3.0.conv2"].tolist())]
    masked[:, dropped] = 0
    wanted = features @ old.T
    assert ((features @ new.T - wanted) ** 2).sum() < 0.9 * ((features @ masked.T - wanted) ** 2).sum()


def test_orders_follow_the_weights_that_read_a_channel() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1), nn.Flatten())
    with torch.no_grad():
        net.get_parameter("1.weight").copy_(torch.tensor([[1.0, -3.0, 2.0], [1.0, 0.0, 0.5]])[:, :, None, None])
    assert channel_orders(net, channel_graph(net, (1, 2, 2)))["0"].tolist() == [1, 2, 0]


def test_a_channel_is_worth_the_l1_norm_of_all_that_reads_it() -> None:
    """By squares, by signed sums or by one reader alone the order would be another."""
    net = Read()
    graph = channel_graph(net, (1, 2, 2))
    with torch.no_grad():
        net.one.weight.copy_(torch.tensor([[3.0, 2.0, -1.0, 0.0], [0.0, 2.0, 1.0, 2.5]])[:, :, None, None])
        net.two.weight.copy_(torch.tensor([[1.0, 1.0, 3.5, -1.0], [0.0, 0.0, 0.5, 0.0]])[:, :, None, None])
    assert channel_orders(net, graph)["stem"].tolist() == [2, 1, 0, 3]  # 6, 5, 4, 3.5


class Read(nn.Module):
    """One group that two layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return torch.cat([self.one(x), self.two(x)], dim=1).mean((2, 3))


def test_moments_are_of_what_a_layer_sees_in_evaluation() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 1), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.Conv2d(6, 4, 1), nn.Flatten())
    livened(net)
    graph, x = channel_graph(net, (1, 2, 2)), torch.randn(5, 1, 2, 2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    moments = input_moments(net, graph, [x], 4, torch.Generator().manual_seed(0))
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    net.eval()
    rows = net[2](net[1](net[0](x))).permute(0, 2, 3, 1).reshape(-1, 6).double()
    assert torch.allclose(moments["3"].gram, rows.T @ rows, rtol=1e-5)


def test_a_gram_matrix_of_too_few_rows_in_single_precision_is_still_factored() -> None:
    torch.manual_seed(0)
    rows = torch.randn(40, 200)
    rows[:, 7] = 0
    single = (rows.T @ rows).double()
    factor, ridge = factored(single)
    assert (factor @ factor.T - single).diagonal().sub(ridge).abs().max() < 1e-6 * single.diagonal().mean()
    assert ridge < 1e-3 * single.diagonal().mean()


def test_moments_are_those_of_the_rows() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    graph, batches = channel_graph(net, (1, 2, 2)), [torch.randn(5, 1, 2, 2) for _ in range(3)]
    moments = input_moments(net, graph, batches, 4, torch.Generator().manual_seed(0))
    rows = torch.cat([net[1](net[0](x)).permute(0, 2, 3, 1).reshape(-1, 6) for x in batches]).double()
    assert torch.allclose(moments["2"].gram, rows.T @ rows, rtol=1e-5)
    assert torch.allclose(moments["2"].total, rows.sum(0), rtol=1e-5)


def test_gram_matrices_are_of_whole_float32_whatever_the_process_multiplies_in() -> None:
    seen: list[str] = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.mm.default:
                seen.append(torch.get_float32_matmul_precision())
            return func(*args, **(kwargs or {}))

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with Watching():
            Moments(torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)).add(torch.rand(5, 3))
        assert seen == ["highest"]
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_repeated_points_weigh_a_pixel_as_often_as_it_is_drawn() -> None:
    conv, x = nn.Conv2d(2, 3, 1), torch.arange(16.0).view(1, 2, 2, 4)[:, :, :1, :2]
    rows = sampled_rows(conv, x, 10, torch.Generator().manual_seed(0), repeats=True)
    assert rows is not None
    assert rows.shape == (10, 2)
    assert len(rows.unique(dim=0)) == 2


def test_the_published_fit_meets_outputs_with_their_bias_in_them() -> None:
    """lstsq on Y = X W^T + b, whose solution is then used with b again."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(500, 4)
    wide = nn.Sequential(nn.Flatten(), *net)
    graph = channel_graph(wide, (1, 1, 4))
    moments = input_moments(wide, graph, [x.view(-1, 1, 1, 4)], 1, torch.Generator())
    order = torch.arange(8)
    inputs = net[1](net[0](x)).detach()
    for doubles, bias in ((False, torch.zeros(3)), (True, net[2].bias.detach())):
        maker = Reconstructor(wide, graph, moments, {graph[0].name: order}, doubles_bias=doubles)
        new = maker.weights({graph[0].name: order[:5]})["3.weight"]
        wanted = inputs @ net[2].weight.detach().T + bias
        assert torch.allclose(new[:, :5], torch.linalg.lstsq(inputs[:, :5], wanted).solution.T, atol=1e-4)


# -- layers that read several groups ---------------------------------------------------------------------------


class Joined(nn.Module):
    """A layer that reads two groups side by side, and three channels of the image that cannot be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 5, 1)
        self.reads, self.head = nn.Conv2d(14, 4, 3, padding=1), nn.Linear(4, 2)

    def joined(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.left(x).relu(), x, self.right(x).relu()], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.reads(self.joined(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "kept", [{"left": (0, 2, 5), "right": (1, 4)}, {"left": (1, 2, 3, 4), "right": (0, 1, 2, 3, 4)}, {"right": (3,)}],
    ids=str,
)  # fmt: skip
def test_a_layer_that_reads_several_groups_is_refitted_on_what_stays_of_all(kept: dict[str, tuple[int, ...]]) -> None:
    """By least squares on its im2col rows, dropped inputs of every group left out."""
    torch.manual_seed(0)
    net = Joined()
    graph = channel_graph(net, (3, 5, 5))
    assert {group.name for group in graph} >= {"left", "right"}
    images = torch.randn(60, 3, 5, 5)
    moments = input_moments(net, graph, images.split(20), 25, torch.Generator().manual_seed(0))
    inputs = net.joined(images).detach()
    rows = nn.functional.unfold(inputs, 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    weight = net.reads.weight.detach().flatten(1).double()
    left, right = kept.get("left", range(6)), kept.get("right", range(5))
    stays = torch.zeros(14, dtype=torch.bool)
    stays[[*left, 6, 7, 8, *(9 + at for at in right)]] = True
    columns = stays.repeat_interleave(9)
    expected = torch.linalg.lstsq(rows[:, columns], rows @ weight.T).solution.T
    assert (expected - weight[:, columns]).abs().max() > 0.01

    orders = {
        group.name: torch.tensor([*(own := kept.get(group.name, ())), *sorted(set(range(group.width)) - {*own})])
        for group in graph
    }
    first = {group.name: orders[group.name][: len(kept.get(group.name, range(group.width)))] for group in graph}
    for new in (
        refitted(net, graph, moments, Plan(kept)),
        Reconstructor(net, graph, moments, orders).weights(first),
    ):
        found = new["reads.weight"].flatten(1)
        assert bool((found[:, ~columns] == 0).all())
        assert torch.allclose(found[:, columns].double(), expected, atol=1e-4)
        assert set(new) == {"reads.weight"}
