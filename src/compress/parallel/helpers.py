"""Helpers: the processes beside the command's own that train along, and how they are started, watched and ended.

The command's own process is rank 0. It alone decides, searches, cuts, measures and writes; the others wait for what
it announces (`compress.parallel.group`) and train along.
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

from compress.errors import InputError
from compress.parallel.collectives import ALONE, Team
from compress.parallel.group import FOREVER, ProcessGroup, join_launched
from compress.parallel.rank import Rank, publish

GRACE_SECONDS = 5.0  # between the death of a helper and the end of the run: errors of the network come first
LAST_SECONDS = 30.0  # for a main thread that hangs in a GPU's kernel

Meet = Callable[[torch.device], ProcessGroup]


@dataclass(frozen=True)
class Helper:
    process: SpawnProcess
    told: Connection  # "ready" first, then what it failed of


@contextmanager
def quiet() -> Iterator[None]:
    """Of a helper: the first process tells people, and Ctrl-C or an end that is asked for is its to handle."""
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
    """Nothing of a helper is worth keeping once the process that started it is gone, even by kill -9."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _enter(
    rank: Rank, port: int, threads: int, tell: Connection, helper: Callable[..., None], args: tuple[Any, ...]
) -> None:
    """What a helper's process does: `helper(meet, *args)`, and tell of what went wrong."""
    publish(rank)
    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a killed process would leave there
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def meet(device: torch.device) -> ProcessGroup:
        store = TCPStore("127.0.0.1", port, is_master=False, timeout=FOREVER)
        tell.send("ready")
        return ProcessGroup(store, rank, device)

    with quiet():
        try:
            helper(meet, *args)
        except BaseException as error:
            tell.send(error if isinstance(error, InputError) else traceback.format_exc())
            raise SystemExit(1) from None


def _word(helper: Helper, seconds: float | None) -> Any:
    """What a helper says within some time (None: however long), if it does; None too if it ends without a word."""
    with suppress(EOFError):
        if helper.told.poll(seconds):
            return helper.told.recv()
    return None


class Crew:
    """All that train one network, as rank 0 sees it.

    Processes of a launcher are there already and are joined at once; others are started with the first training, on
    this machine, and end with `close`, whatever happens to this process.
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
        """Whether every process that a launcher started runs the same."""
        return self._group is None or self._group.agree(word)

    @contextmanager
    def together(self, order: Any) -> Iterator[Team]:
        """All processes do what is ordered; this one does it in the block, with its share of the cores."""
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
            told, tell = spawn.Pipe(duplex=False)
            rank = Rank(number, self._devices, number, self._devices)
            process = spawn.Process(
                target=_enter, args=(rank, store.port, self._threads, tell, self._helper, self._args)
            )
            with _interrupts_ignored(), _spawned():
                process.start()
            tell.close()
            self._helpers.append(Helper(process, told))
        for number, helper in enumerate(self._helpers, 1):
            if (word := _word(helper, None)) != "ready":
                helper.process.join()
                raise self._failure(number, helper, word)
        threading.Thread(target=self._watch, daemon=True).start()
        return ProcessGroup(store, Rank(0, self._devices, 0, self._devices), self._device)

    def _watch(self) -> None:
        """End the run when a helper ends before its time.

        Between CPUs the next collective fails by itself. One that hangs on a GPU can only be ended with its process.
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
        """What a helper's end brings about here is told as what it is.

        Raises:
            InputError: a helper met one, or was killed.
            RuntimeError: a helper failed; with its traceback.
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
        """Why a helper is gone, if one is, or goes within some seconds."""
        gone = wait([helper.process.sentinel for helper in self._helpers], seconds) if self._helpers else []
        for number, helper in enumerate(self._helpers, 1):
            if helper.process.sentinel in gone:
                helper.process.join()
                return self._failure(number, helper, _word(helper, 0))
        return None

    def _failure(self, number: int, helper: Helper, word: Any) -> Exception:
        who, code = f"devices={self._devices}: process {number} of 0..{self._devices - 1}", helper.process.exitcode
        if isinstance(word, InputError):
            return word
        if code is not None and code < 0:
            return InputError(
                f"{who} was killed by {signal.Signals(-code).name} (out of memory?); the same command continues from "
                "the last epoch"
            )
        return RuntimeError(f"{who} failed: {word or f'it ended with code {code} before it was ready'}")

    def close(self, is_orderly: bool = True) -> None:
        """Let the helpers go; those that were started here have ended afterwards."""
        self._ended.set()
        if self._group is not None and (is_orderly or not self._helpers):
            self._group.announce(None)
        for helper in self._helpers:
            helper.process.join(10 if is_orderly else 0)
            helper.process.kill()
            helper.process.join()
            helper.told.close()
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
    """A new process is told this one's own way of starting processes; joblib's is none that it would know."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A process that starts in it never hears of Ctrl-C, not even while it loads torch."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
