"""Convolutions as they are trained on this machine's CPU: they survive, and their gradients are right.

That is oneDNN's promise, not ours, and it was broken before (`compress.train.memory_format`): so every machine, every
torch and both families of kernels (AVX2 too, where there are wider ones) are tried, in child processes whose heap is
checked.
"""

import json
import os
import platform
import random
import re
import subprocess
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, make_recipe, zoo
from torch import nn
from torch.nn import functional as F

from compress.errors import InputError
from compress.train.memory_format import (
    BY_LAYERS,
    SafeConvolutions,
    guard,
    is_unsafe,
    training_format,
    unsafe_layers,
)

CHILD = Path(__file__).parent / "convolving.py"
HEAP_CHECK = Path("/lib") / f"{platform.machine()}-linux-gnu" / "libc_malloc_debug.so.0"  # glibc's own
KERNELS = ["", "AVX2"] if platform.machine() in ("x86_64", "AMD64") else [""]
WIDTHS = (*range(1, 17), 24, 32)


def dense_cases() -> list[dict[str, Any]]:
    return [
        case(kernel, stride, inputs, outputs, 1, pixels, channels_last, bf16)
        for kernel, stride, inputs, outputs, pixels, channels_last, bf16 in product(
            (1, 3, 5, 7), (1, 2, 3), WIDTHS, WIDTHS, (7, 8, 9, 16), (True, False), (False, True)
        )
    ]


def grouped_cases() -> list[dict[str, Any]]:
    """Depthwise ones (one input per conv group) among them."""
    return [
        case(kernel, stride, groups * inputs, groups * outputs, groups, pixels, channels_last, bf16)
        for kernel, stride, groups, inputs, outputs, pixels, channels_last, bf16 in product(
            (1, 3, 5, 7), (1, 2, 3), (2, 3, 8, 16), (1, 2, 4, 8), (1, 2, 4), (7, 8, 9), (True, False), (False, True)
        )
    ]


def case(
    kernel: int, stride: int, inputs: int, outputs: int, groups: int, pixels: int, channels_last: bool, bf16: bool
) -> dict[str, Any]:
    return {
        "kernel": kernel, "stride": stride, "inputs": inputs, "outputs": outputs, "groups": groups,
        "pixels": pixels, "channels_last": channels_last, "bf16": bf16,
    }  # fmt: skip


def is_risky(one: dict[str, Any]) -> bool:
    weight = (one["outputs"], one["inputs"] // one["groups"], one["kernel"], one["kernel"])
    return is_unsafe(weight, one["stride"], one["groups"]) and one["channels_last"] and not one["bf16"]


def trained(cases: list[dict[str, Any]], isa: str) -> list[list[float]]:
    """Errors of each case, all in one process under these kernels; fails with the case at which it died."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if isa:
        env["ONEDNN_MAX_CPU_ISA"] = isa
    if HEAP_CHECK.is_file():
        env |= {"LD_PRELOAD": str(HEAP_CHECK), "MALLOC_CHECK_": "3"}
    lines = "".join(json.dumps(one) + "\n" for one in cases)
    done = subprocess.run([sys.executable, str(CHILD)], input=lines, capture_output=True, text=True, env=env)
    found: list[list[float]] = [json.loads(line) for line in done.stdout.splitlines()]
    at = cases[min(len(found), len(cases) - 1)]
    assert done.returncode == 0, f"{isa or 'all'} kernels: code {done.returncode} at {at}\n{done.stderr[-500:]}"
    assert len(found) == len(cases)
    return found


def assert_right(cases: list[dict[str, Any]], isa: str) -> None:
    for one, (output, image, weight) in zip(cases, trained(cases, isa), strict=True):
        # a weight gradient is a sum over images and pixels that may cancel, the more so the fewer weights there are
        near = (2e-2, 5e-2, 0.3) if one["bf16"] else (1e-5, 1e-5, 1e-4)
        assert (output, image, weight) <= near or all(
            got < limit for got, limit in zip((output, image, weight), near, strict=True)
        ), f"{isa or 'all'} kernels: {one} is off by {(output, image, weight)}"


def sampled(cases: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    return random.Random(seed).sample(cases, count)


@pytest.mark.parametrize("isa", KERNELS)
def test_convolutions_train_right(isa: str) -> None:
    risky = [one for one in dense_cases() if is_risky(one)]
    assert len(risky) == 2 * 7 * len(WIDTHS) * 4
    assert_right([*sampled(risky, 100, 0), *sampled(dense_cases(), 600, 1), *sampled(grouped_cases(), 300, 2)], isa)


@pytest.mark.slow
@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("part", range(8))
def test_all_convolutions_train_right(part: int, isa: str) -> None:
    assert_right([*dense_cases(), *grouped_cases()][part::8], isa)


def narrow(stride: int = 2, inputs: int = 5) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, inputs, 3), nn.Conv2d(inputs, 16, 1, stride=stride))


def test_the_layout_is_chosen_by_the_network() -> None:
    auto, cuda = make_recipe(channels_last="auto"), torch.device("cuda")
    assert unsafe_layers(narrow()) == ["1"]
    assert training_format(narrow(), auto, CPU) is torch.contiguous_format
    for safe in (narrow(stride=1), narrow(inputs=8), nn.Conv2d(6, 6, 1, stride=2, groups=6), nn.Conv2d(3, 8, 3, 2)):
        assert unsafe_layers(safe) == []
        assert training_format(safe, auto, CPU) is torch.channels_last
    assert training_format(narrow(), auto, cuda) is torch.channels_last
    assert training_format(narrow(), make_recipe(channels_last="on"), cuda) is torch.channels_last
    assert training_format(narrow(), make_recipe(channels_last="on", amp="bf16"), CPU) is torch.channels_last
    assert training_format(narrow(8), make_recipe(channels_last="off"), CPU) is torch.contiguous_format
    with pytest.raises(InputError, match=r"^channels_last=on: corrupts memory .* such as 1 of"):
        training_format(narrow(), make_recipe(channels_last="on"), CPU)


class Permuting(nn.Sequential):
    """A class of one's own, which may convolve as it likes."""


def hooked() -> nn.Module:
    model = narrow(inputs=8)
    model[0].register_forward_hook(lambda module, given, result: result.contiguous())
    return model


def replaced() -> nn.Module:
    model = narrow(inputs=8)
    model[0].forward = lambda images: F.conv2d(images, model[0].weight)
    return model


def test_only_what_may_convolve_without_a_safe_layer_is_watched() -> None:
    recipe, torchvision = make_recipe(), pytest.importorskip("torchvision")
    for known in (narrow(inputs=8), zoo("resnet20"), torchvision.models.mobilenet_v3_small()):
        assert guard(known, recipe, CPU) is nullcontext
    for other in (narrow(inputs=5), Permuting(nn.Conv2d(3, 8, 1, 2)), hooked(), replaced()):
        assert guard(other, recipe, CPU) is SafeConvolutions
        assert guard(other, make_recipe(amp="bf16"), CPU) is nullcontext


def test_packages_whose_networks_are_not_watched_convolve_by_layers() -> None:
    """But for torch's own layers, and for what torchvision's deformable convolutions call of its own."""
    for package in BY_LAYERS:
        spec = None if package.startswith("torch.nn") else find_spec(package.rstrip("."))
        if spec is not None:  # torchvision may not be there
            folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
            for file in [file for folder in folders for file in folder.rglob("*.py")] or [Path(str(spec.origin))]:
                found = re.findall(
                    r"\b(?:F|functional|torch|aten)\.conv(?:2d|olution)\b|import conv2d", file.read_text()
                )
                assert not found, file
