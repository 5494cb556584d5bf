"""What every image set offers to training, search and measuring."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from compress.errors import InputError, few

Part = Literal["train", "held_out", "test"]
Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) float, labels (B,) int64
Share = tuple[int, int]  # of a batch: the first, second, ... of so many processes has this one
WHOLE: Share = (0, 1)


class Data(Protocol):
    """An image set in three parts. `held_out` is cut from the official training images; whatever searches or
    selects sees `train` and `held_out` only, `test` is read once per reported model."""

    name: str
    classes: int
    shape: tuple[int, int, int]  # of one image as the network sees it: C, H, W

    def fingerprint(self) -> str:
        """Changes when any image, label or the split changes."""

    def split(self) -> dict[str, Tensor]:
        """Indices of `train` and `held_out` among the official training images, and of `test`."""

    def shuffled(self, batch_size: int, seed: int, device: torch.device, share: Share = WHOLE) -> Iterator[Batch]:
        """One epoch of `train`, shuffled and augmented, the same for the same seed.

        Of each batch a `share`, which may be empty: the shares together are the batch, image by image.
        """

    def ordered(self, part: Part, batch_size: int, device: torch.device, share: Share = WHOLE) -> Iterator[Batch]:
        """All of one part in its fixed order, not augmented; of each batch a share."""

    def drawn(self, part: Part, count: int, batch_size: int, seed: int, device: torch.device) -> Iterator[Batch]:
        """At most `count` images of one part, drawn without repetition, not augmented; the same for the same seed."""


def shared(size: int, share: Share) -> slice:
    """The places of a share in a batch: sizes differ by one at most."""
    rank, world = share
    return slice(rank * size // world, (rank + 1) * size // world)


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split images into (train, held out), class by class: (N,) -> sorted indices of both.

    Raises:
        InputError: one of the two would be empty.
    """
    generator = torch.Generator().manual_seed(seed)
    held = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        held.append(members[order[: round(share * len(members))]])
    held_out = torch.cat(held).sort().values
    if not 0 < len(held_out) < len(labels):
        raise InputError(
            f"dataset.held_out={share:g}: holds {len(held_out)} of {len(labels)} images out; each part needs some"
        )
    is_train = torch.ones(len(labels), dtype=torch.bool)
    is_train[held_out] = False
    return is_train.nonzero().flatten(), held_out


def check_classes(source: str, labels: Sequence[int], classes: int) -> None:
    """
    Raises:
        InputError: less than two classes, or a class without an image.
    """
    if classes < 2:
        raise InputError(f"{source}: has {classes} class; a classifier needs two at least")
    missing = sorted(set(range(classes)) - set(labels))
    if missing:
        raise InputError(f"{source}: no training image is of class {few(missing)} (counted from 0, of {classes})")


def check_labels(source: str, labels: Tensor, classes: int) -> None:
    """Of images (N,).

    Raises:
        InputError: no image, or a label that is none of the classes.
    """
    if not len(labels):
        raise InputError(f"{source}: holds no image")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise InputError(f"{source}: holds the label {int(wrong[0])}; labels are 0 to {classes - 1}")


def check_normalisation(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """
    Raises:
        InputError: not one value per channel, or a spread that is not positive.
    """
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise InputError(f"dataset.{key}={list(values)}: must have {channels} value(s), one per channel")
    if not all(value > 0 for value in std):
        raise InputError(f"dataset.std={list(std)}: every value must be > 0")


def draw(size: int, count: int, seed: int) -> Tensor:
    """At most `count` of `size` places, ascending, without repetition: -> (min(size, count),)."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].sort().values


def digest(*parts: Tensor | str) -> str:
    """A short name for content: the same tensors and words, the same digest."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.encode() if isinstance(part, str) else part.contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]
