"""A supervisor process: the process that the user started forks a child that runs the command, and waits for it. A
crash in native code, or the kernel when memory runs out, kills a process without a message; the supervisor reports
it.

Imports no torch: the supervisor stays small, and must fork before any library has started threads.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

STOPPING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # signals by which users and systems end a command
PR_SET_PDEATHSIG = 1  # of prctl(2)

Tell = Callable[[bytes], None]  # sends bytes from the child to the supervisor


def can_supervise() -> bool:
    """Linux only: it can kill a child when its parent dies."""
    return sys.platform == "linux"


def supervised(died: Callable[[signal.Signals, bytes], bool]) -> Tell:
    """Fork. In the child it returns a function that sends bytes to the supervisor; the calling process becomes the
    supervisor, waits, and exits with the child's exit code.

    When a signal kills the child, the supervisor calls `died(signal, messages)` with all bytes that the child sent.
    If it returns True, another child is forked from this point; otherwise the supervisor exits with 128 + the
    signal's number, as shells do.
    """
    parent = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if the parent process left it ignored, no SIGCHLD would arrive
    while True:
        sys.stdout.flush()
        sys.stderr.flush()
        read_end, write_end = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*STOPPING, signal.SIGCHLD})
        child = os.fork()
        if child == 0:
            os.close(read_end)
            _die_with(parent)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return lambda content: _write(write_end, content)
        os.close(write_end)
        messages: list[bytes] = []
        listener = threading.Thread(target=_listen, args=(read_end, messages), daemon=True)
        listener.start()
        code = _wait(child)
        listener.join(1)  # processes that the child started may still hold the write end
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if code >= 0:
            raise SystemExit(code)
        if -code in STOPPING or not died(signal.Signals(-code), b"".join(messages)):
            raise SystemExit(128 - code)


def _die_with(parent: int) -> None:
    """Have the kernel kill this child when its parent dies; that loses what any kill loses."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before prctl
        os._exit(1)


def _wait(child: int) -> int:
    """The child's exit code, negative if a signal killed it. Signals sent to the supervisor alone are forwarded.

    A signal from the terminal (Ctrl-C) goes to the whole process group, so the child has received it already.
    """
    while True:
        received = signal.sigwaitinfo({*STOPPING, signal.SIGCHLD})
        if received.si_signo != signal.SIGCHLD:
            if received.si_code <= 0:  # sent by a process, not by the kernel
                os.kill(child, received.si_signo)
            continue
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)


def _write(pipe: int, content: bytes) -> None:
    while content:
        content = content[os.write(pipe, content) :]


def _listen(pipe: int, messages: list[bytes]) -> None:
    while part := os.read(pipe, 65536):
        messages.append(part)
    os.close(pipe)
