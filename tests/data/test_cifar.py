"""Both official layouts are read, packed and unpacked; foreign files are refused and run nothing."""

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.data import cifar
from compress.data.cifar import LAYOUTS, find, parse, read_cifar, read_files
from compress.errors import InputError

BINARY, PYTHON = LAYOUTS[10]


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, 3072), dtype=np.uint8), random.integers(0, 10, count)


def as_binary(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    return np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1).tobytes()


def as_pickle(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    return pickle.dumps({b"data": pixels, b"labels": labels.tolist()}, protocol=2)


def test_both_layouts_give_the_same_images() -> None:
    pixels, labels = images(20)
    for raw, layout in ((as_binary(pixels, labels), BINARY), (as_pickle(pixels, labels), PYTHON)):
        x, y = parse(raw, layout)
        assert np.array_equal(x.reshape(20, -1), pixels)
        assert x.shape == (20, 3, 32, 32)
        assert np.array_equal(y, labels)


def test_the_second_label_byte_of_cifar100_is_the_fine_one() -> None:
    pixels, labels = images(5)
    raw = np.concatenate([np.full((5, 1), 19, np.uint8), labels[:, None].astype(np.uint8), pixels], axis=1).tobytes()
    assert np.array_equal(parse(raw, LAYOUTS[100][0])[1], labels)


def write_folder(root: Path, content: bytes) -> Path:
    folder = root / BINARY.folder
    folder.mkdir(parents=True)
    for name in (*BINARY.train, *BINARY.test):
        (folder / name).write_bytes(content)
    return folder


def test_folder_and_archive_hold_the_same(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", b"some bytes")
    archive = tmp_path / "b" / BINARY.archive
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, BINARY.folder)
    assert read_files(folder, BINARY) == read_files(archive, BINARY)
    assert find(tmp_path / "a", 10) == (folder, BINARY)
    assert find(folder, 10) == (folder, BINARY)  # the set's own folder is a root too
    assert find(tmp_path / "b", 10) == (archive, BINARY)
    assert find(tmp_path / "b", 100) is None


def test_whole_sets_are_read(tmp_path: Path) -> None:
    pixels, labels = images(10_000)
    write_folder(tmp_path, as_binary(pixels, labels))
    found = find(tmp_path, 10)
    assert found is not None
    read = read_cifar(*found, 10)
    assert read.train_x.shape == (50_000, 3, 32, 32)
    assert np.array_equal(read.test_x.numpy().reshape(10_000, -1), pixels)
    assert np.array_equal(read.train_y[10_000:20_000].numpy(), labels)


def test_files_cut_short_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, b"x" * 3073 * 7)
    with pytest.raises(InputError, match="not the official cifar10 files"):
        read_cifar(folder, BINARY, 10)
    (folder / "test_batch.bin").write_bytes(b"x" * 1000)
    with pytest.raises(InputError, match="not the official cifar10 files"):
        read_cifar(folder, BINARY, 10)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("code of a foreign file ran",)


def test_a_pickle_with_code_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(pickle.UnpicklingError, match="refused builtins.print"):
        parse(pickle.dumps({b"data": Evil()}), PYTHON)
    assert capsys.readouterr().out == ""


SETTINGS: dict[str, Any] = {
    "image_size": None, "mean": [0.5] * 3, "std": [0.2] * 3, "pad": 4, "flip": True, "held_out": 0.1, "split_seed": 0,
}  # fmt: skip


def test_a_missing_set_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^root=.*: cifar10 is not there; give root=.*download=true"):
        cifar.cifar(classes=10, root=str(tmp_path), download=False, **SETTINGS)


def test_a_download_checks_the_official_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar.urllib.request, "urlopen", lambda *a, **k: io.BytesIO(b"other bytes"))
    data = cifar.cifar(classes=10, root=str(tmp_path), download=True, **SETTINGS)
    with pytest.raises(InputError, match="MD5"):
        data.split()
    assert list(tmp_path.iterdir()) == []


def test_no_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> Any:
        raise OSError("Name or service not known")

    monkeypatch.setattr(cifar.urllib.request, "urlopen", offline)
    with pytest.raises(InputError, match="cannot download .*fetch it on a machine with a network"):
        cifar.cifar(classes=10, root=str(tmp_path), download=True, **SETTINGS).split()


def test_foreign_contents_are_told_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / PYTHON.folder
    folder.mkdir()
    pixels, labels = images(3)
    for content in (pickle.dumps([1, 2]), pickle.dumps({b"data": None, b"labels": [1]}),
                    pickle.dumps({b"data": pixels / 255, b"labels": labels.tolist()})):  # fmt: skip
        for name in (*PYTHON.train, *PYTHON.test):
            (folder / name).write_bytes(content)
        with pytest.raises(InputError, match="not the official cifar10 files") as caught:
            read_cifar(folder, PYTHON, 10)
        assert len(str(caught.value).splitlines()) == 1
