"""Counts by hand, in every convention."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import InputError
from compress.measure.counts import Counts, counts
from compress.measure.macs import count_macs, in_eval_mode
from compress.models.layers import ChannelSelection

SHAPE = (3, 16, 16)


def test_every_convention_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 1, bias=False),
        nn.BatchNorm2d(6, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    macs = 27 * 8 * 64 + 8 * 6 * 16 + 30
    first, pooled = 8 * 64, 6 * 16  # numbers behind the first convolution, before the last pooling
    assert counts(net, SHAPE) == Counts(
        macs=macs,
        fvcore=macs + 2 * first + pooled + pooled,
        ptflops=macs + first + 2 * first + first + first + pooled + pooled,  # bias, BN, ReLU, max, BN, average
        metapruning=macs + first + pooled + 5,
        amc=macs + 5,
        params=27 * 8 + 8 + 16 + 48 + 35,
        params_with_selection=27 * 8 + 8 + 16 + 48 + 35,
    )


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(self.relu(self.conv(x))))  # type: ignore[no-any-return]


def test_a_module_called_twice_counts_twice() -> None:
    found = counts(Twice(), SHAPE)
    assert found.macs == 2 * 9 * 256
    assert found.ptflops == found.macs + 2 * (3 * 256) + 2 * (3 * 256)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(F.max_pool2d(F.relu(self.conv(x)), 2), 1)


def test_ptflops_sees_no_functions() -> None:
    found = counts(Functional(), SHAPE)
    assert found.ptflops == found.macs == 12 * 256
    assert found.fvcore == found.macs + 4 * 64


@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU6(), nn.PReLU(), nn.LeakyReLU(), nn.ELU()])
def test_the_relu_family_counts_in_ptflops_alone(relu: nn.Module) -> None:
    found = counts(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), relu), SHAPE)
    assert found.ptflops == found.macs + 4 * 256
    assert found.fvcore == found.metapruning == found.macs


def test_a_selection_counts_its_full_width_also_when_cut() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), selection := ChannelSelection(8), nn.Conv2d(8, 2, 1))
    assert counts(net, SHAPE).params_with_selection == counts(net, SHAPE).params + 8
    selection.indices = torch.tensor([1, 4, 5])
    net[2] = nn.Conv2d(3, 2, 1)
    found = counts(net, SHAPE)
    assert found.params == 32 + 8
    assert found.params_with_selection == found.params + 8
    assert found.macs == 24 * 256 + 6 * 256  # to choose channels costs nothing


def test_attention_is_ours_not_fvcores() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(6, 6, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.project(x.flatten(2))
            return F.scaled_dot_product_attention(tokens, tokens, tokens)

    found = counts(Attend(), (4, 2, 3))
    assert found.fvcore == 4 * 6 * 6
    assert found.macs == found.fvcore + 2 * 4 * 4 * 6


def test_every_module_is_left_in_its_own_mode_and_without_hooks() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())).train()
    net[1].eval()
    net[2][0].eval()
    modes = [module.training for module in net.modules()]
    assert len(set(modes)) == 2
    statistics = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    count_macs(net, SHAPE)
    counts(net, SHAPE)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, statistics[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_modes_come_back_after_an_error_too() -> None:
    net = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU().eval())
    with pytest.raises(ZeroDivisionError), in_eval_mode(net):
        assert not net[0].training
        raise ZeroDivisionError
    assert [module.training for module in net.modules()] == [True, True, False]
    wrong = nn.Sequential(nn.Conv2d(5, 1, 1))
    with pytest.raises(InputError, match="Sequential: cannot run on 3x16x16 images"):
        counts(wrong, SHAPE)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in wrong.modules())


@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_padding_by_name_counts_like_padding_by_number(padding: int | str) -> None:
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=padding))
    size = 14 if padding == "valid" else 16
    assert counts(conv, SHAPE).macs == size * size * 9 * 3 * 8


def test_train_and_eval_count_the_same() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert counts(net.train(), SHAPE) == counts(net.eval(), SHAPE)
