"""Files of results, and what stands beside every number: the card, and the version of torch."""

import platform
from pathlib import Path
from typing import Any

import torch

from compress.io.files import read_json, write_json


def card(device: str) -> dict[str, str]:
    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    return {
        "card": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {platform.machine()}",
        "torch": torch.__version__,
    }


def read_or(path: Path, otherwise: Any) -> Any:
    return read_json(path) if path.is_file() else otherwise


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
