"""How the callback that Hydra makes of `hydra.callbacks` in the config comes to be the object that `main` made.

The config names `current`, a function of no arguments; `calling_back` says what it returns. This variable is the one
place of the command that is not an attribute of an object: Hydra offers no other way in.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from hydra.experimental.callback import Callback

_current: ContextVar[Callback | None] = ContextVar("the callback of the command that runs", default=None)


def current() -> Callback:
    """The callback of the command that runs; one that does nothing where the config is used without the command."""
    return _current.get() or Callback()


@contextmanager
def calling_back(callback: Callback) -> Iterator[None]:
    token = _current.set(callback)
    try:
        yield
    finally:
        _current.reset(token)
