"""Packages of the extras of pyproject.toml, which a setting may need."""

from collections.abc import Sequence
from importlib.util import find_spec

from compress.errors import InputError


def require_extra(extra: str, packages: Sequence[str], asked_by: str) -> None:
    """
    Raises:
        InputError: packages of the extra are missing; names them, and `asked_by`, the setting that needs them.
    """
    missing = [name for name in packages if not _is_installed(name)]
    if missing:
        raise InputError(f'{asked_by}: needs {", ".join(missing)}; pip install "compress-lab[{extra}]"')


def _is_installed(package: str) -> bool:
    """A mere folder of that name in the working directory, such as the one that wandb leaves, is no package."""
    found = find_spec(package)
    return found is not None and found.origin is not None
