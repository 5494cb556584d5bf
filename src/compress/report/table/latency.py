"""Latencies as tables show them: with their spread, and marked where they are not told apart."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from compress.report.read.runs import number
from compress.report.table.as_text import two_decimals


def interval(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """The quartiles of a network's measured blocks, in ms, about their median; None where there are none."""
    median, spread = number(row.get("latency_ms")), number(row.get("latency_spread_ms"))
    return None if median is None or spread is None else (median - spread / 2, median + spread / 2)


def are_one(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether the spreads of two networks' latencies overlap, so that neither can be called the faster one."""
    a, b = interval(first), interval(second)
    return a is not None and b is not None and a[0] <= b[1] and b[0] <= a[1]


def cell(row: Mapping[str, Any]) -> str:
    spread = number(row.get("latency_spread_ms"))
    return f"{two_decimals(row['latency_ms'])} ms" + ("" if spread is None else f" ± {two_decimals(spread / 2)}")


def not_told_apart(results: Mapping[str, Mapping[str, Any]]) -> str | None:
    """A line on the networks of one run whose latencies overlap."""
    pairs = [f"{a} and {b}" for a, b in combinations(results, 2) if are_one(results[a], results[b])]
    return f"latencies not told apart, as their spreads overlap: {'; '.join(pairs)}" if pairs else None


def measured_in(row: Mapping[str, Any]) -> str:
    """What a latency was measured in: "1 thread(s) of torch on ..."; older runs know neither batch nor runtime."""
    runtime = f" of {row['latency_runtime']}" if row.get("latency_runtime") else ""
    return f"{row['latency_threads']} thread(s){runtime} on {row['latency_device']}"


def batches(rows: Sequence[Mapping[str, Any]]) -> str:
    return " or ".join(dict.fromkeys(f"batch {row.get('latency_batch', 1)}" for row in rows))
