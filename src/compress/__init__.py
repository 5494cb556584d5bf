"""compress: a smaller image classifier from one configured command.

compress.load("outputs/2026-11-20/10-00-00-000000")   # the run's network, an nn.Module in eval mode
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def load(run: str | Path, model: "nn.Module | None" = None) -> "nn.Module":
    """The network that a run ended with, in eval mode, on the CPU.

    Args:
        run: a run folder, or a `model.safetensors` that a run left.
        model: the uncut network, for one that is not of `compress.models`; it is not changed.

    Raises:
        compress.settings.InputError: no such network, or it cannot be rebuilt safely.
    """
    import copy

    from compress.paths import MODEL
    from compress.prune.network import load_network
    from compress.settings import InputError

    path = Path(run)
    path = path / MODEL if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{run}: holds no {MODEL}; give the folder of a finished run")
    return load_network(path, None if model is None else lambda: copy.deepcopy(model))[0]
