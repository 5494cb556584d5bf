"""The table that a run ends with, from its summary alone."""

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
    rows = []
    for name, row in results.items():
        figures = [in_unit(kind, asked), in_unit(kind, budget["achieved"][kind])] if compared else []
        rows.append(
            [
                name,
                f"{row['top1']:.2f} %",
                f"{row['macs'] / 1e6:.4g} M",
                f"{100 * row['macs'] / first['macs']:.2f} %",
                *(figures if name != "dense" else [""] * len(figures)),
                f"{row['params']:,}",
                f"{row['bytes'] / 1024:,.0f} KiB",
                f"{row['latency_ms']:.2f} ms",
            ]
        )
    headers = ["", "test top-1", "MACs", "of dense", *compared, "params", "file", "latency"]
    text = tabulate(rows, headers, stralign="right", disable_numparse=True)
    notes = [
        f"latency: batch 1, median, {first['latency_threads']} thread(s) on {first['latency_device']}; "
        "MACs: multiply-adds of convolutions and linear layers"
    ]
    if not budget.get("met", True):
        notes.append("BUDGET MISSED: achieved differs from asked by more than 1 % and one rounding step")
    return "\n".join([text, *notes])


def in_unit(kind: str, value: float) -> str:
    """A budget as the table shows it."""
    return f"{value:.4g} M" if kind == "flops_limit" else f"{100 * value:.2f} %"
