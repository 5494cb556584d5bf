"""What searches and methods need of a network with every kind of layer that is cut: refits, scores, supernets."""

from typing import Any

import pytest
import torch
from conftest import livened
from torch import Tensor, nn

from compress.config.criteria import GivenBatches, criterion_names, criterion_of
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.methods.filter_magnitude import filter_scores
from compress.prune.criteria.criterion import scored_groups, totals
from compress.prune.order import channel_orders
from compress.prune.refit import input_moments, refitted
from compress.prune.surgery import cut, masked
from compress.search.agent.observations import raw_features
from compress.search.supernet.skeleton import Skeleton

SHAPE = (1, 8, 8)


class Many(nn.Module):
    """Transposed, shuffled, mixed over tokens, attended to and remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.down, self.up = nn.Conv2d(16, 24, 2, 2), nn.ConvTranspose2d(24, 16, 2, 2, groups=2)
        self.wide, self.shuffle, self.pool = nn.Conv2d(16, 32, 1), nn.PixelShuffle(2), nn.AvgPool2d(4)
        self.mix, self.norm = nn.Linear(16, 16), nn.LayerNorm(8)
        self.attend = nn.MultiheadAttention(8, 4, batch_first=True)
        self.layer, self.head = nn.LSTM(8, 12, batch_first=True, bidirectional=True), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.up(self.down(x).relu())
        x = self.pool(self.shuffle(self.wide(x).relu())).flatten(2).transpose(1, 2)
        x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.attend(self.norm(x), self.norm(x), self.norm(x))[0]
        return self.head(self.layer(x)[0].mean(1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return livened(Many()).eval()


WIDTHS = {"stem.0": 8, "down": 12, "wide": 8, "attend": 4, "layer": 12}


def test_every_group_has_an_order_scores_and_features(model: nn.Module) -> None:
    graph = channel_graph(model, SHAPE)
    assert {group.name: group.width for group in graph} == WIDTHS
    assert graph.frozen.keys() == {"mix"}
    given: dict[str, Any] = {"norm": "l1", "normalise": "none", "coupled": "mean"}
    for sides in ("filters", "readers"):
        scores = filter_scores(model, graph, sides=sides, **given)
        assert {name: len(score) for name, score in scores.items()} == WIDTHS
    weight = model.get_parameter("up.weight").detach()  # (in, out / groups, 2, 2): channel c is row c of both groups
    by_hand = weight.abs().sum((1, 2, 3)).view(2, 12).mean(0)
    assert torch.allclose(filter_scores(model, graph, sides="readers", **given)["down"], by_hand)
    order = channel_orders(model, graph)["down"]
    assert torch.equal(order, by_hand.sort(descending=True, stable=True).indices)
    assert raw_features(model, graph)[1].tolist() == [1, 0, 12, 8, 2, 2, weight.numel()]


@pytest.mark.parametrize("name", criterion_names())
def test_every_criterion_scores_what_it_names(model: nn.Module, name: str) -> None:
    graph, images = channel_graph(model, SHAPE), torch.randn(16, *SHAPE)
    criterion = criterion_of(name)
    given = GivenBatches([(images, torch.arange(16) % 10)], torch.device("cpu"), 0, name)
    found = totals(criterion(model, graph, given))
    left_out = {"bn_scale": {"down", "wide", "attend", "layer"}, "osscar": {"wide", "attend", "down"}}
    assert {key: len(score) for key, score in found.items()} == {
        key: width for key, width in WIDTHS.items() if key not in left_out.get(name, ())
    }
    assert found.keys() == scored_groups(criterion, model, graph)
    assert all(bool(score.isfinite().all()) and float(score.min()) >= 0 for score in found.values())


def test_a_refit_leaves_layers_of_other_kinds_as_they_are(model: nn.Module) -> None:
    graph = channel_graph(model, SHAPE)
    images, plan = torch.randn(16, *SHAPE), Plan({"down": range(6), "stem.0": [0, 2, 5], "layer": range(5)})
    moments = input_moments(model, graph, [images], 4, torch.Generator().manual_seed(0))
    assert moments.keys() == {"down", "wide", "head"}
    weights = refitted(model, graph, moments, plan)
    assert weights.keys() == {"down.weight", "wide.weight", "head.weight"}
    small = cut(model, graph, plan, weights)
    with torch.no_grad(), masked(model, graph, plan, weights):
        assert torch.allclose(model(images), small(images), atol=1e-5)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_a_skeleton_with_cropped_weights_is_the_cut_network(model: nn.Module, share: float) -> None:
    graph, images = channel_graph(model, SHAPE), torch.randn(3, *SHAPE)
    skeleton = Skeleton(model, graph, own_norms=True).to("cpu").eval()
    widths = tuple(max(1, int(share * group.width)) for group in graph)
    parameters = dict(model.named_parameters())
    cropped = {name: skeleton.crop(name, parameters[name], widths) for name in skeleton.names}
    small = cut(model, graph, Plan({group.name: range(n) for group, n in zip(graph, widths, strict=True)}))
    with torch.no_grad():
        assert torch.allclose(skeleton.run(images, cropped, widths), small(images), atol=1e-5)
