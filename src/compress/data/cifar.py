"""CIFAR-10 and CIFAR-100 from the official files, python or binary layout, packed or unpacked.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
https://www.cs.toronto.edu/~kriz/cifar.html describes both layouts. The python layout is pickled; it is read by an
unpickler that allows numpy arrays and builtin containers only, so that a manipulated file cannot run code.
"""

import hashlib
import io
import pickle
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch

from compress.data.base import check_held_out
from compress.data.memory import MemoryData, MemorySettings, Pixels
from compress.errors import OWN, InputError, SettingError, first_line
from compress.io.files import atomic

URL = "https://www.cs.toronto.edu/~kriz/"
TRAINING_IMAGES = 50_000  # as many of every class
IMAGE_BYTES = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """One official distribution of one set: its folder and archive, and the files of each part."""

    folder: str
    archive: str
    md5: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int = 0  # per image, before it, in the binary layout; the last one is the label (CIFAR-100: fine)
    label_key: bytes = b""  # of the python layout


LAYOUTS: dict[int, tuple[Layout, ...]] = {
    10: (
        Layout(
            "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            ("test_batch.bin",),
            label_bytes=1,
        ),
        Layout(
            "cifar-10-batches-py",
            "cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
            tuple(f"data_batch_{i}" for i in range(1, 6)),
            ("test_batch",),
            label_key=b"labels",
        ),
    ),
    100: (
        Layout(
            "cifar-100-binary",
            "cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
            ("train.bin",),
            ("test.bin",),
            label_bytes=2,
        ),
        Layout(
            "cifar-100-python",
            "cifar-100-python.tar.gz",
            "eb9058c3a382ffc7106e4002c42a8d85",
            ("train",),
            ("test",),
            label_key=b"fine_labels",
        ),
    ),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds dicts, lists, bytes and numpy arrays; refuses every other name."""

    _SAFE = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._SAFE:
            raise pickle.UnpicklingError(f"refused {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def parse(raw: bytes, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of one official file -> images (N, 3, 32, 32) uint8 and labels (N,) int64."""
    if layout.label_bytes:
        rows = np.frombuffer(raw, np.uint8).reshape(-1, layout.label_bytes + IMAGE_BYTES)
        images, labels = rows[:, layout.label_bytes :], rows[:, layout.label_bytes - 1]
    else:
        content = _ArrayUnpickler(io.BytesIO(raw), encoding="bytes").load()
        images, labels = content[b"data"], np.asarray(content[layout.label_key])
    return images.reshape(-1, 3, 32, 32), labels.astype(np.int64)


def read_files(source: Path, layout: Layout) -> dict[str, bytes]:
    """The files of a layout by name; `source` is its folder or its archive, which need not be unpacked."""
    names = (*layout.train, *layout.test)
    if source.is_dir():
        return {name: (source / name).read_bytes() for name in names}
    contents = {}
    with tarfile.open(source) as archive:
        for name in names:
            member = archive.extractfile(f"{layout.folder}/{name}")
            assert member is not None
            contents[name] = member.read()
    return contents


def read_cifar(source: Path, layout: Layout, classes: int) -> Pixels:
    """All images of a set; `source` is its folder or archive.

    Raises:
        InputError: a file is missing, truncated or not of the layout.
    """
    try:
        contents = read_files(source, layout)
        arrays = []
        for names, count in ((layout.train, TRAINING_IMAGES), (layout.test, 10_000)):
            parsed = [parse(contents[name], layout) for name in names]
            images, labels = (np.concatenate(part) for part in zip(*parsed, strict=True))
            if images.dtype != np.uint8 or len(images) != count or labels.min() < 0 or labels.max() >= classes:
                raise ValueError(f"{len(images)} {images.dtype} images where {count} of bytes belong")
            arrays += [torch.from_numpy(images.copy()), torch.from_numpy(labels)]
    except Exception as error:  # a damaged file can raise anything
        reason = first_line(error)
        raise InputError(f"{source}: not the official cifar{classes} files ({reason}); fetch them again") from None
    return Pixels(*arrays)


def fetch_archive(folder: Path, layout: Layout) -> Path:
    """Download the official archive into `folder`, check its MD5, and return its path.

    Raises:
        InputError: no network, or an MD5 that is not the official one.
    """
    target = folder / layout.archive
    md5 = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(URL + layout.archive, timeout=60) as reply:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic(target) as part:
                with open(part, "wb") as file:
                    while block := reply.read(1 << 20):
                        file.write(block)
                        md5.update(block)
                if md5.hexdigest() != layout.md5:
                    raise InputError(f"{URL}{layout.archive}: MD5 {md5.hexdigest()}, not {layout.md5}; try again")
    except OSError as error:
        raise SettingError(
            f"cannot download {URL}{layout.archive} ({error}); fetch it on a machine with a network "
            f"and give {OWN}root=<its folder>"
        ) from None
    return target


def find(root: Path, classes: int) -> tuple[Path, Layout] | None:
    """The first layout found in `root`, as a folder or an archive; `root` may also be the layout's folder itself."""
    for layout in LAYOUTS[classes]:
        for source in (root / layout.folder, root, root / layout.archive):
            whole = all((source / name).is_file() for name in (*layout.train, *layout.test))
            if whole or (source.name == layout.archive and source.is_file()):
                return source, layout
    return None


def cifar(
    *,
    classes: Literal[10, 100],
    root: str,
    download: bool,
    **settings: Unpack[MemorySettings],
) -> MemoryData:
    """CIFAR-10 or CIFAR-100 from the folder `root`. Files are read (or downloaded) when images are first needed.

    Raises:
        SettingError: the files are not there and `download` is False, or `held_out` leaves no image in one part.
    """
    check_held_out(settings["held_out"], [TRAINING_IMAGES // classes] * classes)
    folder = Path(root).expanduser()
    if find(folder, classes) is None and not download:
        raise SettingError(
            f"{OWN}root={root}: cifar{classes} is not there; give {OWN}root=<folder with "
            f"{LAYOUTS[classes][1].archive} or {LAYOUTS[classes][0].archive}, packed or unpacked>, "
            f"or {OWN}download=true on a machine with a network, or take the digits, which need no files"
        )

    def read() -> Pixels:
        layout = LAYOUTS[classes][0]
        return read_cifar(*(find(folder, classes) or (fetch_archive(folder, layout), layout)), classes)

    return MemoryData(f"cifar{classes}", read, classes=classes, shape=(3, 32, 32), **settings)
