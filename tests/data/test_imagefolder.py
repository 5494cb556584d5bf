"""Folders of image files: the same parts and laws as sets in memory."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import CPU
from PIL import Image

from compress.data.imagefolder import ImageFolderData, imagefolder
from compress.errors import InputError


def make(root: Path, workers: int = 0) -> ImageFolderData:
    return imagefolder(
        root=str(root), image_size=16, resize=20, mean=[0.5] * 3, std=[0.25] * 3, workers=workers, held_out=0.25,
        split_seed=0,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, count in (("train", 8), ("val", 3)):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (24, 30), (20 * i, 100, 255 * (label == "dog"))).save(
                    tmp_path / part / label / f"{i}.png"
                )
    return tmp_path


def test_parts_and_shapes(folder: Path) -> None:
    data = make(folder)
    assert {part: len(index) for part, index in data.split().items()} == {"train": 12, "held_out": 4, "test": 6}
    assert data.classes == 2
    x, y = next(data.ordered("test", 4, CPU))
    assert x.shape == (4, 3, 16, 16)
    assert y.tolist() == [0, 0, 0, 1]


def test_the_seed_decides_order_and_crops_with_workers_too(folder: Path) -> None:
    data = make(folder, workers=1)
    one, same = (torch.cat([x for x, _ in data.shuffled(5, 7, CPU)]) for _ in range(2))
    assert torch.equal(one, same)


def test_fingerprint_follows_the_files(folder: Path) -> None:
    before = make(folder).fingerprint()
    assert make(folder).fingerprint() == before
    Image.new("RGB", (64, 64), (1, 2, 3)).save(folder / "train" / "cat" / "0.png")
    assert make(folder).fingerprint() != before


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must hold train/<class>/\* and val/<class>/\*"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("part", "content", "workers"),
    [(part, content, 0) for part in ("train", "val") for content in ("cut short", "empty", "text", "huge")]
    + [("train", "cut short", 1)],
)
def test_a_damaged_image_is_named_in_one_line(part: str, content: str, workers: int, folder: Path) -> None:
    victim = folder / part / "dog" / "1.png"
    whole = victim.read_bytes()
    huge = whole[:16] + (10**6).to_bytes(4, "big") * 2 + whole[24:]  # a picture of 10^12 pixels, it says
    victim.write_bytes({"cut short": whole[:50], "empty": b"", "text": b"no image", "huge": huge}[content])
    data = make(folder, workers)
    with pytest.raises(InputError, match=rf"^{victim}: cannot be read as an image") as told:
        for name in ("train", "held_out", "test"):
            list(data.ordered(name, 4, CPU))  # type: ignore[arg-type]
    assert len(str(told.value).splitlines()) == 1
    if part == "train":
        with pytest.raises(InputError, match=rf"^{victim}: "):
            for _ in range(2):
                list(data.shuffled(4, 0, CPU))
                list(data.ordered("held_out", 4, CPU))


def test_hidden_folders_are_no_classes(folder: Path) -> None:
    for part in ("train", "val"):
        (folder / part / ".ipynb_checkpoints").mkdir()
    assert make(folder).classes == 2


def test_what_is_wrong_with_the_classes_is_named(folder: Path) -> None:
    (folder / "val" / "owl").mkdir()
    Image.new("RGB", (24, 30)).save(folder / "val" / "owl" / "0.png")
    with pytest.raises(InputError, match=r"different classes \(val alone has owl\); each class is a folder"):
        make(folder)
    (folder / "train" / "owl").mkdir()
    with pytest.raises(InputError, match=f"^root={folder}: .*owl"):  # without an image
        make(folder)
    shutil.rmtree(folder / "train")
    (folder / "train").mkdir()
    with pytest.raises(InputError, match=f"^root={folder}: .* holds no folder of a class"):
        make(folder)


def test_one_class_is_none(folder: Path) -> None:
    for part in ("train", "val"):
        shutil.rmtree(folder / part / "dog")
    with pytest.raises(InputError, match="has 1 class; a classifier needs two at least"):
        make(folder)


def test_settings_that_do_not_go_together_are_refused(folder: Path) -> None:
    settings = {"root": str(folder), "image_size": 16, "workers": 0, "held_out": 0.25, "split_seed": 0}
    for change, words in (
        ({"std": [0.0, 1.0, 1.0]}, "^std="),
        ({"mean": [0.5]}, "^mean="),
        ({"resize": 8}, "^resize=8: must not be below image_size=16"),
    ):
        with pytest.raises(InputError, match=words):
            imagefolder(**({"resize": 20, "mean": [0.5] * 3, "std": [0.25] * 3} | settings | change))  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 1])
def test_crops_are_those_of_the_seed_and_leave_the_callers_random_numbers(folder: Path, workers: int) -> None:
    data, epochs = make(folder, workers), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = torch.rand(3)
        torch.manual_seed(seed)
        epochs.append(torch.cat([x for x, _ in data.shuffled(4, 5, CPU)]))
        if workers == 0:
            assert torch.equal(torch.rand(3), expected)
    assert torch.equal(*epochs)
    assert not torch.equal(epochs[0], torch.cat([x for x, _ in data.shuffled(4, 6, CPU)]))


@pytest.mark.parametrize("workers", [0, 1])
def test_shares_make_up_the_batch_whatever_the_number_of_workers(folder: Path, workers: int) -> None:
    whole = list(make(folder).shuffled(5, 7, CPU))
    parts = [list(make(folder, workers).shuffled(5, 7, CPU, (rank, 3))) for rank in range(3)]
    for batch, *pieces in zip(whole, *parts, strict=True):
        assert torch.equal(batch[0], torch.cat([x for x, _ in pieces]))
        assert torch.equal(batch[1], torch.cat([y for _, y in pieces]))
    assert [len(y) for _, y in parts[0]] == [1, 1, 0]


# -- what is augmented, and what is not ------------------------------------------------------------------------


@pytest.fixture
def ramps(tmp_path: Path) -> ImageFolderData:
    """Images that grow brighter to the right, so that mirrored ones grow darker; test images are dim."""
    for part, count, most in (("train", 40, 250), ("val", 6, 125)):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(count):
                ramp = Image.linear_gradient("L").rotate(90).resize((24, 30)).point(lambda v, m=most: v * m // 255)
                Image.merge("RGB", (ramp, ramp, Image.new("L", ramp.size, i))).save(
                    tmp_path / part / label / f"{i}.png"
                )
    return make(tmp_path)


def grows(images: torch.Tensor) -> list[bool]:
    return [bool(image[0, :, -1].mean() > image[0, :, 0].mean()) for image in images]


def test_training_images_are_mirrored_half_of_the_time_and_cropped(ramps: ImageFolderData) -> None:
    images = torch.cat([x for seed in range(10) for x, _ in ramps.shuffled(16, seed, CPU)])
    assert len(images) == 600
    assert abs(sum(grows(images)) - 300) < 4 * 150**0.5
    spans = (images[:, 0].mean(1)[:, -1] - images[:, 0].mean(1)[:, 0]).abs()  # as wide as the crop was
    assert float(spans.max()) > 1.8 * float(spans.min())


def test_the_order_of_training_images_changes_with_the_seed(ramps: ImageFolderData) -> None:
    one, other = (torch.cat([x[:, 2, 0, 0] for x, _ in ramps.shuffled(16, seed, CPU)]) for seed in (1, 2))
    assert not torch.equal(one, other)
    assert torch.equal(one.sort().values, other.sort().values)  # every image once


@pytest.mark.parametrize("part", ["train", "held_out", "test"])
def test_what_is_measured_is_neither_mirrored_nor_cropped_at_random(ramps: ImageFolderData, part: str) -> None:
    one, again = (torch.cat([x for x, _ in ramps.ordered(part, 7, CPU)]) for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(one, again)
    assert all(grows(one))
    assert len({tuple(image[0, 0].tolist()) for image in one}) == 1
    brightest = (float(one[:, :2].max()) * 0.25 + 0.5) * 255
    assert (brightest < 130) == (part == "test")
    drawn = torch.cat([x for x, _ in ramps.drawn(part, 5, 4, 0, CPU)])  # type: ignore[arg-type]
    whole = {image.numpy().tobytes() for image in one}
    assert len(drawn) == 5
    assert {image.numpy().tobytes() for image in drawn} <= whole
