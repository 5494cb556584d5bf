"""The table that a run ends with, from its summary alone."""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate


def results_table(summary: dict[str, Any]) -> str:
    """One row per network: dense, pruned, finetuned; what was asked beside what was achieved, in the same unit."""
    results, budget = summary["results"], summary["budget"]
    if not results:
        return "no network was measured (stages without eval)"
    first = next(iter(results.values()))
    kind, asked = next(iter(budget["asked"].items()))
    compared = ["asked " + kind, "achieved"] if budget["achieved"] else []  # nothing was pruned
    sparse = any("sparsity" in row for row in results.values())
    rows = []
    for name, row in results.items():
        got = _achieved(name, summary)
        figures = ([in_unit(kind, asked), in_unit(kind, got[kind])] if got else ["", ""]) if compared else []
        rows.append(
            [
                name,
                f"{row['top1']:.2f} %",
                _epochs(row),
                f"{row['macs'] / 1e6:.4g} M",
                f"{100 * row['macs'] / first['macs']:.2f} %",
                *figures,
                f"{row['params']:,}",
                *(_sparse(row) if sparse else []),
                f"{row['bytes'] / 1024:,.0f} KiB",
                f"{row['latency_ms']:.2f} ms",
            ]
        )
    zeros = ["zeros", "nonzero MACs", "zipped"] if sparse else []
    headers = ["", "test top-1", "epochs", "MACs", "of dense", *compared, "params", *zeros, "file", "latency"]
    text = tabulate(rows, headers, stralign="right", disable_numparse=True)
    notes = [
        f"latency: batch 1, median, {first['latency_threads']} thread(s) on {first['latency_device']}; "
        "MACs: multiply-adds of convolutions and linear layers"
    ]
    if sparse:
        notes.append(
            "zeros: of the weights of convolutions and linear layers; nonzero MACs: those without a zero weight"
        )
    if not budget.get("met", True):
        notes.append("BUDGET MISSED: achieved differs from asked by more than 1 % and one rounding step")
    return "\n".join([text, *notes])


def _achieved(name: str, summary: dict[str, Any]) -> dict[str, float]:
    """What a pruned network came to: the run's own, or that of the control that its name says."""
    stage, _, control = name.partition(", ")
    if stage in ("dense", "sparsified"):
        return {}
    budget: dict[str, Any] = summary["controls"][control] if control else summary["budget"]
    achieved: dict[str, float] = budget["achieved"]
    return achieved


def _epochs(row: dict[str, Any]) -> str:
    return "" if row.get("epochs") is None else str(row["epochs"])


def _sparse(row: dict[str, Any]) -> list[str]:
    if "sparsity" not in row:
        return ["", "", ""]
    sizes = f"{row['nonzero_macs'] / 1e6:.4g} M", f"{row['zipped_bytes'] / 1024:,.0f} KiB"
    return [f"{100 * row['sparsity']:.2f} %", *sizes]


def sweep_table(summaries: Sequence[dict[str, Any]], changed: Sequence[dict[str, str]]) -> str:
    """One row per job of a sweep: what it changed, its budget, top-1 before and after recovery, its thresholds."""
    rows = [_sweep_row(summary, settings) for summary, settings in zip(summaries, changed, strict=True)]
    headers = list(dict.fromkeys(name for row in rows for name in row))
    return tabulate([[row.get(name, "") for name in headers] for row in rows], headers, disable_numparse=True)


def _sweep_row(summary: dict[str, Any], settings: dict[str, str]) -> dict[str, str]:
    if not summary.get("results"):
        return {**settings, "status": summary.get("status", "missing")}
    results, budget = summary["results"], summary["budget"]
    row = dict(settings)
    for name in ("dense", "sparsified", "pruned"):
        if name in results:
            row[f"{name} top-1"] = f"{results[name]['top1']:.2f} %"
    for name, threshold in summary["stages"].get("prune", {}).get("thresholds", {}).items():
        row["threshold" if name == "all" else f"{name} threshold"] = f"{threshold:.4e}"
    if budget["achieved"]:
        kind = next(iter(budget["asked"]))
        row["achieved"] = in_unit(kind, budget["achieved"][kind]) + ("" if budget["met"] else " (missed)")
    for name in ("finetuned", "from scratch"):
        if name in results:
            row[f"{name} top-1"] = f"{results[name]['top1']:.2f} %"
    for control in summary.get("controls", {}):
        last = next(name for name in reversed(results) if name.endswith(f", {control}"))
        row[last] = f"{results[last]['top1']:.2f} %"
    last = results[next(name for name in reversed(results) if ", " not in name)]
    row["MACs"] = f"{last['macs'] / 1e6:.4g} M"
    if "nonzero_macs" in last:
        row["nonzero MACs"] = f"{last['nonzero_macs'] / 1e6:.4g} M"
    row["epochs"] = _epochs(last)
    return row


def in_unit(kind: str, value: float) -> str:
    """A budget as the table shows it."""
    return f"{value:.4g} M" if kind == "flops_limit" else f"{100 * value:.2f} %"
