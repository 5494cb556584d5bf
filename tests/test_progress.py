"""How far a loop is: a line of every step or about twenty, with the time that is left, wherever no bar is seen."""

import logging
import os
import pty
import subprocess
import sys

import pytest

from compress.io.progress import LINES, Progress, duration, watched


def told(total: int | None, steps: int, caplog: pytest.LogCaptureFixture, every_step: bool = False) -> list[str]:
    """The lines of a loop whose every step takes two seconds."""
    now = [0.0]
    caplog.clear()
    with (
        caplog.at_level(logging.INFO),
        Progress("prune", "draw", total, every_step=every_step, clock=lambda: now[0]) as shown,
    ):
        for _ in range(steps):
            now[0] += 2
            shown.advance("top-1 90.00 %")
    return caplog.messages


def test_every_epoch_has_a_line_with_the_time_that_is_left(caplog: pytest.LogCaptureFixture) -> None:
    assert told(3, 3, caplog, every_step=True) == [
        "prune: draw 1 of 3, top-1 90.00 %; 2 s each, 4 s left",
        "prune: draw 2 of 3, top-1 90.00 %; 2 s each, 2 s left",
        "prune: draw 3 of 3, top-1 90.00 %; 2 s each",
    ]


def test_a_long_search_has_about_twenty_lines_and_always_its_last(caplog: pytest.LogCaptureFixture) -> None:
    lines = told(1009, 1009, caplog)
    assert LINES <= len(lines) <= LINES + 2
    assert lines[-1].startswith("prune: draw 1009 of 1009")
    assert len(told(None, 7, caplog)) == 7  # nobody knows when it ends


def test_a_resumed_loop_counts_its_own_seconds_alone(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    with Progress("pretrain", "epoch", 10, 8, every_step=True, clock=lambda: now[0]) as shown:
        now[0] = 3.0
        shown.advance("loss 0.1")
        assert shown.rate == 3
        assert shown.seconds_left == 3


def test_a_watch_may_end_any_loop() -> None:
    def stop(progress: Progress) -> None:
        raise KeyError(progress.done)

    with pytest.raises(KeyError, match="1"), watched(stop), Progress("prune", "draw", 5) as shown:
        for _ in range(5):
            shown.advance("")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0021, "2.1 ms"), (0.35, "0.35 s"), (3.21, "3.2 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
        (200, "3 min 20 s"), (7500, "2 h 05 min"), (86400 * 3 + 4 * 3600, "3 d 04 h"),
    ],
)  # fmt: skip
def test_durations_are_told_in_the_units_that_people_use(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_on_a_terminal_the_bar_is_one_line_of_80_columns() -> None:
    code = (
        "from compress.io.progress import Progress\n"
        "with Progress('sparsify', 'episode', 300, 150) as shown:\n"
        "    for _ in range(9):\n"
        "        shown.advance('best 91.2 % at 0.3, 97.0 % at 0.5, 98.1 % at 0.7, 98.3 % at 0.9')\n"
        "        shown._bar.refresh()\n"
    )
    ours, theirs = pty.openpty()
    try:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True)
        text = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    shown = [part for part in text.replace("\x1b[A", "\n").split("\r") if part.strip()]
    assert any("150/300 episodes" in part for part in shown)
    assert max(map(len, shown)) <= 80
    assert "\n" not in "".join(shown)
