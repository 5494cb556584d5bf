"""All that is taken of Hydra beyond what it documents, in one file: what to look at when Hydra is updated.

tests/test_hydra_private.py runs each of it against whatever Hydra is importable (1.3.8 and 1.4.0rc3 were tried).
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
    """Hydra's parser, which raises instead of printing how it is used."""

    def error(self, message: str) -> NoReturn:
        raise _OptionError(message)


def options(argv: Iterable[str]) -> argparse.Namespace:
    """Hydra's options and the overrides.

    Raises:
        ValueError: options that Hydra does not have, or that stand behind overrides.
    """
    parser = get_args_parser()
    parser.__class__ = _Parser
    try:
        return parser.parse_args(list(argv))
    except _OptionError as error:
        raise ValueError(str(error)) from None


def option_names() -> set[str]:
    """-m, --multirun, ..."""
    return {name for action in get_args_parser()._actions for name in action.option_strings}


def grid(overrides: Iterable[Override]) -> list[list[str]]:
    """The command lines of the jobs that Hydra's own sweeper makes of overrides: every combination."""
    batches = BasicSweeper.split_arguments(list(overrides), max_batch_size=None)
    return [list(job) for batch in batches for job in batch]
