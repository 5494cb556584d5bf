"""Folders of image files, one per class, through worker processes and torchvision's v2 transforms (ImageNet).

`root/train/<class>/*` and `root/val/<class>/*` (or `root/test`); the held-out part is split off train.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from compress.data.base import (
    WHOLE_BATCH,
    Batch,
    Normalisation,
    Part,
    Shard,
    check_classes,
    check_held_out,
    check_normalisation,
    digest,
    draw,
    hold_out,
    shard_slice,
)
from compress.errors import OWN, InputError, SettingError, few, first_line
from compress.io.files import printable
from compress.io.seeds import derive_seed
from compress.schema.bounds import Bound, Count, Seed


class Folder(ImageFolder):  # type: ignore[misc]  # torchvision carries no types
    """torchvision's `ImageFolder`, except that hidden folders are not classes, and an error names the image file."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        names = sorted(path.name for path in Path(directory).iterdir() if path.is_dir() and path.name[0] != ".")
        if not names:
            raise FileNotFoundError(f"{directory} holds no folder of a class")
        return names, {name: label for label, name in enumerate(names)}

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, _ = self.samples[index]
        try:
            image: tuple[Any, Any] = super().__getitem__(index)
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:  # of Pillow
            raise InputError(f"{path}: cannot be read as an image ({printable(first_line(error))})") from None
        return image


class Crops(Dataset[tuple[Tensor, int]]):
    """One epoch of augmented images, in the order `order` (indices of images). Random numbers are seeded per position
    in the epoch, so that a crop depends neither on the worker process that makes it nor on earlier ones."""

    def __init__(self, images: Folder, order: list[int], seed: int) -> None:
        self._images, self._order, self._seed = images, order, seed

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self._seed, position))
            image: tuple[Tensor, int] = self._images[self._order[position]]
            return image


class ImageFolderData:
    """A `Data` over a folder of training images and one of test images."""

    name = "imagefolder"

    def __init__(
        self, train: Path, test: Path, size: int, resize: int, norm: dict[str, Any], workers: int, split: Any
    ) -> None:
        finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(**norm)]
        augment = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *finish])
        plain = v2.Compose([v2.Resize(resize), v2.CenterCrop(size), *finish])
        try:
            self._augmented, self._plain = Folder(train, augment), Folder(train, plain)
            self._test = Folder(test, plain)
        except OSError as error:
            raise SettingError(f"{OWN}root={train.parent}: {printable(first_line(error))}") from None
        if problem := differing_classes(self._plain, self._test):
            raise SettingError(f"{OWN}root={train.parent}: {problem}")
        check_classes(f"{OWN}root={train.parent}", self._plain.targets, len(self._plain.classes))
        self.classes = len(self._plain.classes)
        self.shape = (3, size, size)
        self.normalisation = Normalisation(**norm)
        self._workers = workers
        self._share, self._seed = split
        check_held_out(self._share, torch.tensor(self._plain.targets).bincount().tolist())
        self._settings = str([size, resize, norm, "crops by place"])

    @cached_property
    def _split(self) -> dict[str, Tensor]:
        train, held_out = hold_out(torch.tensor(self._plain.targets), self._share, self._seed)
        return {"train": train, "held_out": held_out, "test": torch.arange(len(self._test))}

    def fingerprint(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        """Of file names, file sizes and the split: reading every pixel of ImageNet would take an hour."""
        files = [
            f"{Path(file).relative_to(folder.root)} {Path(file).stat().st_size}"
            for folder in (self._plain, self._test)
            for file, _ in folder.samples
        ]
        return digest(self._settings, "\n".join(files), self._split["held_out"])

    def split(self) -> dict[str, Tensor]:
        return self._split

    def _load(
        self, data: Dataset[Any], size: int, batch_size: int, device: torch.device, shard: Shard
    ) -> Iterator[Batch]:
        """This shard of every batch of `size` images; only these are decoded."""
        batches = [range(at, min(at + batch_size, size)) for at in range(0, size, batch_size)]
        loader = DataLoader(
            data,
            batch_sampler=[list(places[shard_slice(len(places), shard)]) for places in batches],
            num_workers=self._workers,
            pin_memory=device.type == "cuda",
            collate_fn=partial(_stack, shape=self.shape),
            generator=torch.Generator(),  # DataLoader draws a base seed, which would advance the global generator
        )
        with _worker_errors():
            for x, y in loader:
                yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)

    def shuffled(
        self, batch_size: int, seed: int, device: torch.device, shard: Shard = WHOLE_BATCH
    ) -> Iterator[Batch]:
        places = self._split["train"]
        order = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))].tolist()
        return self._load(Crops(self._augmented, order, seed), len(order), batch_size, device, shard)

    def ordered(
        self, part: Part, batch_size: int, device: torch.device, shard: Shard = WHOLE_BATCH
    ) -> Iterator[Batch]:
        return self._load(self._part(part), len(self._split[part]), batch_size, device, shard)

    def drawn(self, part: Part, count: int, batch_size: int, seed: int, device: torch.device) -> Iterator[Batch]:
        chosen = draw(len(self._split[part]), count, seed).tolist()
        return self._load(Subset(self._part(part), chosen), len(chosen), batch_size, device, WHOLE_BATCH)

    def _part(self, part: Part) -> "Subset[Any]":
        return Subset(self._test if part == "test" else self._plain, self._split[part].tolist())


@contextmanager
def _worker_errors() -> Iterator[None]:
    """An `InputError` of a worker process arrives with the worker's traceback as its text: keep the last line, the
    message."""
    try:
        yield
    except InputError as error:
        *_, last = str(error).strip().splitlines()
        raise InputError(re.sub(r"^[\w.]*InputError: ", "", last)) from None


def _stack(images: list[tuple[Tensor, int]], shape: tuple[int, int, int]) -> Batch:
    """Images (C, H, W) and labels -> (B, C, H, W) and (B,) int64; B may be 0. `shape` is (C, H, W)."""
    labels = torch.tensor([label for _, label in images], dtype=torch.int64)
    return (torch.stack([image for image, _ in images]) if images else torch.empty(0, *shape)), labels


def differing_classes(train: ImageFolder, test: ImageFolder) -> str:
    """Class folders that only one of the two parts has, for an error message; "" if they have the same."""
    only_in = [
        (part, sorted(set(part.classes) - set(other.classes))) for part, other in ((train, test), (test, train))
    ]
    texts = [f"{Path(part.root).name} alone has {few(names)}" for part, names in only_in if names]
    if not texts:
        return ""
    return f"the parts hold different classes ({'; '.join(texts)}); each class is a folder of one name in both"


def imagefolder(
    *,
    root: str,
    image_size: Annotated[int, Bound(ge=8, le=1024)],
    resize: Count,
    mean: list[float],
    std: list[float],
    workers: Annotated[int, Bound(ge=0, most=256)],
    held_out: Annotated[float, Bound(gt=0, lt=1)],
    split_seed: Seed,
) -> ImageFolderData:
    """The folder `root` as an image set; `workers` is the number of processes that decode images (0: none).

    Raises:
        SettingError: a folder is missing, the two parts have different classes, or settings contradict each other.
    """
    folder = Path(root).expanduser()
    tests = [folder / name for name in ("val", "test") if (folder / name).is_dir()]
    if not (folder / "train").is_dir() or not tests:
        raise SettingError(f"{OWN}root={root}: must hold train/<class>/* and val/<class>/* (or test/<class>/*)")
    check_normalisation(mean, std, 3)
    if resize < image_size:
        raise SettingError(f"{OWN}resize={resize}: must not be below {OWN}image_size={image_size}")
    norm = {"mean": mean, "std": std}
    return ImageFolderData(folder / "train", tests[0], image_size, resize, norm, workers, (held_out, split_seed))
