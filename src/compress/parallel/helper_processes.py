"""Helper processes: the ranks other than 0 of a training, how they are started, watched and ended.

The process of the command is rank 0. It alone decides, searches, cuts, measures and writes; the helpers wait for the
trainings that it announces (`compress.parallel.process_group`) and take part in them.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from tqdm import tqdm

from compress.errors import OWN, InputError, SettingError
from compress.parallel.collectives import ALONE, Team
from compress.parallel.process_group import FOREVER, ProcessGroup, join_launched
from compress.parallel.rank import Rank, publish

GRACE_SECONDS = 5.0  # after a helper's death, for rank 0 to fail by itself with a better error
LAST_SECONDS = 30.0  # after the interrupt, for a main thread that hangs in a GPU kernel

Meet = Callable[[torch.device], ProcessGroup]


@dataclass(frozen=True)
class Helper:
    process: SpawnProcess
    messages: Connection  # first "ready", then its error if it fails


@contextmanager
def quiet() -> Iterator[None]:
    """In a helper: no logs and warnings, and SIGINT and SIGTERM are ignored; rank 0 logs and handles the signals."""
    disabled = logging.root.manager.disable
    signals = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    logging.disable(logging.CRITICAL)
    for number, _ in signals:
        signal.signal(number, signal.SIG_IGN)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for number, handler in signals:
            signal.signal(number, handler)


def _end_with_parent() -> None:
    """Exit at once when the parent process is gone, even by kill -9; a helper has nothing to save."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _enter(
    rank: Rank, port: int, threads: int, messages: Connection, helper: Callable[..., None], args: tuple[Any, ...]
) -> None:
    """Entry point of a helper process: runs `helper(meet, *args)`, and sends its error if it fails."""
    publish(rank)
    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())  # the default is a system semaphore, which a killed process would leak
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def meet(device: torch.device) -> ProcessGroup:
        store = TCPStore("127.0.0.1", port, is_master=False, timeout=FOREVER)
        messages.send("ready")
        return ProcessGroup(store, rank, device)

    with quiet():
        try:
            helper(meet, *args)
        except BaseException as error:
            messages.send(error if isinstance(error, InputError) else traceback.format_exc())
            raise SystemExit(1) from None


def _receive(helper: Helper, seconds: float | None) -> Any:
    """The next message of a helper within `seconds` (None: no limit); None if there is none, or if it has ended."""
    with suppress(EOFError):
        if helper.messages.poll(seconds):
            return helper.messages.recv()
    return None


class Crew:
    """All processes that train one network, seen from rank 0.

    Processes of a launcher exist already and are joined at once. Otherwise helpers are spawned on this machine at the
    first training; they end with `close`, or with this process.
    """

    def __init__(
        self,
        devices: int,
        device: torch.device,
        threads: int | None,
        helper: Callable[..., None],
        *args: Any,
        rank: Rank = Rank(),  # noqa: B008 (frozen)
    ) -> None:
        self._devices, self._device = devices, device
        self._threads = threads or max(1, torch.get_num_threads() // devices)  # of each process started here
        self._helper, self._args = helper, args
        self._helpers: list[Helper] = []
        self._ended = threading.Event()  # of the training, well or not
        self._group = join_launched(rank, device) if rank.world_size > 1 else None

    def check(self, word: str) -> bool:
        """Whether all processes of a launcher gave the same `word`, which identifies the run."""
        return self._group is None or self._group.agree(word)

    @contextmanager
    def together(self, order: Any) -> Iterator[Team]:
        """Announce `order` to the helpers; rank 0 does its own part in the block, with its share of the CPU
        threads."""
        if self._devices == 1:
            yield ALONE
            return
        if self._group is None:
            self._group = self._start()
        self._group.announce(order)
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads if self._helpers else threads)
        try:
            yield self._group.team
        finally:
            torch.set_num_threads(threads)

    def _start(self) -> ProcessGroup:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=FOREVER)
        spawn = multiprocessing.get_context("spawn")
        for number in range(1, self._devices):
            receiving, sending = spawn.Pipe(duplex=False)
            rank = Rank(number, self._devices, number, self._devices)
            process = spawn.Process(
                target=_enter, args=(rank, store.port, self._threads, sending, self._helper, self._args)
            )
            with _interrupts_ignored(), _spawned():
                process.start()
            sending.close()
            self._helpers.append(Helper(process, receiving))
        for number, helper in enumerate(self._helpers, 1):
            if (message := _receive(helper, None)) != "ready":
                helper.process.join()
                raise self._failure(number, helper, message)
        threading.Thread(target=self._watch, daemon=True).start()
        return ProcessGroup(store, Rank(0, self._devices, 0, self._devices), self._device)

    def _watch(self) -> None:
        """End the run when a helper dies.

        On CPUs the next collective fails by itself. A collective that hangs on a GPU ends only with its process.
        """
        wait([helper.process.sentinel for helper in self._helpers])
        if self._ended.wait(GRACE_SECONDS):
            return
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if not self._ended.wait(LAST_SECONDS):
            print(f"compress: {self._lost()}", file=sys.stderr, flush=True)
            os._exit(1)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Within the block, an error caused by the death of a helper is replaced by the helper's own error.

        Raises:
            InputError: raised in a helper, or a helper was killed.
            RuntimeError: a helper failed; contains its traceback.
        """
        try:
            yield
        except InputError:
            raise
        except BaseException as error:
            lost = self._lost(GRACE_SECONDS if isinstance(error, RuntimeError) else 0)
            if lost is not None:
                raise lost from error
            raise
        finally:
            self._ended.set()

    def _lost(self, seconds: float = 0) -> Exception | None:
        """The error of a helper that is dead, or dies within `seconds`; None if all live."""
        gone = wait([helper.process.sentinel for helper in self._helpers], seconds) if self._helpers else []
        for number, helper in enumerate(self._helpers, 1):
            if helper.process.sentinel in gone:
                helper.process.join()
                return self._failure(number, helper, _receive(helper, 0))
        return None

    def _failure(self, number: int, helper: Helper, message: Any) -> Exception:
        who, code = f"process {number} of 0..{self._devices - 1}", helper.process.exitcode
        if isinstance(message, InputError):
            return message
        if code is not None and code < 0:
            return SettingError(
                f"{OWN}devices={self._devices}: {who} was killed by {signal.Signals(-code).name} (out of memory?); "
                "the same command continues from the last epoch"
            )
        return RuntimeError(f"{who} failed: {message or f'it ended with code {code} before it was ready'}")

    def close(self, is_orderly: bool = True) -> None:
        """Dismiss the helpers; those spawned here have exited when it returns (killed, if not `is_orderly` or
        slow)."""
        self._ended.set()
        if self._group is not None and (is_orderly or not self._helpers):
            self._group.announce(None)
        for helper in self._helpers:
            helper.process.join(10 if is_orderly else 0)
            helper.process.kill()
            helper.process.join()
            helper.messages.close()
        if self._group is not None:
            self._group.leave()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error is None)


@contextmanager
def _spawned() -> Iterator[None]:
    """Within the block the start method is "spawn": a child inherits its name, and would not know joblib's."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Within the block SIGINT is ignored, which a child inherits: Ctrl-C cannot stop it while it still imports
    torch."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
