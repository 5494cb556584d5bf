"""The table of a run, from a summary."""

from typing import Any

import pytest

from compress.report.table.results import results_table


def summary(kind: str, asked: float, achieved: float, met: bool = True) -> dict[str, Any]:
    row = {
        "top1": 99.0, "top5": 100.0, "macs": 2_000_000, "params": 1234, "bytes": 4096, "latency_ms": 0.5,
        "latency_threads": 1, "latency_device": "a CPU",
    }  # fmt: skip
    return {
        "results": {"dense": row, "pruned": {**row, "macs": 1_000_000, "top1": 90.0}},
        "budget": {"asked": {kind: asked}, "achieved": {kind: achieved}, "met": met},
    }


@pytest.mark.parametrize(
    ("kind", "asked", "achieved", "shown"),
    [
        ("preserve_ratio", 0.5, 0.4986, ["50.00 %", "49.86 %"]),
        ("percent", 0.3, 0.302, ["30.00 %", "30.20 %"]),
        ("flops_limit", 1.0, 0.9992, ["1 M", "0.9992 M"]),
    ],
)
def test_asked_and_achieved_stand_side_by_side_in_one_unit(
    kind: str, asked: float, achieved: float, shown: list[str]
) -> None:
    head, _, dense, pruned, *_ = results_table(summary(kind, asked, achieved)).splitlines()
    assert f"asked {kind}" in head
    assert all(text in pruned for text in shown)
    assert pruned.index(shown[0]) < pruned.index(shown[1])
    assert not any(s in dense for s in shown)


def test_a_missed_budget_is_marked() -> None:
    assert "BUDGET MISSED" in results_table(summary("preserve_ratio", 0.5, 0.3, met=False))
    assert "BUDGET MISSED" not in results_table(summary("preserve_ratio", 0.5, 0.5))


def test_a_run_without_eval_says_so() -> None:
    assert "no network was measured" in results_table({"results": {}, "budget": {}})
