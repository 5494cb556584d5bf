"""Folders of image files, one per class, through worker processes and torchvision's v2 transforms (ImageNet).

`root/train/<class>/*` and `root/val/<class>/*` (or `root/test`); the held-out part is cut from train.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from compress.data.base import Batch, Part, check_normalisation, digest, draw, hold_out
from compress.settings import Bound, Count, InputError, Natural


class ImageFolderData:
    """A `Data` over two folders of files."""

    name = "imagefolder"

    def __init__(
        self, train: Path, test: Path, size: int, resize: int, norm: dict[str, Any], workers: int, split: Any
    ) -> None:
        finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(**norm)]
        augment = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *finish])
        plain = v2.Compose([v2.Resize(resize), v2.CenterCrop(size), *finish])
        try:
            self._augmented, self._plain = ImageFolder(train, augment), ImageFolder(train, plain)
            self._test = ImageFolder(test, plain)
        except FileNotFoundError as error:
            raise InputError(f"dataset.root={train.parent}: {error}") from None
        if self._test.classes != self._plain.classes:
            raise InputError(f"{train} and {test} hold different classes; both need the same folders")
        self.classes = len(self._plain.classes)
        self.shape = (3, size, size)
        self._workers = workers
        self._share, self._seed = split
        self._settings = str([size, resize, norm])

    @cached_property
    def _split(self) -> dict[str, Tensor]:
        train, held_out = hold_out(torch.tensor(self._plain.targets), self._share, self._seed)
        return {"train": train, "held_out": held_out, "test": torch.arange(len(self._test))}

    def fingerprint(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        """Of names, sizes and the split: reading every pixel of ImageNet would take an hour."""
        files = [
            f"{Path(file).relative_to(folder.root)} {Path(file).stat().st_size}"
            for folder in (self._plain, self._test)
            for file, _ in folder.samples
        ]
        return digest(self._settings, "\n".join(files), self._split["held_out"])

    def split(self) -> dict[str, Tensor]:
        return self._split

    def _load(self, data: Dataset[Any], device: torch.device, **options: Any) -> Iterator[Batch]:
        loader = DataLoader(data, num_workers=self._workers, pin_memory=device.type == "cuda", **options)
        for x, y in loader if self._workers else _drawing_apart(loader, options.get("generator")):
            yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)

    def shuffled(self, batch_size: int, seed: int, device: torch.device) -> Iterator[Batch]:
        data = Subset(self._augmented, self._split["train"].tolist())
        random = torch.Generator().manual_seed(seed)  # also seeds the workers, so the crops repeat
        return self._load(data, device, batch_size=batch_size, shuffle=True, generator=random)

    def ordered(self, part: Part, batch_size: int, device: torch.device) -> Iterator[Batch]:
        return self._load(self._part(part), device, batch_size=batch_size)

    def drawn(self, part: Part, count: int, batch_size: int, seed: int, device: torch.device) -> Iterator[Batch]:
        chosen = draw(len(self._split[part]), count, seed).tolist()
        return self._load(Subset(self._part(part), chosen), device, batch_size=batch_size)

    def _part(self, part: Part) -> "Subset[Any]":
        return Subset(self._test if part == "test" else self._plain, self._split[part].tolist())


def _drawing_apart(loader: DataLoader[Any], generator: torch.Generator | None) -> Iterator[Any]:
    """Batches whose random crops, made in this process, neither read nor move the caller's random numbers."""
    batches = iter(loader)
    state = generator.get_state() if generator is not None else torch.get_rng_state()
    while True:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            batch = next(batches, None)
            state = torch.get_rng_state()
        if batch is None:
            return
        yield batch


def imagefolder(
    *,
    root: str,
    image_size: Annotated[int, Bound(ge=8, le=1024)],
    resize: Count,
    mean: list[float],
    std: list[float],
    workers: Natural,
    held_out: Annotated[float, Bound(gt=0, lt=1)],
    split_seed: Natural,
) -> ImageFolderData:
    """
    Raises:
        InputError: a folder is missing, or the two parts hold different classes.
    """
    folder = Path(root).expanduser()
    tests = [folder / name for name in ("val", "test") if (folder / name).is_dir()]
    if not (folder / "train").is_dir() or not tests:
        raise InputError(f"dataset.root={root}: must hold train/<class>/* and val/<class>/* (or test/<class>/*)")
    check_normalisation(mean, std, 3)
    if resize < image_size:
        raise InputError(f"dataset.resize={resize}: must not be below dataset.image_size={image_size}")
    norm = {"mean": mean, "std": std}
    return ImageFolderData(folder / "train", tests[0], image_size, resize, norm, workers, (held_out, split_seed))
