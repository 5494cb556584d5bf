"""Folding changes no answer, whatever it finds to fold."""

import pytest
import torch
from conftest import livened, zoo
from torch import nn

from compress.graph.build import channel_graph
from compress.prune.folding import FoldedConv2d, fold, foldable, is_product

COUNTS = {"mobilenetv1": 27, "resnet20": 19, "vgg16_bn": 13, "resnet56_cs": 27, "mobilenet_v2": 52, "resnet18": 20}


def pairs_of(model: nn.Module, shape: tuple[int, int, int]) -> list[tuple[str, str]]:
    return foldable(model, channel_graph(model, shape).tapes[0])


@pytest.mark.parametrize("name", COUNTS)
def test_a_folded_network_answers_as_before(name: str) -> None:
    model = livened(zoo(name)).eval()
    pairs = pairs_of(model, (3, 32, 32))
    assert len(pairs) == COUNTS[name]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        fold(model, pairs)
        got = model(x)
    assert torch.allclose(got, expected, atol=1e-4 * float(expected.abs().max()))
    assert sum(isinstance(module, nn.Identity) for module in model.modules()) >= len(pairs)


class Odd(nn.Module):
    """What must not be folded: a convolution that is read twice, a layer used twice, a norm before, a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.twice_read, self.bn1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.twice_run, self.bn2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.bn3, self.after = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.hooked, self.bn4 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.plain, self.bn5 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)
        self.hooked.register_forward_hook(lambda module, inputs, output: output * 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.twice_read(x)
        x = self.bn1(y) + y
        x = self.bn2(self.twice_run(torch.relu(self.bn2(self.twice_run(x)))))
        x = self.after(self.bn3(x).relu())
        x = self.bn5(self.plain(self.bn4(self.hooked(x)).relu()))
        return self.fc(x.mean((2, 3)))


def test_only_what_is_read_and_run_once_is_folded() -> None:
    torch.manual_seed(0)
    model = livened(Odd()).eval()
    assert pairs_of(model, (3, 4, 4)) == [("plain", "bn5")]
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        expected = model(x)
        fold(model, pairs_of(model, (3, 4, 4)))
        assert torch.allclose(model(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "pixels", "expected"),
    [
        ({}, 1, True),
        ({}, 2, True),
        ({}, 3, False),
        ({"stride": 2}, 2, False),
        ({"padding": 1}, 1, False),
        ({"kernel_size": 3, "padding": 1}, 1, False),
        ({"groups": 2}, 1, False),
    ],
)
def test_what_runs_as_a_product_gives_what_the_layers_give(
    settings: dict[str, int], pixels: int, expected: bool
) -> None:
    conv = nn.Conv2d(6, 10, **({"kernel_size": 1} | settings))
    norm = livened(nn.Sequential(nn.BatchNorm2d(10)))[0].eval()
    assert isinstance(norm, nn.BatchNorm2d)
    images = torch.randn(5, 6, pixels, pixels).to(memory_format=torch.channels_last)
    folded = FoldedConv2d(conv, norm)
    assert is_product(folded, images) == expected
    with torch.no_grad():
        got, wanted = folded(images), norm(conv(images))
        assert got.shape == wanted.shape
        assert got.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(got, wanted, atol=1e-5)
        conv.weight.mul_(2)
        folded.refresh()
        assert torch.allclose(folded(images), norm(conv(images)), atol=1e-5)


def test_folding_draws_no_random_numbers() -> None:
    conv, norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
    before = torch.get_rng_state()
    FoldedConv2d(conv, norm)
    assert torch.equal(before, torch.get_rng_state())
