"""The command `compress plan`: what a run would do, without training and without writing anything."""

from collections.abc import Sequence
from pathlib import Path

from compress.errors import INTERRUPTED, InputError

USAGE = """\
compress plan [--layers] [--no-time] [--wide] [--config-dir DIR] key=value ...

What `compress key=value ...` would do: the stages and which of them are in the cache, the widths that the budget
allows, MACs and parameters, and how long it would take here, estimated from a batch of each training and a moment of
each search. Nothing is trained to its end, and nothing is written.

  --layers   also a row per layer: MACs, parameters, outputs; and which stay whole and why
  --no-time  without the estimate, which takes some seconds
  --wide     names in full, whatever the width of the terminal"""

FLAGS = ("--layers", "--no-time", "--wide")


def main(argv: Sequence[str]) -> int:
    """The exit code: 0, or 2 after bad input, with a line per mistake."""
    if {"--help", "-h"} & set(argv):
        print(USAGE)
        return 0
    from compress.config.refusal import refuse

    try:
        flags, config_dir, settings = split(argv)
        for part in _parts(settings, config_dir, flags):
            print(part)
    except InputError as error:
        refuse(error.problems)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def split(argv: Sequence[str]) -> tuple[set[str], str | None, list[str]]:
    """The options of this command, the folder of the user's own configs, and the settings.

    Raises:
        InputError: an option that it does not have.
    """
    flags: set[str] = set()
    folder: str | None = None
    settings: list[str] = []
    words = iter(argv)
    for word in words:
        name, _, value = word.partition("=")
        if word in FLAGS:
            flags.add(word)
        elif name in ("--config-dir", "-cd"):
            folder = value or next(words, "")
        elif word in ("-m", "--multirun"):
            raise InputError(f"{word}: a plan is of one run; give one value of each setting")
        elif word.startswith("-"):
            raise InputError(f"{word}: no such option of compress plan; there are {', '.join(FLAGS)}, --config-dir")
        else:
            settings.append(word)
    return flags, folder, settings


def _parts(settings: list[str], config_dir: str | None, flags: set[str]) -> list[str]:
    """What is printed, in order."""
    from compress.config.build import build
    from compress.config.composed import composed
    from compress.preview.look import looked

    config = composed(settings, config_dir)
    job = build(config)
    wide, layers, timed = ("--wide" in flags), ("--layers" in flags), ("--no-time" not in flags)
    return looked(job, config, Path(config["outputs"]), wide=wide, layers=layers, timed=timed)
