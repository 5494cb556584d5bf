"""The default image set: 1,797 real handwritten digits of 8x8 pixels, shipped in the package (45 KB).

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
doi:10.24432/C50P49, CC BY 4.0. The images are the test part of that set, grey levels 0..16. It has no official
split; ours takes every class's last quarter of a fixed shuffle as test images, the same in every run.
"""

from importlib.resources import files
from typing import Unpack

import numpy as np
import torch

from compress.data.base import hold_out
from compress.data.memory import MemoryData, MemorySettings, Pixels

TEST_SHARE, TEST_SEED = 0.25, 1998


def read_digits() -> Pixels:
    with files("compress.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]).long()
    images = (images.float() * (255 / 16)).round().byte()[:, None]
    train, test = hold_out(labels, TEST_SHARE, TEST_SEED)
    return Pixels(images[train], labels[train], images[test], labels[test])


def digits(**settings: Unpack[MemorySettings]) -> MemoryData:
    """The shipped digits; nothing to download."""
    return MemoryData("digits", read_digits, classes=10, shape=(1, 8, 8), **settings)
