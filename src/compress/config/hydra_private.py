"""All uses of Hydra's undocumented interfaces, in one file: the code to review when Hydra is updated.

tests/test_hydra_private.py tests each against the installed Hydra (it passed with 1.3.8 and 1.4.0rc3).
"""

import argparse
from collections.abc import Iterable
from typing import NoReturn

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override

GRID_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"  # the `_target_` of hydra/sweeper=basic


class _OptionError(Exception):
    pass


class _Parser(argparse.ArgumentParser):
    """Hydra's argument parser, but it raises an exception instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise _OptionError(message)


def options(argv: Iterable[str]) -> argparse.Namespace:
    """The command line as parsed by Hydra: its options, and `overrides`.

    Raises:
        ValueError: an unknown option, or an option after the overrides.
    """
    parser = get_args_parser()
    parser.__class__ = _Parser
    try:
        return parser.parse_args(list(argv))
    except _OptionError as error:
        raise ValueError(str(error)) from None


def option_names() -> set[str]:
    """All options of Hydra: -m, --multirun, ..."""
    return {name for action in get_args_parser()._actions for name in action.option_strings}


def grid(overrides: Iterable[Override]) -> list[list[str]]:
    """The command lines of the jobs of Hydra's basic sweeper: every combination of the values."""
    batches = BasicSweeper.split_arguments(list(overrides), max_batch_size=None)
    return [list(job) for batch in batches for job in batch]
