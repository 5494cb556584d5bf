"""Masks stay with their layers, and masked weights stay zero."""

import copy
import json
from pathlib import Path

import pytest
import torch
from conftest import ORACLES
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from compress.errors import InputError
from compress.models.masks import (
    MASK,
    apply_masks,
    is_masked,
    masked_layers,
    masks_of,
    packed,
    set_masks,
    unpacked,
)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3)
    )


def halves(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.rand(model.get_parameter(f"{name}.weight").shape, generator=random) > 0.5 for name in "04"}


def are_zero(model: nn.Module, masks: dict[str, torch.Tensor], prefix: str = "") -> bool:
    return all(not model.get_parameter(f"{prefix}{name}.weight")[~mask].any() for name, mask in masks.items())


def train(model: nn.Module, steps: int, masked: bool, averaged: AveragedModel | None = None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    x, y = torch.randn(16, 2, 3, 3), torch.randint(3, (16,))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if masked:
            apply_masks(model)
        if averaged is not None:
            averaged.update_parameters(model)
            apply_masks(averaged)


def test_masked_weights_are_zero_and_the_others_are_left() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    masks = halves(model)
    set_masks(model, masks)
    assert list(masked_layers(model)) == ["0", "4"]
    assert masked_layers(model)["4"] is model[4]
    assert not is_masked(model[1])
    for name, mask in masks.items():
        weight = model.get_parameter(f"{name}.weight")
        assert torch.equal(weight, before[f"{name}.weight"].where(mask, torch.zeros(())))
        assert not torch.signbit(weight[~mask]).any()  # -0.0 equals 0, but its bytes do not compress
    assert torch.equal(model[0].bias, before["0.bias"])
    set_masks(model, {"4": torch.ones(3, 36, dtype=torch.bool)})  # replaces the one of this layer only
    assert bool(model[4].get_buffer(MASK).all())
    assert torch.equal(model[0].get_buffer(MASK), masks["0"])


def test_a_mask_is_a_copy_of_what_was_given() -> None:
    one, other, masks = net(), net(), halves(net())
    set_masks(one, masks)
    set_masks(other, masks)
    one[0].get_buffer(MASK).fill_(False)
    assert torch.equal(other[0].get_buffer(MASK), masks["0"])
    assert bool(masks["0"].any())


def test_masks_are_copied_saved_moved_and_cast_with_the_model(tmp_path: Path) -> None:
    model = net()
    set_masks(model, halves(model))
    torch.save(model.state_dict(), tmp_path / "state.pt")
    loaded = net()
    set_masks(loaded, halves(loaded, seed=1))
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for twin in (copy.deepcopy(model), loaded, copy.deepcopy(model).to(torch.bfloat16)):
        for name, layer in masked_layers(model).items():
            assert torch.equal(twin.get_buffer(f"{name}.{MASK}"), layer.get_buffer(MASK))
    twin.get_parameter("0.weight").data.fill_(1)
    apply_masks(twin)
    assert torch.equal(twin.get_parameter("0.weight").bool(), model[0].get_buffer(MASK))


def test_with_momentum_a_masked_gradient_is_not_enough() -> None:
    expected = json.loads((ORACLES / "slimming.json").read_text())["invariants_checked"]["momentum_revive"]
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], 0.1, momentum=0.9)
    mask = torch.tensor([True, False, True])
    weight.grad = torch.ones(3)
    optimizer.step()
    weight.data *= mask
    weight.grad = torch.ones(3) * mask
    optimizer.step()
    assert weight.tolist() == pytest.approx(expected, abs=1e-6)
    assert weight[1].item() == pytest.approx(-0.09)


def test_masked_weights_are_zero_after_every_step_with_momentum_and_weight_decay() -> None:
    model = net()
    train(model, 3, masked=False)  # what the momentum remembers is of no mask
    masks = halves(model)
    set_masks(model, masks)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    x, y = torch.randn(16, 2, 3, 3), torch.randint(3, (16,))
    moved = 0
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        moved += not are_zero(model, masks)
        apply_masks(model)
        assert are_zero(model, masks)
    assert moved == 20  # without apply_masks they come back
    assert all(torch.equal(layer.get_buffer(MASK), masks[name]) for name, layer in masked_layers(model).items())


@pytest.mark.parametrize("buffers", [False, True])
def test_averaged_weights_keep_the_masks(buffers: bool) -> None:
    model = net()
    set_masks(model, halves(model))
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=buffers)
    train(model, 1, masked=True, averaged=averaged)
    masks = {name: mask & halves(model, seed=1)[name] for name, mask in halves(model).items()}  # a later step's
    set_masks(model, masks)
    train(model, 3, masked=True, averaged=averaged)
    set_masks(averaged.module, masks_of(model))
    assert list(masked_layers(averaged)) == ["module.0", "module.4"]
    assert are_zero(averaged, masks, "module.")
    for name, mask in masks.items():
        assert torch.equal(averaged.get_buffer(f"module.{name}.{MASK}"), mask)
        assert averaged.get_parameter(f"module.{name}.weight")[mask].abs().min() > 0


@pytest.mark.parametrize("shape", [(1,), (8,), (3, 3), (4, 2, 3, 3), (0, 5)])
def test_packed_masks_take_a_bit_per_weight(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.3
    bits = packed(mask)
    assert bits.dtype == torch.uint8
    assert bits.shape == (-(-mask.numel() // 8),)
    assert torch.equal(unpacked(bits, shape), mask)


def test_the_first_weight_is_the_highest_bit() -> None:
    mask = torch.tensor([True] + [False] * 7 + [True, True])
    assert packed(mask).tolist() == [128, 192]


def test_what_cannot_be_masked_is_named() -> None:
    model = net()
    with pytest.raises(InputError, match="^7: the network has no layer of that name"):
        set_masks(model, {"7": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(InputError, match="^1: is a BatchNorm2d; only the weights of Conv2d and Linear"):
        set_masks(model, {"1": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"^4: a mask of shape \(36, 3\) for a weight of \(3, 36\)"):
        set_masks(model, {"4": torch.ones(36, 3, dtype=torch.bool)})
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    with pytest.raises(InputError, match="only the weights of"):
        set_masks(nn.Sequential(normed), {"0": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(InputError, match="for 9 weights it is 2 bytes"):
        unpacked(torch.zeros(3, dtype=torch.uint8), (3, 3))
    with pytest.raises(InputError, match="float32"):
        unpacked(torch.zeros(2), (3, 3))
