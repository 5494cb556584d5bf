"""Shared by all tests: the real digits, a tiny network that is good at them, and the command in this process."""

import functools
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forking
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from compress.config.compose import plain
from compress.config.resolvers import register_resolvers
from compress.config.zoo import zoo_spec
from compress.data.digits import digits
from compress.data.memory import MemoryData
from compress.graph.plan import Plan
from compress.io.paths import CONF
from compress.models.resnet_cifar import resnet
from compress.schema.settings import Recipe

CPU = torch.device("cpu")
ORACLES = Path(__file__).parent / "oracles"
register_resolvers()
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a suite in the background of a shell: commands would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # two busy processes with two threads each take many times as long


def make_recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 64,
        "lr": 0.05,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "hold_epochs": 0,
        "step_epochs": 1,
        "step_factor": 0.1,
        "warmup_epochs": 0.0,
        "label_smoothing": 0.0,
        "clip_norm": None,
        "early_stop_epochs": None,
        "amp": "off",
        "channels_last": "off",
        "graphs": "auto",
        "checkpoint_seconds": 0.0,
    }
    return Recipe(**(settings | changes))


def compose_config(*overrides: str) -> dict[str, Any]:
    """The config of a command line, as the pipeline gets it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose("config", list(overrides)))


def zoo(name: str, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, **changes: Any) -> nn.Module:
    """A network as conf/model/<name>.yaml has it, but for `changes` of its settings."""
    return zoo_spec(name, shape, classes, **changes).build(check_forward=False)


def livened(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms with statistics and shifts of their own, so that a channel left in by mistake shows."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                tensor.copy_(low + (high - low) * torch.rand(len(tensor), generator=random))
    return model


def random_plan(graph: Any, share: float, seed: int = 0) -> Plan:
    """The same share of every group, channels drawn at random."""
    random = torch.Generator().manual_seed(seed)
    kept = {}
    for group in graph.groups:
        count = max(1, round(share * group.width))
        kept[group.name] = tuple(sorted(torch.randperm(group.width, generator=random)[:count].tolist()))
    return Plan(kept)


@pytest.fixture(scope="session")
def digit_data() -> MemoryData:
    return digits(image_size=None, mean=[0.3053], std=[0.376], pad=1, flip=False, held_out=0.2, split_seed=0)


@pytest.fixture
def tiny() -> nn.Module:
    """A ResNet of depth 8 and width 8 for digits, fresh weights."""
    torch.manual_seed(0)
    return resnet(depth=8, width=8, shortcut="conv", in_channels=1, num_classes=10)


Command = Callable[..., "subprocess.CompletedProcess[str]"]


def run_command(
    folder: Path, *arguments: str, timeout: float = 900, **env: str
) -> "subprocess.CompletedProcess[str]":
    """Run `compress ...` in a process of its own, in `folder`."""
    return forking.run(folder, list(arguments), {**os.environ, "OMP_NUM_THREADS": "1", **env}, timeout)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """`run_command` in an empty folder."""
    return functools.partial(run_command, tmp_path)
