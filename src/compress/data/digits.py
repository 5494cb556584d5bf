"""The default image set: 1,797 real handwritten digits of 8x8 pixels, shipped in the package (45 KB).

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
doi:10.24432/C50P49, CC BY 4.0. These are the test images of that set, grey levels 0..16, without an official split:
a fixed quarter of every class is the test set, the same in every run.
"""

from importlib.resources import files
from typing import Unpack

import numpy as np
import torch

from compress.data.base import check_held_out, hold_out
from compress.data.memory import MemoryData, MemorySettings, Pixels

TEST_SHARE, TEST_SEED = 0.25, 1998


def read_digits() -> Pixels:
    """All images, (N, 1, 8, 8), grey levels scaled to 0..255."""
    with files("compress.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]).long()
    images = (images.float() * (255 / 16)).round().byte()[:, None]
    train, test = hold_out(labels, TEST_SHARE, TEST_SEED)
    return Pixels(images[train], labels[train], images[test], labels[test])


def digits(**settings: Unpack[MemorySettings]) -> MemoryData:
    """The digits as an image set; nothing is downloaded.

    Raises:
        SettingError: `held_out` leaves no image in one of the two parts.
    """
    check_held_out(settings["held_out"], read_digits().train_y.bincount().tolist())
    return MemoryData("digits", read_digits, classes=10, shape=(1, 8, 8), **settings)
