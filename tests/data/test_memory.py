"""Batched augmentation is cropping one image at a time; splits are disjoint, stratified and repeatable."""

import pytest
import torch
from conftest import CPU
from torch.nn import functional as F

from compress.data.base import hold_out
from compress.data.digits import digits, read_digits
from compress.data.memory import MemoryData, shifted_crops
from compress.settings import InputError


def test_the_view_holds_every_crop() -> None:
    images = torch.randint(0, 256, (3, 2, 5, 6), dtype=torch.uint8)
    crops, padded = shifted_crops(images, 2), F.pad(images, (2, 2, 2, 2))
    assert crops.shape == (3, 2, 5, 5, 5, 6)
    for dy in range(5):
        for dx in range(5):
            assert torch.equal(crops[:, :, dy, dx], padded[:, :, dy : dy + 5, dx : dx + 6])
    assert torch.equal(crops[:, :, 2, 2], images)


def test_digits_are_the_real_ones() -> None:
    pixels = read_digits()
    assert len(pixels.train_x) + len(pixels.test_x) == 1797
    assert pixels.train_x.shape[1:] == (1, 8, 8)
    assert torch.cat([pixels.train_y, pixels.test_y]).bincount().tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
    assert int(pixels.train_x.max()) == 255


def test_parts_are_disjoint_and_whole(digit_data: MemoryData) -> None:
    split = digit_data.split()
    assert sorted(torch.cat([split["train"], split["held_out"]]).tolist()) == list(range(1347))
    assert len(split["test"]) == 450
    again = digits(image_size=None, mean=[0.3], std=[0.4], pad=0, flip=False, held_out=0.2, split_seed=0).split()
    other = digits(image_size=None, mean=[0.3], std=[0.4], pad=0, flip=False, held_out=0.2, split_seed=1).split()
    assert torch.equal(split["held_out"], again["held_out"])
    assert not torch.equal(split["held_out"], other["held_out"])


def test_hold_out_takes_the_share_of_every_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    _, held = hold_out(labels, 0.1, seed=4)
    assert labels[held].bincount().tolist() == [5, 3, 2]


def test_an_epoch_is_a_permutation_and_the_seed_decides_it(digit_data: MemoryData) -> None:
    one, same, other = ([y for _, y in digit_data.shuffled(100, seed, CPU)] for seed in (1, 1, 2))
    ordered = torch.cat([y for _, y in digit_data.ordered("train", 100, CPU)])
    assert torch.equal(torch.cat(one), torch.cat(same))
    assert not torch.equal(torch.cat(one), torch.cat(other))
    assert torch.equal(torch.cat(one).sort().values, ordered.sort().values)


def test_without_shift_a_shuffled_image_is_the_ordered_one() -> None:
    data = digits(image_size=None, mean=[0.3], std=[0.4], pad=0, flip=False, held_out=0.2, split_seed=0)
    shuffled = torch.cat([x for x, _ in data.shuffled(256, 0, CPU)])
    ordered = torch.cat([x for x, _ in data.ordered("train", 256, CPU)])
    assert torch.equal(shuffled.flatten(1).sum(1).sort().values, ordered.flatten(1).sum(1).sort().values)


def test_normalisation_gives_zero_mean_and_unit_spread(digit_data: MemoryData) -> None:
    images = torch.cat([x for x, _ in digit_data.ordered("train", 512, CPU)])
    assert abs(float(images.mean())) < 0.02
    assert abs(float(images.std()) - 1) < 0.02


def test_resizing_changes_the_shape_that_networks_see() -> None:
    data = digits(image_size=32, mean=[0.3], std=[0.4], pad=2, flip=True, held_out=0.2, split_seed=0)
    assert data.shape == (1, 32, 32)
    assert next(data.shuffled(8, 0, CPU))[0].shape == (8, 1, 32, 32)


def test_the_fingerprint_follows_the_content(digit_data: MemoryData) -> None:
    same = digits(image_size=None, mean=[0.3053], std=[0.376], pad=3, flip=True, held_out=0.2, split_seed=0)
    other = digits(image_size=None, mean=[0.3053], std=[0.376], pad=1, flip=False, held_out=0.3, split_seed=0)
    assert digit_data.fingerprint() == same.fingerprint()
    assert digit_data.fingerprint() != other.fingerprint()


def test_drawn_images_are_some_of_the_part_and_repeat(digit_data: MemoryData) -> None:
    one, same, other = (list(digit_data.drawn("train", 100, 64, seed, CPU)) for seed in (1, 1, 2))
    assert [len(y) for _, y in one] == [64, 36]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(one, same, strict=True))
    assert not torch.equal(one[0][0], other[0][0])
    everything = {
        tuple(x.flatten().tolist()) for x in torch.cat([x for x, _ in digit_data.ordered("train", 512, CPU)])
    }
    assert {tuple(x.flatten().tolist()) for x in one[0][0]} <= everything
    assert sum(len(y) for _, y in digit_data.drawn("held_out", 10_000, 512, 0, CPU)) == 269


def test_a_split_leaves_both_parts_some_images() -> None:
    for share in (0.0001, 0.9999):
        data = digits(image_size=None, mean=[0.3], std=[0.4], pad=0, flip=False, held_out=share, split_seed=0)
        with pytest.raises(InputError, match=f"dataset.held_out={share}: holds"):
            data.split()
