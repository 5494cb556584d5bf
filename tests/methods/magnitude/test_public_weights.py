"""Thresholds of public checkpoints: computed by others for the CIFAR ResNets, published for torchvision's networks.

Read from the folder that COMPRESS_TEST_CHECKPOINTS names; what is not there is skipped. The CIFAR ones are those of
github.com/akamaster/pytorch_resnet_cifar10.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import CPU, ORACLES, zoo
from torch import nn

from compress.data.cifar import cifar
from compress.measure.accuracy import accuracy
from compress.models.masks import set_masks
from compress.models.weights import load_strictly, read_checkpoint
from compress.prune.weight_masks import Masked, weight_masks

pytestmark = pytest.mark.slow
ORACLE = json.loads((ORACLES / "slimming.json").read_text())["oracle_B"]
MEASURED, PUBLISHED = ORACLE["substitute"]["measured"], ORACLE["published"]
KINDS = {"conv": nn.Conv2d, "fc": nn.Linear}


def checkpoint(pattern: str) -> Path:
    folder = os.environ.get("COMPRESS_TEST_CHECKPOINTS")
    if not folder:
        pytest.skip("COMPRESS_TEST_CHECKPOINTS is not set")
    files = sorted(Path(folder).glob(pattern))
    if not files:
        pytest.skip(f"{folder} has no {pattern}")
    return files[0]


def one_shot(model: nn.Module, percent: float) -> Masked:
    return weight_masks(
        model,
        percent,
        objects=["conv", "fc"],
        scope="global",
        criterion="percentile",
        on_empty="error" if percent < 0.3 else "keep_max",
        min_weights=1,
    )


def pruned(model: nn.Module, masked: Masked, kind: type[nn.Module]) -> int:
    layers = [name for name, layer in model.named_modules() if isinstance(layer, kind)]
    return sum(int((~masked.masks[name]).sum()) for name in layers)


@pytest.mark.parametrize(
    ("name", "file", "ratios"),
    [("resnet20", "resnet20-12fca82f.th", 6), ("resnet56", "resnet56-4bfd9763.th", 6)],
    ids=["resnet20", "resnet56"],
)
def test_cifar_resnets(name: str, file: str, ratios: int) -> None:
    path = checkpoint(file)
    model = zoo(name, shortcut="pad")
    load_strictly(model, read_checkpoint(path), file)
    checked = 0
    for percent, row in MEASURED[name].items():
        masked = one_shot(model, float(percent))
        for pool, kind in KINDS.items():
            expected: dict[str, Any] = row.get(pool, {"thr": 0.0, "pruned": 0})
            assert masked.levels[pool] == expected["thr"]
            assert pruned(model, masked, kind) == expected["pruned"]
        checked += float(percent) > 0
        assert not masked.refilled
    assert checked == ratios


@pytest.mark.parametrize(
    ("name", "file"),
    [("resnet20", "resnet20-12fca82f.th"), ("resnet56", "resnet56-4bfd9763.th")],
    ids=["resnet20", "resnet56"],
)
def test_their_accuracy_after_pruning(name: str, file: str) -> None:
    """On the CIFAR-10 test images under COMPRESS_TEST_CIFAR10, to within 0.1 points."""
    root = os.environ.get("COMPRESS_TEST_CIFAR10")
    if not root:
        pytest.skip("COMPRESS_TEST_CIFAR10 is not set")
    data = cifar(
        classes=10,
        root=root,
        download=False,
        image_size=None,
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
        pad=4,
        flip=True,
        held_out=0.1,
        split_seed=0,
    )
    weights = read_checkpoint(checkpoint(file))
    for percent, row in MEASURED[name].items():
        model = zoo(name, shortcut="pad")
        load_strictly(model, weights, file)
        set_masks(model, one_shot(model, float(percent)).masks)
        assert accuracy(model, data.ordered("test", 500, CPU)).top1 == pytest.approx(row["top1"], abs=0.1)


@pytest.mark.parametrize(
    ("name", "file", "row"),
    [
        ("mobilenet_v2", "mobilenet_v2-b0353104.pth", "tv_mobilenet_v2"),
        ("resnet18", "resnet18-*.pth", "tv_resnet18"),
        ("resnet34", "resnet34-*.pth", "tv_resnet34"),
    ],
    ids=["mobilenet_v2", "resnet18", "resnet34"],
)
def test_torchvision(name: str, file: str, row: str) -> None:
    path = checkpoint(file)
    model = zoo(name, shape=(3, 224, 224), classes=1000)
    load_strictly(model, read_checkpoint(path), path.name)
    published = PUBLISHED[row]
    for place, percent in enumerate(published["ratios"]):
        masked = one_shot(model, percent)
        for pool, kind in KINDS.items():
            assert f"{masked.levels[pool]:.2e}" == f"{published[pool][place]:.2e}"
            # Equal weights may fall on the threshold; all of them go.
            assert 0 <= pruned(model, masked, kind) - published[f"expected_pruned_{pool}_at"][str(percent)] < 10
