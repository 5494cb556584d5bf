"""Multiply-adds of nonzero weights by hand, and bytes after deflate."""

import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.measure.macs import count_macs
from compress.measure.zeros import nonzero_macs, zipped_bytes


def net() -> nn.Sequential:
    """Images of 8x8: positions 16 (stride 2), 16 (depthwise), 1."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1, groups=4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def test_a_zero_weight_saves_its_output_positions() -> None:
    model = net().train()
    dense = 72 * 16 + 36 * 16 + 12
    assert nonzero_macs(model, (2, 8, 8)) == count_macs(model, (2, 8, 8)) == dense
    model[0].weight.data.view(-1)[:5] = 0
    model[3].weight.data[1] = 0  # nine weights
    model[6].weight.data[0, :2] = 0
    model[0].bias.data.zero_()  # no multiply-add
    assert nonzero_macs(model, (2, 8, 8)) == dense - 5 * 16 - 9 * 16 - 2
    assert count_macs(model, (2, 8, 8)) == dense
    assert model.training
    assert int(model[1].num_batches_tracked) == 0
    assert not any(layer._forward_hooks for layer in model.modules())


def test_a_layer_called_twice_counts_twice_and_tokens_are_positions() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.linear(x.flatten(2)))

    model = Twice()
    model.linear.weight.data[0] = 0
    assert nonzero_macs(model, (3, 2, 2)) == 2 * 3 * 12


def test_the_layers_of_attention_count() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(16, 2, 8, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(2))

    model = Attend()  # four tokens of 16 numbers
    expected = count_macs(model, (4, 4, 4))
    for layer in (model.layer.self_attn.out_proj, model.layer.linear1, model.layer.linear2):
        layer.weight.data.zero_()
        expected -= 4 * layer.weight.numel()
        assert nonzero_macs(model, (4, 4, 4)) == expected


def test_zipped_bytes_are_those_of_deflate(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    content = bytes(torch.randint(16, (3_000_000,), generator=random, dtype=torch.uint8).tolist())
    (tmp_path / "file").write_bytes(content)  # longer than one chunk
    assert zipped_bytes(tmp_path / "file") == len(zlib.compress(content, 6))
    assert zipped_bytes(tmp_path / "file") < 0.7 * len(content)
    (tmp_path / "empty").touch()
    assert zipped_bytes(tmp_path / "empty") == len(zlib.compress(b"", 6))
