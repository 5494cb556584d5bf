"""One training in several processes, by torch.distributed: gloo between CPUs, NCCL between GPUs.

The command's own process is the first. It alone decides, searches, cuts, measures and writes; the others, its
helpers, wait for what it announces and train along. Announcements go through a key-value store, not through
collectives: who waits for one waits for hours at no cost, and nobody can get out of step.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from tqdm import tqdm

from compress.errors import InputError
from compress.parallel.rank import Place, place, publish

T = TypeVar("T")

FOREVER = timedelta(days=14)  # the first process may search for days while the others wait
PATIENCE = timedelta(seconds=10)  # of a helper that failed: the first process may have failed of the same
GRACE_SECONDS = 5.0  # between the death of a helper and the end of the run: errors of the network come first
LAST_SECONDS = 30.0  # for a main thread that hangs in a GPU's kernel

# -- inside a training -----------------------------------------------------------------------------------------

_training_together = False


@contextmanager
def _together() -> Iterator[None]:
    global _training_together
    _training_together = True
    try:
        yield
    finally:
        _training_together = False


def world() -> int:
    """How many processes train together now; what the first does alone is done by one."""
    return dist.get_world_size() if _training_together else 1


def rank() -> int:
    return dist.get_rank() if _training_together else 0


def is_main() -> bool:
    """Whether this process writes, and tells people."""
    return rank() == 0


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, the same bits in each; of any shape, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def from_main(value: T) -> T:
    """What the first process has."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


# -- a group of processes --------------------------------------------------------------------------------------


class Group:
    """This process's part in a group: what the first announces, and the collectives of torch."""

    def __init__(self, store: Any, where: Place, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        self._store = store
        self._announced = 0
        dist.init_process_group(backend, store=store, rank=where.rank, world_size=where.world, timeout=FOREVER)

    def announce(self, order: Any) -> None:
        """What all do next; None: nothing more."""
        self._store.set(f"order {self._announced}", pickle.dumps(order))
        self._announced += 1

    def serve(self, perform: Callable[[Any], None]) -> None:
        """Do what the first process announces, until there is nothing more.

        Raises:
            Exception: of `perform`, unless the first process failed too: then it is the one to tell.
        """
        problem: Exception | None = None
        while (order := self._next(problem)) is not None:
            try:
                with _together():
                    perform(order)
            except Exception as error:
                problem = error

    def _next(self, problem: Exception | None) -> Any:
        key = f"order {self._announced}"
        try:
            self._store.wait([key], FOREVER if problem is None else PATIENCE)
        except RuntimeError as silence:
            raise problem or silence from None
        self._announced += 1
        return pickle.loads(self._store.get(key))

    def agree(self, where: Place, word: str) -> bool:
        """Whether all processes say the same; asked by the first, the others go on at once."""
        self._store.set(f"word {where.rank}", word)
        return where.rank > 0 or all(self._store.get(f"word {n}").decode() == word for n in range(where.world))

    def leave(self) -> None:
        dist.destroy_process_group()


_joined = 0  # groups that this process was in: two of one launcher must not read each other's keys


def join_launched(device: torch.device) -> Group:
    """The group of all processes that a launcher started."""
    global _joined
    store, _, _ = next(iter(rendezvous("env://", timeout=FOREVER)))
    _joined += 1
    return Group(PrefixStore(f"group {_joined}", store), place(), device)


# -- helpers that are started here -----------------------------------------------------------------------------

Meet = Callable[[torch.device], Group]


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
    where: Place, port: int, threads: int, tell: Connection, helper: Callable[..., None], args: tuple[Any, ...]
) -> None:
    """What a helper's process does: `helper(meet, *args)`, and tell of what went wrong."""
    publish(where)
    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a killed process would leave there
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def meet(device: torch.device) -> Group:
        store = TCPStore("127.0.0.1", port, is_master=False, timeout=FOREVER)
        tell.send("ready")
        return Group(store, where, device)

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
    """All that train one network, as the first of them sees it.

    Helpers of a launcher are there already and are met at once; others are started with the first training, on this
    machine, and end with `close`, whatever happens to this process.
    """

    def __init__(
        self, devices: int, device: torch.device, threads: int | None, helper: Callable[..., None], *args: Any
    ) -> None:
        self._devices, self._device = devices, device
        self._threads = threads or max(1, torch.get_num_threads() // devices)  # of each process started here
        self._helper, self._args = helper, args
        self._helpers: list[Helper] = []
        self._ended = threading.Event()  # of the training, well or not
        self._group = join_launched(device) if place().world > 1 else None

    def check(self, word: str) -> bool:
        """Whether every process that a launcher started runs the same."""
        return self._group is None or self._group.agree(place(), word)

    @contextmanager
    def together(self, order: Any) -> Iterator[None]:
        """All processes do what is ordered; this one does it in the block, with its share of the cores."""
        if self._devices == 1:
            yield
            return
        if self._group is None:
            self._group = self._start()
        self._group.announce(order)
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads if self._helpers else threads)
        try:
            with _together():
                yield
        finally:
            torch.set_num_threads(threads)

    def _start(self) -> Group:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=FOREVER)
        spawn = multiprocessing.get_context("spawn")
        for number in range(1, self._devices):
            told, tell = spawn.Pipe(duplex=False)
            where = Place(number, self._devices, number, self._devices)
            process = spawn.Process(
                target=_enter, args=(where, store.port, self._threads, tell, self._helper, self._args)
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
        return Group(store, Place(0, self._devices, 0, self._devices), self._device)

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
