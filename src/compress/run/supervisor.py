"""A command in a process of its own, watched by the one that the user started: a crash in native code, or the kernel
when memory runs out, ends a process without a word, and somebody must be left to say so.

No torch here: the process that watches stays small, and forks before anything has started threads.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

STOPPING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # how users and systems end a command
PR_SET_PDEATHSIG = 1  # of prctl(2)

Tell = Callable[[bytes], None]


def can_supervise() -> bool:
    """Linux alone can tie a child's life to its parent's."""
    return sys.platform == "linux"


def supervised(died: Callable[[signal.Signals, bytes], bool]) -> Tell:
    """Go on in a child process; returns there. The caller's process waits, and leaves with the child's exit code.

    When a signal kills the child, `died(signal, told)` is called here, with all that the child has handed to the
    function that was returned to it; if that says so, another child goes on from this very point. Otherwise this
    process ends with 128 + the signal's number, as shells have it.
    """
    parent = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some parents leave it, the end of a child is not told
    while True:
        sys.stdout.flush()
        sys.stderr.flush()
        heard, tell = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*STOPPING, signal.SIGCHLD})
        child = os.fork()
        if child == 0:
            os.close(heard)
            _end_with(parent)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return lambda content: _write(tell, content)
        os.close(tell)
        told: list[bytes] = []
        listener = threading.Thread(target=_listen, args=(heard, told), daemon=True)
        listener.start()
        code = _wait(child)
        listener.join(1)  # what the child has started may still hold the other end
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if code >= 0:
            raise SystemExit(code)
        if -code in STOPPING or not died(signal.Signals(-code), b"".join(told)):
            raise SystemExit(128 - code)


def _end_with(parent: int) -> None:
    """Nobody waits for a child whose parent was killed; it is killed likewise, which loses what any kill loses."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it is gone already
        os._exit(1)


def _wait(child: int) -> int:
    """The child's exit code, negative if a signal killed it; signals that came for this process alone are passed on.

    What a terminal sends (Ctrl-C) reaches the whole group, so the child has it already.
    """
    while True:
        came = signal.sigwaitinfo({*STOPPING, signal.SIGCHLD})
        if came.si_signo != signal.SIGCHLD:
            if came.si_code <= 0:  # sent by a process, not by the kernel
                os.kill(child, came.si_signo)
            continue
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)


def _write(pipe: int, content: bytes) -> None:
    while content:
        content = content[os.write(pipe, content) :]


def _listen(pipe: int, told: list[bytes]) -> None:
    while part := os.read(pipe, 65536):
        told.append(part)
    os.close(pipe)
