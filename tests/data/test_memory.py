"""Batched augmentation is cropping one image at a time; splits are disjoint, stratified and repeatable."""

import pytest
import torch
from conftest import CPU
from torch import Tensor
from torch.nn import functional as F

from compress.data.base import hold_out
from compress.data.digits import digits, read_digits
from compress.data.memory import MemoryData, Pixels, shifted_crops
from compress.errors import InputError


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
        with pytest.raises(InputError, match=f"^held_out={share}: holds"):
            digits(image_size=None, mean=[0.3], std=[0.4], pad=0, flip=False, held_out=share, split_seed=0)
        with pytest.raises(InputError, match=f"^held_out={share}: holds"):
            hold_out(torch.arange(10).repeat(100), share, 0)


# -- augmentation, against a plain loop ------------------------------------------------------------------------

IMAGES, SIDE, PAD = 60, 6, 2
MEAN, STD = [0.4, 0.6], [0.2, 0.3]
Place = tuple[int, int, int, bool]  # which image, how far down and right its crop begins, whether it is mirrored


def noise_data(pad: int = PAD, flip: bool = True) -> MemoryData:
    """Images of noise in two channels, each unlike every other and unlike its own mirror image."""
    random = torch.Generator().manual_seed(0)

    def read() -> Pixels:
        train, test = (torch.randint(0, 256, (IMAGES, 2, SIDE, SIDE), generator=random).byte() for _ in range(2))
        return Pixels(train, torch.arange(IMAGES) % 3, test, torch.arange(IMAGES) % 3)

    settings = {"image_size": None, "mean": MEAN, "std": STD, "held_out": 0.3, "split_seed": 0}
    return MemoryData("noise", read, classes=3, shape=(2, SIDE, SIDE), pad=pad, flip=flip, **settings)  # type: ignore[arg-type]


def normal(pixels: Tensor) -> Tensor:
    """One image, channel by channel."""
    return torch.stack([(pixels[c].double() / 255 - MEAN[c]) / STD[c] for c in range(2)])


def pixels_of(image: Tensor) -> Tensor:
    """The bytes that a normalised image was made of."""
    exact = torch.stack([(image[c].double() * STD[c] + MEAN[c]) * 255 for c in range(2)])
    assert (exact - exact.round()).abs().max() < 1e-3
    return exact.round().byte()


def every_crop(data: MemoryData) -> dict[bytes, Place]:
    """What an augmented training image may be: one crop at a time, of an image with black around it."""
    found: dict[bytes, Place] = {}
    for at in data.split()["train"].tolist():
        for dy in range(2 * PAD + 1):
            for dx in range(2 * PAD + 1):
                crop = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
                for y in range(SIDE):
                    for x in range(SIDE):
                        row, column = y + dy - PAD, x + dx - PAD
                        if 0 <= row < SIDE and 0 <= column < SIDE:
                            crop[:, y, x] = data._pixels.train_x[at, :, row, column]
                found[crop.numpy().tobytes()] = at, dy, dx, False
                mirrored = torch.stack([crop[:, :, SIDE - 1 - x] for x in range(SIDE)], dim=2)
                found[mirrored.contiguous().numpy().tobytes()] = at, dy, dx, True
    assert len(found) == len(data.split()["train"]) * (2 * PAD + 1) ** 2 * 2
    return found


@pytest.fixture(scope="module")
def drawn_places() -> list[list[Place]]:
    """What 40 epochs with a flip showed; every label is that of its image."""
    data = noise_data()
    crops, epochs = every_crop(data), list[list[Place]]()
    for seed in range(40):
        places = []
        for images, labels in data.shuffled(16, seed, CPU):
            places += [crops[pixels_of(image).numpy().tobytes()] for image in images]
            assert [place[0] % 3 for place in places[-len(labels) :]] == labels.tolist()
        epochs.append(places)
    return epochs


def surprise(counts: list[int]) -> float:
    """Of a uniform draw: chi-square in its standard deviations, from its mean."""
    mean, free = sum(counts) / len(counts), len(counts) - 1
    return (sum((count - mean) ** 2 / mean for count in counts) - free) / (2 * free) ** 0.5


def test_an_epoch_shows_every_training_image_once_as_one_of_its_crops(drawn_places: list[list[Place]]) -> None:
    wanted = noise_data().split()["train"].tolist()
    for places in drawn_places:
        assert sorted(place[0] for place in places) == wanted
    assert len({tuple(place[0] for place in places) for places in drawn_places}) == len(drawn_places)


def test_shifts_are_even_in_both_directions_apart_and_together(drawn_places: list[list[Place]]) -> None:
    shifts = [(place[1], place[2]) for places in drawn_places for place in places]
    assert len(shifts) == 40 * 42
    for counted in ([dy for dy, _ in shifts], [dx for _, dx in shifts], [5 * dy + dx for dy, dx in shifts]):
        each = torch.tensor(counted).bincount(minlength=25 if max(counted) > 4 else 5)
        assert surprise(each.tolist()) < 4, each


def test_half_of_the_images_are_mirrored_wherever_they_are_shifted(drawn_places: list[list[Place]]) -> None:
    flips = [(place[3], place[1], place[2], place[0]) for places in drawn_places for place in places]
    for of in range(1, 4):
        for value in {flip[of] for flip in flips}:
            mine = [flip[0] for flip in flips if flip[of] == value]
            assert abs(sum(mine) - len(mine) / 2) < 4 * (len(mine) / 4) ** 0.5, (of, value)
    everywhere = sum(flip[0] for flip in flips)
    assert abs(everywhere - len(flips) / 2) < 4 * (len(flips) / 4) ** 0.5


def test_without_a_flip_no_image_is_mirrored() -> None:
    data = noise_data(flip=False)
    crops = every_crop(data)
    seen = [crops[pixels_of(image).numpy().tobytes()] for images, _ in data.shuffled(16, 0, CPU) for image in images]
    assert not any(place[3] for place in seen)
    assert len({place[1:3] for place in seen}) > 10


def test_a_view_is_numbered_by_image_shift_and_flip() -> None:
    data = noise_data()
    crops, number = every_crop(data), {at: n for n, at in enumerate(data.split()["train"].tolist())}

    def view_of(image: Tensor) -> int:
        at, dy, dx, flipped = crops[pixels_of(image).numpy().tobytes()]
        return ((number[at] * 5 + dy) * 5 + dx) * 2 + flipped

    assert data.views == 50
    drawn = list(data.shuffled_views(16, 3, CPU))
    for images, _, views in drawn:
        assert [view_of(image) for image in images] == views.tolist()
    assert torch.equal(torch.cat([views for _, _, views in drawn]), data.drawn_views(16, 3, CPU))
    for (images, labels, _), (same, alike) in zip(drawn, data.shuffled(16, 3, CPU), strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, alike)
    every = torch.arange(len(number) * 50)
    assert [view_of(image) for images in data.views_in_order(every, 100, CPU) for image in images] == every.tolist()


@pytest.mark.parametrize(("pad", "flip", "views"), [(4, True, 162), (4, False, 81), (0, True, 2), (0, False, 1)])
def test_so_many_views_has_an_image(pad: int, flip: bool, views: int) -> None:
    data = digits(image_size=None, mean=[0.3], std=[0.4], pad=pad, flip=flip, held_out=0.2, split_seed=0)
    assert data.views == views
    seen = data.drawn_views(64, 0, CPU)
    assert (seen // views).sort().values.tolist() == list(range(len(data.split()["train"])))


def test_shards_of_a_batch_have_their_views(digit_data: MemoryData) -> None:
    whole = list(digit_data.shuffled_views(50, 7, CPU))
    parts = [list(digit_data.shuffled_views(50, 7, CPU, (rank, 3))) for rank in range(3)]
    for batch, *shards in zip(whole, *parts, strict=True):
        for of in range(3):
            assert torch.equal(batch[of], torch.cat([shard[of] for shard in shards]))


@pytest.mark.parametrize("part", ["train", "held_out", "test"])
def test_what_is_measured_is_not_augmented(part: str) -> None:
    data = noise_data()
    pixels = data._pixels
    x, y = (pixels.test_x, pixels.test_y) if part == "test" else (pixels.train_x, pixels.train_y)
    index = data.split()[part]
    for _ in range(2):
        batches = list(data.ordered(part, 16, CPU))  # type: ignore[arg-type]
        assert [len(labels) for _, labels in batches] == [16] * (len(index) // 16) + [len(index) % 16]
        images = torch.cat([images for images, _ in batches])
        assert torch.equal(torch.cat([labels for _, labels in batches]), y[index])
        for image, at in zip(images, index.tolist(), strict=True):
            assert torch.allclose(image.double(), normal(x[at]), atol=1e-6)
    ordered = {image.numpy().tobytes() for image in images}
    drawn = torch.cat([images for images, _ in data.drawn(part, 10, 4, 5, CPU)])  # type: ignore[arg-type]
    assert len(drawn) == 10
    assert {image.numpy().tobytes() for image in drawn} <= ordered


def test_the_fingerprint_follows_every_image_label_and_setting_that_says_what_is_seen() -> None:
    shape = {"classes": 4, "shape": (2, SIDE, SIDE), "pad": PAD, "flip": True}
    plain = {"image_size": None, "mean": MEAN, "std": STD, "held_out": 0.3, "split_seed": 0}

    def fingerprint(changed: str = "", **settings: object) -> str:
        pixels = dict(vars(noise_data()._pixels))
        if changed:
            pixels[changed] = pixels[changed].clone()
            pixels[changed].view(-1)[-1] ^= 1
        return MemoryData("noise", lambda: Pixels(**pixels), **shape, **(plain | settings)).fingerprint()  # type: ignore[arg-type]

    found = [
        fingerprint(), *[fingerprint(part) for part in ("train_x", "train_y", "test_x", "test_y")],
        fingerprint(mean=[0.4, 0.5]), fingerprint(std=[0.2, 0.2]), fingerprint(image_size=4),
        fingerprint(held_out=0.4), fingerprint(split_seed=1),
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    assert fingerprint() == found[0]
