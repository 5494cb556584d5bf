"""Lets Hydra use an existing object as its callback.

Hydra creates callbacks from `hydra.callbacks` in the config, but the session exists before Hydra starts. So the
config names the function `current`, which returns the object given to `use_callback`. This needs a global variable,
the only one of the command.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from hydra.experimental.callback import Callback

_current: ContextVar[Callback | None] = ContextVar("current callback", default=None)


def current() -> Callback:
    """The callback of the running command; one that does nothing if the config is composed without the command."""
    return _current.get() or Callback()


@contextmanager
def use_callback(callback: Callback) -> Iterator[None]:
    """In the block, `current` returns `callback`."""
    token = _current.set(callback)
    try:
        yield
    finally:
        _current.reset(token)
