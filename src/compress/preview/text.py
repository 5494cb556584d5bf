"""What `compress plan` prints: at most 80 columns, unless all is asked for."""

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from compress.errors import few
from compress.graph.types import ChannelGroup
from compress.io.files import printable
from compress.io.progress import duration
from compress.preview.network import Outlook
from compress.preview.seconds import Estimate
from compress.preview.stages import PlannedStep
from compress.prune.budget import removed_share
from compress.report.table.as_text import count, in_budget_unit, share

NAME_WIDTH = 28  # of a layer or group, in a line of 80 columns


def stage_table(steps: Sequence[PlannedStep], estimates: Mapping[str, Estimate | None] | None) -> str:
    """A row per step; `estimates` is None where no time was asked for."""
    rows = [[step.name, _standing(step), _time(step, estimates)] for step in steps]
    text = tabulate(rows, ["stage", "in the cache", "would take about"], disable_numparse=True)
    return text if estimates is None else f"{text}\n{_total(steps, estimates)}"


def _standing(step: PlannedStep) -> str:
    if step.state == "cached":
        return f"yes: {step.folder.name}"
    again = "no: computed again, as asked" if step.forced else "no"
    return f"begun: goes on after {step.rows} rows" if step.state == "begun" else again


def _time(step: PlannedStep, estimates: Mapping[str, Estimate | None] | None) -> str:
    if step.state == "cached":
        return f"- (took {duration(step.result['seconds'])})" if step.result else "-"
    if estimates is None:
        return ""
    estimate = estimates[step.name]
    if estimate is None:
        return f"known after {step.step.after[-1]}" if step.step.after else "not known"
    many = f" ({count(estimate.count)} {estimate.unit}s of {duration(estimate.each)})"
    return duration(estimate.seconds) + (many if estimate.count > 1 else "") if estimate.seconds else "no time"


def _total(steps: Sequence[PlannedStep], estimates: Mapping[str, Estimate | None]) -> str:
    known = [estimate.seconds for estimate in estimates.values() if estimate is not None]
    unknown = [step.name for step in steps if step.name in estimates and estimates[step.name] is None]
    if not estimates:
        return "nothing is left to compute"
    more = f", and {few(unknown)}" if unknown else ""
    saved = sum(step.result["seconds"] for step in steps if step.result)
    reused = f"; the cache saves {duration(saved)}" if saved else ""
    return f"in all about {duration(sum(known))}{more}{reused}"


def cost_table(outlook: Outlook) -> str:
    """MACs and parameters, whole and with all groups cut alike; and what the budget asks."""
    problem, cost = outlook.problem, outlook.problem.cost
    rows = [["whole", *_costs(outlook, cost.full_widths.tolist())]]
    if outlook.alike is not None:
        rows.append(["all groups alike", *_costs(outlook, outlook.alike.tolist())])
    return tabulate(
        rows, [str(problem.budget), "MACs", "of dense", "params", "channels removed"], disable_numparse=True
    )


def _costs(outlook: Outlook, widths: list[int]) -> list[str]:
    cost = outlook.problem.cost
    macs, params = int(cost.macs([widths])[0]), int(cost.params([widths])[0])
    removed = removed_share(widths, cost.full_widths.tolist())
    return [in_budget_unit("flops_limit", macs / 1e6), share(macs / cost.full_macs), count(params), share(removed)]


def group_table(outlook: Outlook, wide: bool) -> str:
    """A row per group of coupled channels: its width, what the budget allows it alone, and its width if all are cut
    alike."""
    graph, alike = outlook.problem.graph, outlook.alike
    if alike is None:
        return ""
    rows = [
        [_cut(group.name, wide), str(group.width), f"{low} to {high}", str(width), _read_by(group, wide)]
        for group, (low, high), width in zip(graph, outlook.reach, alike.tolist(), strict=True)
    ]
    return tabulate(rows, ["group of channels", "width", "allowed", "alike", "read by"], disable_numparse=True)


def _read_by(group: ChannelGroup, wide: bool) -> str:
    names = list(group.consumers)
    return ", ".join(names) if wide or len(names) < 2 else f"{len(names)} layers"


def layer_table(outlook: Outlook, wide: bool) -> str:
    """A row per layer, and below it what stays whole and why."""
    cut = outlook.alike is not None
    total = outlook.problem.cost.full_macs
    rows = []
    for layer in outlook.layers():
        figures = [in_budget_unit("flops_limit", layer.macs[0] / 1e6), count(layer.params[0]), str(layer.outputs[0])]
        figures += [str(layer.outputs[1]), share(layer.macs[1] / max(1, layer.macs[0]))] if cut else []
        figures += [share(layer.macs[0] / total), layer.kind] if wide else []
        rows.append([_cut(layer.name, wide), *figures])
    headers = ["layer", "MACs", "params", "outputs"]
    headers += (["kept", "MACs kept"] if cut else []) + (["of all MACs", "kind"] if wide else [])
    aligned = ("left", *["right"] * (len(headers) - 1))
    text = tabulate(rows, headers, colalign=aligned, disable_numparse=True)
    whole = [f"  {printable(name or 'forward')}: {printable(why)}" for name, why in outlook.whole().items()]
    return "\n".join([text, *(["", "these keep all of their outputs:", *whole] if whole else [])])


def _cut(name: str, wide: bool) -> str:
    if wide or len(name) <= NAME_WIDTH:
        return name
    return f"{name[: NAME_WIDTH // 2 - 2]}...{name[-(NAME_WIDTH // 2 - 1) :]}"
