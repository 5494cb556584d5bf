"""`Data`: the interface of an image data set to training, search and measurement; splits and checks."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from compress.errors import OWN, SettingError, few

Part = Literal["train", "held_out", "test"]
Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) float, labels (B,) int64
Shard = tuple[int, int]  # (rank, world size): the part of every batch that one rank reads
WHOLE_BATCH: Shard = (0, 1)


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """What a network sees of a pixel in [0, 1]: (pixel - mean) / std, a value of each per channel."""

    mean: list[float]
    std: list[float]


class Data(Protocol):
    """An image set in three parts. `held_out` is split off the official training images. Whatever trains, searches or
    selects reads `train` and `held_out` only; `test` is read once per reported model.

    It may have an attribute `normalisation`, a `Normalisation`: see `normalisation_of`.
    """

    name: str
    classes: int
    shape: tuple[int, int, int]  # of one image as the network sees it: C, H, W

    def fingerprint(self) -> str:
        """A digest that changes when any image, label, preprocessing or the split changes."""

    def split(self) -> dict[str, Tensor]:
        """Sorted indices, int64: of `train` and `held_out` among the official training images, of `test` among the
        official test images."""

    def shuffled(
        self, batch_size: int, seed: int, device: torch.device, shard: Shard = WHOLE_BATCH
    ) -> Iterator[Batch]:
        """One epoch of `train`, shuffled and augmented, determined by the seed.

        Yields this `shard` of every batch, which may be empty. The shards of all ranks, concatenated in order of
        rank, are the batch of a single process, image for image.
        """

    def ordered(
        self, part: Part, batch_size: int, device: torch.device, shard: Shard = WHOLE_BATCH
    ) -> Iterator[Batch]:
        """All of one part in its fixed order, not augmented; this `shard` of every batch."""

    def drawn(self, part: Part, count: int, batch_size: int, seed: int, device: torch.device) -> Iterator[Batch]:
        """At most `count` images of one part, drawn without replacement, not augmented; determined by the seed."""


@runtime_checkable
class Viewed(Protocol):
    """What a `Data` has besides if its augmentation makes finitely many views of an image: they can be counted.

    A view is a number, image * `views` + which of its views, where images are counted in `train`.
    """

    @property
    def views(self) -> int:
        """How many each image has."""

    def shuffled_views(
        self, batch_size: int, seed: int, device: torch.device, shard: Shard = WHOLE_BATCH
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What `shuffled` yields, and the views (B,), int64."""

    def drawn_views(self, batch_size: int, seed: int, device: torch.device) -> Tensor:
        """The views (N,) of an epoch of `shuffled_views`, in order; without making them."""

    def views_in_order(self, views: Tensor, batch_size: int, device: torch.device) -> Iterator[Tensor]:
        """The images (B, C, H, W) of any views (n,), in batches."""


def normalisation_of(data: Data) -> Normalisation | None:
    """How the images of a set are normalised; None: a set of the user's own, which does not say."""
    found: Normalisation | None = getattr(data, "normalisation", None)
    return found


def shard_slice(size: int, shard: Shard) -> slice:
    """The slice of a shard within a batch of `size` images; shards differ in size by at most one."""
    rank, world = shard
    return slice(rank * size // world, (rank + 1) * size // world)


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """A stratified split into (train, held out): labels (N,) -> sorted indices of both, int64.

    `share` of every class is held out, rounded.

    Raises:
        SettingError: one of the two parts would be empty.
    """
    check_held_out(share, labels.unique(return_counts=True)[1].tolist())
    generator = torch.Generator().manual_seed(seed)
    held = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        held.append(members[order[: round(share * len(members))]])
    held_out = torch.cat(held).sort().values
    is_train = torch.ones(len(labels), dtype=torch.bool)
    is_train[held_out] = False
    return is_train.nonzero().flatten(), held_out


def check_held_out(share: float, counts: Sequence[int]) -> None:
    """`counts`: training images of every class, of which `hold_out` will take its share.

    Where they are known without the images, an image set calls this when it is made, so that a run is refused before
    it begins.

    Raises:
        SettingError: one of the two parts would be empty.
    """
    held, total = sum(round(share * count) for count in counts), sum(counts)
    if not 0 < held < total:
        raise SettingError(f"{OWN}held_out={share:g}: holds {held} of {total} images out; each part needs some")


def check_classes(source: str, labels: Sequence[int], classes: int) -> None:
    """
    Raises:
        SettingError: fewer than two classes, or a class without a training image. `source` begins the message.
    """
    if classes < 2:
        raise SettingError(f"{source}: has {classes} class; a classifier needs two at least")
    missing = sorted(set(range(classes)) - set(labels))
    if missing:
        raise SettingError(f"{source}: no training image is of class {few(missing)} (counted from 0, of {classes})")


def check_labels(source: str, labels: Tensor, classes: int) -> None:
    """Check labels (N,).

    Raises:
        SettingError: no image, or a label that is not in [0, classes). `source` begins the message.
    """
    if not len(labels):
        raise SettingError(f"{source}: holds no image")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise SettingError(f"{source}: holds the label {int(wrong[0])}; labels are 0 to {classes - 1}")


def check_normalisation(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """
    Raises:
        SettingError: not one value per channel, or a standard deviation that is not positive.
    """
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise SettingError(f"{OWN}{key}={list(values)}: must have {channels} value(s), one per channel")
    if not all(value > 0 for value in std):
        raise SettingError(f"{OWN}std={list(std)}: every value must be > 0")


def draw(size: int, count: int, seed: int) -> Tensor:
    """Random indices in [0, size), sorted, without replacement: (min(size, count),) int64."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].sort().values


def digest(*parts: Tensor | str) -> str:
    """SHA-256 of the bytes of tensors and text, as 16 hex digits."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.encode() if isinstance(part, str) else part.contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]
