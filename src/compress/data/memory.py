"""Image data sets that fit in memory: uint8 on the device, augmented per batch.

A strided view contains every shifted crop of every padded image, so that the random crops of a batch are one gather:
no worker processes, and the same code on CPU and GPU.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, TypedDict, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.data.base import (
    WHOLE_BATCH,
    Batch,
    Normalisation,
    Part,
    Shard,
    check_labels,
    check_normalisation,
    digest,
    draw,
    hold_out,
    shard_slice,
)
from compress.schema.bounds import Bound, Seed


class MemorySettings(TypedDict):
    """Settings common to all in-memory data sets; `image_size` and `pad` in pixels."""

    image_size: Annotated[int, Bound(ge=4, le=512)] | None
    mean: list[float]
    std: list[float]
    pad: Annotated[int, Bound(ge=0, le=64)]
    flip: bool
    held_out: Annotated[float, Bound(gt=0, lt=1)]
    split_seed: Seed


@dataclass(frozen=True)
class Pixels:
    """Images (N, C, H, W) uint8 and labels (N,) int64 of the official training and test parts."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def shifted_crops(images: Tensor, pad: int) -> Tensor:
    """Every crop of the zero-padded images, as a view: (N, C, H, W) -> (N, C, 2*pad+1, 2*pad+1, H, W), the crop's
    shift down and right being dimensions 2 and 3."""
    height, width = images.shape[-2:]
    return F.pad(images, (pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)


def resized(images: Tensor, size: int) -> Tensor:
    """Bilinear with antialiasing, rounded to uint8: (N, C, H, W) -> (N, C, size, size)."""
    scaled = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).byte()


class MemoryData:
    """A `Data` in memory. `read()` is called when images are first needed; `shape` is (C, H, W) of what it
    returns."""

    def __init__(
        self,
        name: str,
        read: Callable[[], Pixels],
        *,
        classes: int,
        shape: tuple[int, int, int],
        **settings: Unpack[MemorySettings],
    ) -> None:
        channels, height, width = shape
        mean, std, image_size = settings["mean"], settings["std"], settings["image_size"]
        check_normalisation(mean, std, channels)
        self.name = name
        self.classes = classes
        self.shape = (channels, image_size or height, image_size or width)
        self._read = read
        self.normalisation = Normalisation(mean=list(mean), std=list(std))
        self._pad, self._flip = settings["pad"], settings["flip"]
        self._held_out, self._split_seed = settings["held_out"], settings["split_seed"]

    @cached_property
    def _pixels(self) -> Pixels:
        pixels = self._read()
        for part, labels in (("train", pixels.train_y), ("test", pixels.test_y)):
            check_labels(f"{self.name}, {part}", labels, self.classes)
        if pixels.train_x.shape[-2:] == self.shape[1:]:
            return pixels
        size = self.shape[1]
        return Pixels(resized(pixels.train_x, size), pixels.train_y, resized(pixels.test_x, size), pixels.test_y)

    @cached_property
    def _split(self) -> dict[str, Tensor]:
        train, held_out = hold_out(self._pixels.train_y, self._held_out, self._split_seed)
        return {"train": train, "held_out": held_out, "test": torch.arange(len(self._pixels.test_y))}

    @cached_property
    def _digest(self) -> str:
        pixels = self._pixels
        contents = (pixels.train_x, pixels.train_y, pixels.test_x, pixels.test_y, self._split["held_out"])
        return digest(self.name, str([self.normalisation.mean, self.normalisation.std]), *contents)

    def fingerprint(self) -> str:
        return self._digest

    def split(self) -> dict[str, Tensor]:
        return self._split

    def _part(self, part: Part) -> Batch:
        pixels = self._pixels
        if part == "test":
            return pixels.test_x, pixels.test_y
        index = self._split[part]
        return pixels.train_x[index], pixels.train_y[index]

    @cached_property
    def _on_device(self) -> dict[tuple[Part, torch.device], Batch]:
        return {}

    def _resident(self, part: Part, device: torch.device) -> Batch:
        """Images (uint8) and labels of one part, copied to the device once."""
        key = (part, device)
        if key not in self._on_device:
            x, y = self._part(part)
            self._on_device[key] = (x.to(device), y.to(device))
        return self._on_device[key]

    def _normal(self, images: Tensor) -> Tensor:
        """uint8 -> float, scaled to [0, 1] and normalised per channel; same shape."""
        mean, std = self._normalisation_on(images.device)
        return (images.float() / 255 - mean) / std

    def _normalisation_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C, 1, 1), copied to the device once."""
        if device not in self._constants:
            by = (self.normalisation.mean, self.normalisation.std)
            mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in by)
            self._constants[device] = (mean, std)
        return self._constants[device]

    @cached_property
    def _constants(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}

    @property
    def views(self) -> int:
        return (2 * self._pad + 1) ** 2 * (2 if self._flip else 1)

    def shuffled(
        self, batch_size: int, seed: int, device: torch.device, shard: Shard = WHOLE_BATCH
    ) -> Iterator[Batch]:
        for images, labels, _ in self.shuffled_views(batch_size, seed, device, shard):
            yield images, labels

    def shuffled_views(
        self, batch_size: int, seed: int, device: torch.device, shard: Shard = WHOLE_BATCH
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        x, y = self._resident("train", device)
        crops = shifted_crops(x, self._pad)
        for drawn in self._drawn_views(batch_size, seed, device):
            # Random numbers are drawn for the whole batch, so that the generators of all ranks stay in sync.
            views = drawn[shard_slice(len(drawn), shard)]
            yield self._pictures(crops, views), y[views // self.views], views

    def drawn_views(self, batch_size: int, seed: int, device: torch.device) -> Tensor:
        return torch.cat(list(self._drawn_views(batch_size, seed, device)))

    def _drawn_views(self, batch_size: int, seed: int, device: torch.device) -> Iterator[Tensor]:
        """The views of every batch of an epoch; no image is read but to count them."""
        random = torch.Generator(device).manual_seed(seed)
        shifts = 2 * self._pad + 1
        for images in torch.randperm(len(self._split["train"]), generator=random, device=device).split(batch_size):
            dy, dx = torch.randint(shifts, (2, len(images)), generator=random, device=device)
            views = (images * shifts + dy) * shifts + dx
            if self._flip:
                views = 2 * views + (torch.rand(len(images), generator=random, device=device) < 0.5)
            yield views

    def views_in_order(self, views: Tensor, batch_size: int, device: torch.device) -> Iterator[Tensor]:
        crops = shifted_crops(self._resident("train", device)[0], self._pad)
        for batch in views.split(batch_size):
            yield self._pictures(crops, batch.to(device))

    def _pictures(self, crops: Tensor, views: Tensor) -> Tensor:
        """The images (B, C, H, W), normalised, of views (B,)."""
        mirrored, shifted = (views % 2 == 1, views // 2) if self._flip else (None, views)
        shifts = 2 * self._pad + 1
        images = self._normal(crops[shifted // shifts**2, :, shifted // shifts % shifts, shifted % shifts])
        return images if mirrored is None else torch.where(mirrored[:, None, None, None], images.flip(3), images)

    def ordered(
        self, part: Part, batch_size: int, device: torch.device, shard: Shard = WHOLE_BATCH
    ) -> Iterator[Batch]:
        return self._batches(*self._resident(part, device), batch_size, shard)

    def drawn(self, part: Part, count: int, batch_size: int, seed: int, device: torch.device) -> Iterator[Batch]:
        x, y = self._resident(part, device)
        chosen = draw(len(y), count, seed).to(device)
        return self._batches(x[chosen], y[chosen], batch_size)

    def _batches(self, x: Tensor, y: Tensor, batch_size: int, shard: Shard = WHOLE_BATCH) -> Iterator[Batch]:
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            in_shard = shard_slice(len(labels), shard)
            yield self._normal(images[in_shard]), labels[in_shard]
