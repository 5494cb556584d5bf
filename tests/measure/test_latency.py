"""Times of passes are taken in turns, and are those of the passes."""

import time
from collections.abc import Callable
from itertools import groupby

import pytest
import torch
from conftest import CPU

from compress.measure import latency
from compress.measure.latency import interleaved, on_threads


def spinning(ms: float, seen: list[object] | None = None, name: str = "") -> Callable[[], None]:
    def run() -> None:
        began = time.thread_time()
        while time.thread_time() - began < ms / 1e3:
            pass
        if seen is not None:
            seen.append((name, torch.get_num_threads(), torch.is_inference_mode_enabled()))

    return run


def test_a_latency_is_in_milliseconds_with_the_spread_of_its_blocks() -> None:
    found = interleaved({"two": spinning(2), "six": spinning(6)}, CPU, seconds=0.03, threads=1)
    assert 2 <= found["two"].median_ms < 4
    assert 6 <= found["six"].median_ms < 9
    assert 0 <= found["two"].spread_ms < 2
    assert found["two"].threads == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_passes_take_turns_on_the_threads_that_are_named(threads: int) -> None:
    seen: list[tuple[str, int, bool]] = []
    passes = {name: spinning(1, seen, name) for name in "abc"}  # type: ignore[arg-type]
    before = torch.get_num_threads()
    interleaved(passes, CPU, seconds=0.01, threads=threads)
    turns = "".join(name for name, _ in groupby(name for name, _, _ in seen))
    assert turns.startswith("abcabc")  # the first round warms up
    assert turns == "abc" * (len(turns) // 3)
    assert len(turns) // 3 > latency.LEAST_BLOCKS
    assert {(count, inference) for _, count, inference in seen} == {(threads, True)}
    assert torch.get_num_threads() == before


def test_a_machine_that_slows_down_does_so_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock runs twice as fast in the second half; one after the other, the two would differ twofold."""
    ticks = iter(range(10**6))

    def clock() -> float:
        now = next(ticks)
        return now * 1e-3 if now < 300 else 0.3 + (now - 300) * 2e-3

    monkeypatch.setattr(latency, "_clock", lambda device, threads: clock)
    found = interleaved({"a": lambda: None, "b": lambda: None}, CPU, seconds=0.2, threads=1)
    assert found["a"].median_ms == pytest.approx(found["b"].median_ms)
    assert found["a"].spread_ms > 0


def test_threads_are_put_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="no"), on_threads(before + 1):
        raise ValueError("no")
    assert torch.get_num_threads() == before
