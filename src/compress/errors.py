"""What a user did wrong, in one line per mistake, and the exit codes. No torch here: a mistake is told at once."""

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

BAD_INPUT, INTERRUPTED, TERMINATED = 2, 130, 143  # exit codes
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG)


class InputError(ValueError):
    """Something the user wrote or named is wrong. One line per mistake, each with value, rule and choices."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = self.lines = problems


OWN = "\0"  # before the name of a setting in a text by code that does not know where the setting stands in a config


class SettingError(InputError):
    """What whoever has the settings says of a bad value: f"{OWN}lbound={value}: must not be above {OWN}rbound".

    Who knows where the settings stand says so with `under`; in Python their bare names are told.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*(placed(line) for line in lines))
        self.lines = lines

    def under(self, prefix: str) -> "SettingError":
        """The same, of settings that stand below `prefix`: lr under method.training is method.training.lr."""
        return SettingError(*(line.replace(OWN, f"{OWN}{prefix}.") for line in self.lines))


def placed(text: str, prefix: str = "") -> str:
    """A text with the names of its settings written out."""
    return text.replace(OWN, f"{prefix}." if prefix else "")


@contextmanager
def settings_under(prefix: str) -> Iterator[None]:
    """Settings that are told in the block stand below `prefix`."""
    try:
        yield
    except SettingError as error:
        raise error.under(prefix) from None


def is_users(error: BaseException) -> bool:
    """Whether it is the user who can do something about it, so that one line tells all; else it is a bug of ours."""
    return isinstance(error, InputError) or (isinstance(error, OSError) and error.errno in DISK_ERRORS)


def nearest(word: str, words: Iterable[str]) -> str:
    """ "; did you mean x?", or the words there are."""
    import difflib  # only when something is wrong

    words = sorted(words)
    near = difflib.get_close_matches(word, words, 1, 0.6)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(words)}"


def few(names: Iterable[object], most: int = 3) -> str:
    """The first of some names, and how many there are besides."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
