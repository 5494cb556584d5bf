"""Counts by formula, accuracy by hand."""

import torch
from torch import nn

from compress.measure.accuracy import accuracy
from compress.measure.latency import measure_latency
from compress.measure.macs import count_macs, count_params


def test_macs_are_kernel_times_positions_times_channels() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    expected = 9 * 3 * 8 * 64 + 9 * 8 * 64 + 8 * 5  # BN, pooling and biases count nothing
    assert count_macs(net, (3, 16, 16)) == expected
    assert count_params(net) == (27 * 8 + 8) + 16 + 72 + 45


def test_attention_is_counted() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(6, 6, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.project(x.flatten(2))
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    assert count_macs(Attend(), (4, 2, 3)) == 4 * 6 * 6 + 2 * 4 * 4 * 6


def test_the_model_is_left_in_its_mode() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).train()
    count_macs(net, (1, 4, 4))
    assert net.training


def test_accuracy_in_percent() -> None:
    logits = torch.eye(10)
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 0, 0])
    batches = [(logits[:4], labels[:4]), (logits[4:], labels[4:])]
    top1, top5 = accuracy(nn.Identity(), batches)
    assert top1 == 80
    assert top5 >= top1


def test_latency_is_a_time() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    latency = measure_latency(net, (1, 8, 8), torch.device("cpu"), seconds=0.02, threads=1)
    assert 0 < latency.median_ms < 100
    assert latency.threads == 1
