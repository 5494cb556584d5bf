"""Errors that the user can correct, each reported in one line, and the exit codes of the command.

Imports no torch: most mistakes are reported before torch is loaded.
"""

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

BAD_INPUT, INTERRUPTED, TERMINATED = 2, 130, 143  # exit codes
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG)


class InputError(ValueError):
    """The user's input is wrong. `problems` has one line per mistake: the value, the rule, the valid choices."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = self.lines = problems


# Marks the name of a setting in a message. Code that checks its own settings does not know their keys in the config:
# there "lr" may be "method.training.lr". The mark is where the caller, who knows, inserts "method.training.".
OWN = "\0"


class SettingError(InputError):
    """Raised by a class or function whose settings are wrong: f"{OWN}lbound={value}: must not be above {OWN}rbound".

    `config.build` catches it and adds the config key with `under`. Code that calls the class without a config gets
    the message with the bare names.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*(placed(line) for line in lines))
        self.lines = lines

    def under(self, prefix: str) -> "SettingError":
        """The same error with `prefix` before every setting: lr under "method.training" is method.training.lr."""
        return SettingError(*(line.replace(OWN, f"{OWN}{prefix}.") for line in self.lines))


def placed(text: str, prefix: str = "") -> str:
    """The text with every mark `OWN` replaced by the prefix and a dot; without a prefix, removed."""
    return text.replace(OWN, f"{prefix}." if prefix else "")


@contextmanager
def settings_under(prefix: str) -> Iterator[None]:
    """Add `prefix` to the settings named by a `SettingError` that is raised in the block."""
    try:
        yield
    except SettingError as error:
        raise error.under(prefix) from None


def is_user_error(error: BaseException) -> bool:
    """Whether the user can correct it (bad input, a full disk), so that one line suffices; otherwise it is a bug of
    ours and is shown with its traceback."""
    return isinstance(error, InputError) or (isinstance(error, OSError) and error.errno in DISK_ERRORS)


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint for an unknown word: "did you mean x?" if one of `words` is similar, else a list of all."""
    import difflib  # slow to import, and needed only for a mistake

    words = sorted(words)
    near = difflib.get_close_matches(word, words, 1, 0.6)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(words)}"


def few(names: Iterable[object], most: int = 3) -> str:
    """The first names of a list, and how many more there are: "a, b, c and 5 more"."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
