"""prune: the method decides what to keep within the budget; the network is cut, or its weights are masked.

Cache key: the network (and result of `sparsify`) before it, by their keys; all settings of the method, the digests of
files it reads, the budget, the training images and the seed; of a control also its name; for a budget in milliseconds
what latencies are measured in, and the machine.

Writes: model.safetensors and plan.json (kept channels, widths, the method's own terms); metrics.jsonl of a search.

Version history: 1; 2 prunes more kinds of layers, 3 adds weight masks, refits and controls, 4 reports |gamma| of
slimming, 5 names in plan.json what the MACs leave out, and counts recurrent layers whole, 6 reports the MACs of the
dense network with the budget, 7 counts the candidates that a search scored
and names the gene it found, 8 saves how the images were normalised, 9 finds more
groups (attention, shuffles, written attributes), 10 cuts transposed convolutions, recurrent layers and
embeddings, and around mixers of tokens, 11 knows budgets beside the aim, and reports parameters and latency.
"""

import logging

import torch

from compress.data.base import normalisation_of
from compress.errors import placed, settings_under
from compress.graph.plan import Plan
from compress.io.files import JSON, write_json
from compress.io.stage_folder import StageFolder
from compress.models.masks import set_masks
from compress.prune.budget import achieved, verdict
from compress.prune.controls import controlled
from compress.prune.method import Decision, Problem
from compress.prune.saved_network import save_network
from compress.prune.surgery import cut
from compress.prune.weight_masks import sparsity_report
from compress.run.job import Job, RunState
from compress.run.stages import latency
from compress.run.stages.checks import check_surgery, digests_of_files, latency_of, warn_uncounted
from compress.run.stages.stage import Stage
from compress.run.stages.training import training_images
from compress.schema.settings import Budget

log = logging.getLogger(__name__)


def prune(state: RunState, work: StageFolder) -> JSON:
    """Decide, cut, check that the cut network equals the masked one, then save."""
    problem = state.problem()
    if state.control is None:
        warn_uncounted("prune", problem.cost.uncounted)
    job = state.job
    asked, timing = problem.budget, state.timing

    def plan(problem: Problem, work: StageFolder) -> Decision:
        with settings_under(job.keys.method):
            return job.method.plan(problem, state.learned(), work)

    problem, decision = latency.planned(problem, plan, work, timing)
    if state.control is not None:
        decision = controlled(problem, decision, state.control)
    for level, lines in ((logging.INFO, decision.notes), (logging.WARNING, decision.warnings)):
        for line in lines:
            log.log(level, "prune: %s", placed(line, job.keys.method))
    with torch.no_grad():
        tensors = {**dict(problem.model.named_parameters()), **dict(problem.model.named_buffers())}
        for name, value in decision.weights.items():
            tensors[name].copy_(value)
    small = cut(problem.model, problem.graph, decision.plan)
    relative_error = check_surgery(problem, small, decision.plan)
    set_masks(small, decision.masks)
    save_network(work.model, small, job.model, decision.plan, normalisation_of(job.data))
    write_json(
        work.plan, _plan_json(problem, decision) | ({"sparsity": sparsity_report(small)} if decision.masks else {})
    )
    budget = _budget_json(problem, decision, asked, latency.told(problem, decision, asked, small, timing))
    if problem.graph.frozen and not decision.masks and state.control is None:
        layer, why = next(iter(problem.graph.frozen.items()))
        every = {layer.name for layer in problem.graph.layers} | problem.graph.frozen.keys()
        log.info(
            "prune: %d of %d layers keep all of their outputs, such as %s, which %s; plan.json names each",
            len(problem.graph.frozen), len(every), layer or "forward", why,
        )  # fmt: skip
    if state.control is None:
        _log_budget(asked, budget)
    thresholds = decision.own.get("thresholds", {})
    few = {"thresholds": thresholds} if 0 < len(thresholds) < 3 else {}  # thresholds per layer: in plan.json only
    few |= {key: decision.own[key] for key in ("evaluations", "counters", "gene") if key in decision.own}
    return {"budget": budget, **few, "masked_equals_cut": relative_error, "frozen": dict(problem.graph.frozen)}


def _plan_json(problem: Problem, decision: Decision) -> JSON:
    graph = problem.graph
    kept = graph.kept(decision.plan)
    groups = {
        group.name: {
            "width": group.width,
            "kept_width": len(kept[group.name]),
            "kept": kept[group.name].tolist(),
        }
        for group in graph.groups
    }
    layers = _widths_per_layer(problem, decision.plan, groups)
    uncounted = {layer: list(names) for layer, names in problem.cost.uncounted.items()}
    return {
        "groups": groups,
        "layers": layers,
        "own": decision.own,
        "frozen": dict(graph.frozen),
        "uncounted": uncounted,  # operators that are not counted, by layer ("": of the network itself)
    }


def _widths_per_layer(problem: Problem, plan: Plan, groups: JSON) -> JSON:
    """Output widths of every layer, dense and kept, in order; a channel selection precedes the layer that reads
    it."""
    graph, dropped = problem.graph, problem.graph.dropped(plan)
    selections = {g.name: g for g in graph if not any(layer.out_axis in g.positions for layer in graph.layers)}
    widths: JSON = {}
    for layer in graph.layers:
        for name in [name for name, group in selections.items() if layer.name in group.consumers]:
            del selections[name]
            widths[name] = {key: groups[name][key] for key in ("width", "kept_width")} | {"groups": [name]}
        width = problem.model.get_parameter(layer.weight).shape[layer.out_axis.dim]
        each = layer.outputs_per_row
        widths[layer.name] = {
            "width": width * each,
            "kept_width": (width - len(dropped.get(layer.out_axis, ()))) * each,
            "groups": [group.name for group in graph if layer.out_axis in group.positions],
        }
    return widths


def _budget_json(problem: Problem, decision: Decision, budget: Budget, timed: JSON | None = None) -> JSON:
    """What became of the `budget` that was asked; that of the problem may have a tighter limit of latency. `timed` is
    what was measured of it."""
    evidence, timed = decision.evidence, timed or {}
    got = achieved(problem.graph, problem.cost, decision.plan)
    if evidence.percent is not None:
        got["percent"] = evidence.percent
    if timed:
        got["latency_limit"] = timed["measured_ms"]
    widths = problem.graph.widths(decision.plan)
    found = verdict(problem.ceilings(), widths, evidence.choices, evidence.rounding_step, evidence.percent)
    return {
        "asked": {budget.kind: budget.value},
        **({"beside": budget.limits_beside, "binds": found.binds} if budget.beside else {}),
        "achieved": got,
        "met": found.met and latency.is_kept(timed),
        **({"latency": timed} if timed else {}),
        "dense_macs": problem.cost.full_macs,
    }


def _log_budget(budget: Budget, told: JSON) -> None:
    """That a budget was missed, or which of its limits kept the network from its aim."""
    got = ", ".join(f"{each.kind}={told['achieved'][each.kind]:.4g}" for each in budget.every)
    if not told["met"]:
        log.warning("prune: the budget %s was missed: %s was achieved", budget, got)
    elif told.get("binds"):
        log.info("prune: %s binds before the aim is spent: %s", told["binds"], got)


def depends_on(job: Job) -> JSON:
    return {
        "method": job.asked["method"],
        "budget": job.budget.to_json(),
        "data": training_images(job),
        "seed": job.seed,
        **digests_of_files(job),
        **latency_of(job),
    }


STAGE = Stage(run=prune, depends_on=depends_on, makes="plan", version=11)
