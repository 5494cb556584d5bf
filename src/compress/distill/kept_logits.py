"""A teacher's logits of the views of images, computed once for all students.

An image that is cropped at random from its padded self and flipped at random has few views: 162 with 4 pixels and a
flip. The file is one of numpy (.npy): float32, one row of logits for each view. It is written batch by batch and
mapped into memory for reading, so that its size may exceed the RAM.
"""

import errno
import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from torch import Tensor, nn

from compress.data.base import Viewed
from compress.io.files import CHUNK
from compress.io.stage_folder import StageFolder

log = logging.getLogger(__name__)

LAYOUT = torch.channels_last  # of a teacher and its images: the faster one, which is safe without gradients
NAME = "logits.npy"
BATCH = 512  # images that the teacher is given at a time
SAVE_SECONDS = 10.0  # between two savings of progress


@dataclass(frozen=True)
class KeptLogits:
    """Logits (n, classes), float32, of the sorted views (n,); without `views`, of all views in order."""

    logits: Tensor
    views: Tensor | None = None

    def of(self, views: Tensor) -> Tensor:
        """The logits (B, classes) of views (B,), each of them kept. No device waits for a value."""
        return self.logits[views if self.views is None else torch.searchsorted(self.views, views)]


def megabytes(views: int, classes: int) -> float:
    """The size of a table, in 10^6 bytes."""
    return 4 * views * classes / 1e6


def opened(file: Path, views: Tensor | None, device: torch.device) -> KeptLogits:
    """The table in a file: mapped into memory on a CPU, copied to another device."""
    table = torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))  # "c": torch wants it writable
    return KeptLogits(table.to(device), None if views is None else views.to(device))


def fill(
    work: StageFolder, teacher: nn.Module, data: Viewed, views: Tensor, classes: int, device: torch.device
) -> None:
    """Write the teacher's logits of the sorted `views` (n,) of `data`; goes on where a killed process was."""
    path = work.folder / NAME
    path.touch()
    teacher.eval().to(device).to(memory_format=LAYOUT)
    with open(path, "r+b") as file, torch.no_grad():
        start, row = _begun(file, path, (len(views), classes)), 4 * classes
        done, crc = _resumed(work, file, start, row)

        def state() -> dict[str, int]:
            file.flush()
            os.fsync(file.fileno())
            return {"views": done, "crc": crc}

        file.seek(start + done * row)
        for images in data.views_in_order(views[done:], BATCH, device):
            logits = teacher(images.contiguous(memory_format=LAYOUT)).float().cpu()
            assert logits.shape == (len(images), classes)
            content = logits.contiguous().numpy().tobytes()
            file.write(content)
            done, crc = done + len(images), zlib.crc32(content, crc)
            work.progress(state, SAVE_SECONDS)
        state()


def _begun(file: BinaryIO, path: Path, shape: tuple[int, int]) -> int:
    """Write the header, and make the file as long as it will be; returns where the first row begins.

    Raises:
        OSError: the disk has no room for it.
    """
    write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    start, size = file.tell(), 4 * shape[0] * shape[1]
    room = shutil.disk_usage(path.parent).free + 512 * os.fstat(file.fileno()).st_blocks
    if size > room:
        raise OSError(errno.ENOSPC, f"the disk has no room for {size / 1e6:,.1f} MB", str(path))
    file.truncate(start + size)
    return start


def _resumed(work: StageFolder, file: BinaryIO, start: int, row: int) -> tuple[int, int]:
    """How many views are there already, and the CRC-32 of their rows of so many bytes."""
    if work.resumed is None:
        return 0, 0
    done, crc = int(work.resumed["views"]), 0
    file.seek(start)
    for content in _read(file, done * row):
        crc = zlib.crc32(content, crc)
    if crc == work.resumed["crc"]:
        return done, crc
    log.warning("%s is damaged; it is written anew", work.folder / NAME)
    return 0, 0


def _read(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size and (content := file.read(min(CHUNK, size))):
        size -= len(content)
        yield content
