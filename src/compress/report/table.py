"""The table that a run ends with, from its summary alone."""

from typing import Any

from tabulate import tabulate


def results_table(summary: dict[str, Any]) -> str:
    """One row per network: dense, pruned, finetuned."""
    results, budget = summary["results"], summary["budget"]
    if not results:
        return "no network was measured (stages without eval)"
    first = next(iter(results.values()))
    rows = []
    for name, row in results.items():
        rows.append(
            [
                name,
                f"{row['top1']:.2f} %",
                f"{row['macs'] / 1e6:.4g} M",
                f"{100 * row['macs'] / first['macs']:.2f} %",
                asked_text(budget) if name != "dense" else "",
                f"{row['params']:,}",
                f"{row['bytes'] / 1024:,.0f} KiB",
                f"{row['latency_ms']:.2f} ms",
            ]
        )
    threads = first["latency_threads"]
    where = first["latency_device"]
    headers = [
        "",
        "test top-1",
        "MACs",
        "of dense",
        "asked",
        "params",
        "file",
        f"latency, {threads} thread(s)",
    ]
    note = (
        f"latency: batch 1, median, {threads} thread(s) on {where}; "
        "MACs: multiply-adds of convolutions and linear layers"
    )
    text = tabulate(rows, headers, stralign="right", disable_numparse=True)
    missed = (
        ""
        if budget.get("met", True)
        else f"\nBUDGET MISSED: asked {asked_text(budget)}, see `achieved` in summary.json"
    )
    return f"{text}\n{note}{missed}"


def asked_text(budget: dict[str, Any]) -> str:
    """The asked budget in the unit of the column it stands beside."""
    kind, value = next(iter(budget["asked"].items()))
    if kind == "preserve_ratio":
        return f"{100 * value:.2f} %"
    if kind == "flops_limit":
        return f"{value:g} MMACs"
    return f"{100 * value:g} % of channels off"
