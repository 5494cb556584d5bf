"""What a folder of images tells before a run: how many there are, and how large. Defaults follow from it.

Looked at when a config is composed, so without torch, and no further than is needed: a folder of a million images is
counted up to the largest bound that a table asks for.
"""

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from compress.io.files import JSON

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision reads them
LOOKED_AT = 24  # images whose size is read
MULTIPLE = 16  # of which the side of a crop is one: networks halve it four times or five
LEAST_SIDE = 32


def by_images(root: str | None, table: Mapping[str, Any]) -> Any:
    """The value of a table for a folder: that of the least bound that its training images do not exceed, else that of
    `other`: {"2000": 0.2, other: 0.02}."""
    bounds = sorted(int(bound) for bound in table if bound != "other")
    count = training_images(root, bounds[-1] + 1) if root and bounds else None
    if not count:
        return table["other"]
    return next((table[str(bound)] for bound in bounds if count <= bound), table["other"])


def image_side(root: str | None, most: int) -> int:
    """Side of a crop for a folder: that of its images, the median of some, but no more than `most` pixels."""
    side = side_of_images(root) if root else None
    return most if side is None else max(LEAST_SIDE, min(most, side // MULTIPLE * MULTIPLE))


@lru_cache(maxsize=64)
def training_images(root: str, most: int) -> int:
    """Images below root/train, counted up to `most`."""
    return sum(1 for _ in islice(_images(Path(root).expanduser() / "train"), most))


@lru_cache(maxsize=64)
def side_of_images(root: str) -> int | None:
    """The median of the shorter sides of some training images, in pixels; None where none can be read."""
    from PIL import Image

    sides = []
    for path in islice(_images(Path(root).expanduser() / "train"), LOOKED_AT):
        try:
            with Image.open(path) as image:  # reads its header alone
                sides.append(min(image.size))
        except (OSError, ValueError, SyntaxError):  # the data set names what it cannot read
            continue
    return int(median(sides)) if sides else None


def _images(folder: Path) -> Iterator[str]:
    """Image files below a folder, of each class in turn."""
    try:
        classes = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except OSError:
        return
    for of_class in classes:
        for parent, _, names in os.walk(of_class):
            yield from (os.path.join(parent, name) for name in names if name.lower().endswith(ENDINGS))


def told(config: JSON) -> list[str]:
    """A line that says which settings followed from the images of a folder, if any did."""
    dataset = config.get("dataset")
    tables = dataset.get("by_images") if isinstance(dataset, Mapping) else None
    if not isinstance(tables, Mapping) or not isinstance(dataset, Mapping):
        return []
    root = str(dataset.get("root"))
    values = {"held_out": dataset.get("held_out")}
    values |= {key: config["pretrain"].get(key) for key in ("batch_size", "epochs", "lr")}
    asked = {key: by_images(root, table) for key, table in tables.items()}
    followed = [f"{key} {asked[key]:g}" for key in asked if asked[key] == values.get(key) != tables[key]["other"]]
    side = side_of_images(root)
    if side is not None and dataset.get("image_size") == image_side(root, 10**6) < 224:
        followed.append(f"image_size {dataset['image_size']}")
    if not followed:
        return []
    count = training_images(root, 10**6)
    return [f"defaults for {count:,} training images of about {side} px: {', '.join(followed)}"]
