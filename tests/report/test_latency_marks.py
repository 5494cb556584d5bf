"""Latencies in tables: with their spread, and marked where they are not told apart."""

from pathlib import Path
from typing import Any

import pytest

from compress.report.read.runs import Run
from compress.report.table import latency
from compress.report.table.columns import columns
from compress.report.table.footnotes import footnotes_of
from compress.report.table.results import results_table


def row(ms: float, spread: float | None = 0.2, **more: Any) -> dict[str, Any]:
    told = {} if spread is None else {"latency_spread_ms": spread}
    return {
        "top1": 90.0, "macs": 2e6, "params": 5000, "bytes": 4096, "latency_ms": ms, **told,
        "latency_threads": 2, "latency_device": "a CPU", "latency_batch": 8, "latency_runtime": "onnxruntime", **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "one"),
    [
        (row(1.0), row(1.1), True),
        (row(1.1), row(1.0), True),
        (row(1.0), row(1.3), False),
        (row(1.3), row(1.0), False),
        (row(1.0, 0.01), row(2.0, 3.0), True),
        (row(1.0, None), row(1.0), False),
    ],
)
def test_overlapping_spreads_are_not_told_apart(first: Any, second: Any, one: bool) -> None:
    assert latency.are_one(first, second) is one


def summary(**results: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"asked": {"latency_limit": 1.5}, "achieved": {"latency_limit": 1.52}, "met": True}
    return {"results": results, "budget": {**asked, "latency": {"predicted_ms": 1.45}}}


def test_a_runs_table_has_asked_predicted_and_measured_and_names_what_is_one() -> None:
    text = results_table(summary(dense=row(2.0), pruned=row(1.52), finetuned=row(1.6)))
    for word in ("asked latency_limit", "predicted", "measured", "1.5 ms", "1.45 ms", "1.52 ms", "2.00 ms ± 0.10"):
        assert word in text
    assert "latency: batch 8, median in turns ± half the quartiles, 2 thread(s) of onnxruntime on a CPU;" in text
    assert "latencies not told apart, as their spreads overlap: pruned and finetuned" in text
    assert "not told apart" not in results_table(summary(dense=row(2.0), pruned=row(1.52)))


def test_limits_beside_the_aim_have_columns_and_the_one_that_binds_is_named() -> None:
    budget: dict[str, Any] = {
        "asked": {"preserve_ratio": 0.5}, "beside": {"params_limit": 0.004}, "binds": "params_limit",
        "achieved": {"preserve_ratio": 0.3, "params_limit": 0.0039}, "met": True,
    }  # fmt: skip
    text = results_table({"results": {"dense": row(2.0), "pruned": row(1.0)}, "budget": budget})
    for word in ("asked preserve_ratio", "50.00 %", "30.00 %", "asked params_limit", "0.004 M", "0.0039 M"):
        assert word in text
    assert "params_limit binds before preserve_ratio is spent" in text
    run = Run(folder=Path("a"), results={"dense": row(2.0), "pruned": row(1.0)}, budget=budget)
    found = {column.key: column.of(run) for column in columns([run])}
    assert (found["asked params_limit"], found["achieved params_limit"]) == (0.004, 0.0039)
    assert footnotes_of([run]) == [["params_limit binds before the budget asked is spent"]]


def test_compare_marks_what_is_as_fast_as_the_dense_network_or_others() -> None:
    def run(ms: float) -> Run:
        return Run(folder=Path(str(ms)), results={"dense": row(2.0), "finetuned": row(ms)})

    found = footnotes_of([run(1.95), run(1.0), run(1.05), run(0.5)])
    one = "latency not told apart from that of 1 of the 3 others"
    assert found == [["latency not told apart from the dense network's"], [one], [one], []]
    assert footnotes_of([run(1.0), run(1.05)], by=["method"]) == [[], []]
