"""What a user did wrong, in one line per mistake, and the exit codes. No torch here: a mistake is told at once."""

import errno
from collections.abc import Iterable

BAD_INPUT, INTERRUPTED, TERMINATED = 2, 130, 143  # exit codes
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG)


class InputError(ValueError):
    """Something the user wrote or named is wrong. One line per mistake, each with value, rule and choices."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SettingError(InputError):
    """A setting with a bad value, told by whoever has the setting; where it stands in a config, callers add.

    `told` begins with what follows the name: "=3: must be ...".
    """

    def __init__(self, field: str, told: str) -> None:
        super().__init__(f"{field}{told}")
        self.field, self.told = field, told

    def under(self, prefix: str) -> "SettingError":
        """The same, of a setting that stands below `prefix`: "lr" under "method.training" is method.training.lr."""
        return SettingError(f"{prefix}.{self.field}", self.told)


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
