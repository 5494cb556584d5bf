"""Iterative pruning of channels: the ladder, ranking what a step left, and weights put back to full width."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose_config, livened, random_plan, zoo
from torch import nn

from compress.config.build import build, make
from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.io.files import JSON, read_json, read_rows
from compress.io.stage_folder import StageFolder
from compress.io.tensors import read_weights
from compress.methods.filter_magnitude import FilterMagnitude
from compress.parallel.helper_processes import Crew
from compress.prune.cost import cost_model
from compress.prune.method import Problem
from compress.prune.steps import InSteps, ladder, narrowed, ranked, widened
from compress.prune.surgery import cut
from compress.run.folder import config_hash
from compress.run.pipeline import run, stage_keys
from compress.run.store import Store
from compress.schema.settings import Budget, of_results

CPU = torch.device("cpu")
SHAPE = (3, 32, 32)
NETWORKS = ["resnet20", "resnet20_cs", "mobilenetv2", "vgg11_bn"]


def method(name: str = "filter_magnitude", *settings: str) -> Any:
    return make(compose_config(f"method={name}", *settings)["method"])


def problem_of(model: nn.Module, budget: Budget, **more: Any) -> Problem:
    graph = channel_graph(model, SHAPE)
    return Problem(model, graph, cost_model(model, graph, SHAPE), None, budget, CPU, 0, **more)  # type: ignore[arg-type]


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return livened(zoo(name)).eval()


# -- the ladder ------------------------------------------------------------------------------------------------


def test_the_ladder_by_hand() -> None:
    problem = problem_of(network("vgg11_bn"), Budget("preserve_ratio", 0.4))
    three: InSteps = method("filter_magnitude", "method.schedule=linear", "method.steps=3")

    def of(budget: Budget, how: InSteps = three) -> list[float]:
        found = ladder(how, Problem(**{**vars(problem), "budget": budget}))
        assert {each.kind for each in found} <= {budget.kind}
        return [each.value for each in found]

    assert of(Budget("preserve_ratio", 0.4)) == pytest.approx([0.8, 0.6])
    assert of(Budget("percent", 0.6)) == pytest.approx([0.2, 0.4])
    dense = problem.cost.full_macs / 1e6
    assert of(Budget("flops_limit", 0.4 * dense)) == pytest.approx([0.8 * dense, 0.6 * dense])
    geometric = method("filter_magnitude", "method.schedule=geometric", "method.steps=2")
    assert of(Budget("preserve_ratio", 0.25), geometric) == pytest.approx([0.5])
    assert of(Budget("preserve_ratio", 0.25), method()) == []


# -- a network that a step left --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_trained_weights_come_back_from_full_width_to_the_bit(name: str) -> None:
    model, other = network(name), network(name)
    graph = channel_graph(model, SHAPE)
    plan = random_plan(graph, 0.6, seed=1)
    small = cut(model, graph, plan)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)  # as a training does
    widened(other, graph, plan, small)
    again = channel_graph(other, SHAPE)
    back = cut(other, again, plan)
    assert {n: t.shape for n, t in back.state_dict().items()} == {n: t.shape for n, t in small.state_dict().items()}
    assert all(torch.equal(tensor, small.state_dict()[name]) for name, tensor in back.state_dict().items())
    images = torch.randn(2, *SHAPE)
    with torch.no_grad():
        assert torch.allclose(other(images), small.eval()(images), atol=1e-4)  # the others compute nothing


@pytest.mark.parametrize("name", NETWORKS)
def test_its_graph_is_that_of_the_network_that_is_left(name: str) -> None:
    model = network(name)
    graph = channel_graph(model, SHAPE)
    plan = random_plan(graph, 0.5, seed=2)
    small = cut(model, graph, plan)
    mine, found = narrowed(graph, plan, model, small), channel_graph(small, SHAPE)

    def told(groups: Any) -> dict[str, Any]:
        return {
            group.name: (group.width, group.consumers, {axis: of.tolist() for axis, of in group.positions.items()})
            for group in groups
        }

    assert told(mine) == told(found)
    assert [layer.name for layer in mine.layers] == [layer.name for layer in found.layers]


def test_a_block_that_is_gone_is_in_no_graph_and_its_weights_are_nothing() -> None:
    model, other = network("resnet20"), network("resnet20")
    graph = channel_graph(model, SHAPE)
    plan = Plan({"layer2.1.conv1": [], "layer1.0.conv1": [1, 3]})
    small = cut(model, graph, plan)
    left = narrowed(graph, plan, model, small)
    assert {group.name for group in graph} - {group.name for group in left} == {"layer2.1.conv1"}
    assert not {"layer2.1.conv1", "layer2.1.conv2"} & {layer.name for layer in left.layers}
    assert (
        method()._scores(problem_of(small, Budget("percent", 0.5))).keys()
        == (
            method()._scores(
                Problem(**{**vars(problem_of(model, Budget("percent", 0.5))), "model": small, "graph": left})
            )
        ).keys()
    )
    widened(other, graph, plan, small)
    assert not other.get_parameter("layer2.1.conv1.weight").any()
    back = cut(other, graph, plan)
    assert all(torch.equal(tensor, small.state_dict()[name]) for name, tensor in back.state_dict().items())


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("filter_magnitude", "global"),
        ("filter_magnitude", "layer"),
        ("slimming", "isomorphic"),
        ("group_sparsity", "global"),
    ],
)
def test_a_step_ranks_what_is_left_and_brings_nothing_back(name: str, scope: str) -> None:
    model = network("resnet20")
    how = method(name, f"method.scope={scope}", "method.coupled=sum", "method.select=rank")
    first = how.plan(problem_of(model, Budget("preserve_ratio", 0.6)), None).plan
    small = cut(model, channel_graph(model, SHAPE), first)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.copy_(parameter[torch.randperm(len(parameter))])  # another order of channels
    wide = network("resnet20")
    widened(wide, channel_graph(wide, SHAPE), first, small)
    for budget in (Budget("preserve_ratio", 0.3), Budget("preserve_ratio", 0.9), Budget("percent", 0.7)):
        problem = problem_of(wide, budget, before=first)
        plan = how.plan(problem, None).plan
        assert all(set(kept) <= set(first.kept[group]) for group, kept in plan.kept.items())
        assert problem.cost.macs(plan) <= problem.cost.macs(first)
        if budget.kind == "preserve_ratio":
            assert problem.cost.macs(plan) <= budget.value * problem.cost.full_macs
    if name == "filter_magnitude" and scope == "global":  # what stays is what the small network alone would keep
        scored = how._scores(problem_of(small, budget))
        whole = ranked(problem, how._scores)
        for group, kept in first.kept.items():
            assert torch.equal(whole[group][list(kept)], scored[group])
            gone = sorted(set(range(len(whole[group]))) - set(kept))
            assert all(float(whole[group][gone].max()) < float(scores.min()) for scores in scored.values() if gone)


# -- settings --------------------------------------------------------------------------------------------------


def test_one_step_is_no_setting_and_steps_share_what_is_trained_before_them() -> None:
    for name in ("filter_magnitude", "slimming", "group_sparsity"):
        settings = compose_config(f"method={name}")["method"]
        assert not {"steps", "schedule", "retraining"} & of_results(settings).keys()
        assert {"steps", "schedule", "retraining"} < of_results({**settings, "steps": 2}).keys()
    assert "steps" in of_results(compose_config("method=magnitude")["method"])
    asked = ("method=group_sparsity", "preserve_ratio=0.5", "device=cpu")
    keys = stage_keys(build(compose_config(*asked)))
    steps = stage_keys(build(compose_config(*asked, "method.schedule=linear", "method.steps=3")))
    assert [name for name in steps if steps[name] == keys.get(name)] == ["pretrain", "sparsify"]
    branches = ["prune step 1", "finetune step 1", "prune step 2", "finetune step 2"]
    assert [name for name in steps if name not in keys] == branches


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("method.steps=3",), "method.schedule=one-shot with method.steps=3: one-shot is one step"),
        (("method.schedule=cubic",), "method.schedule=cubic with method.steps=1: one-shot is one step"),
        (("method.schedule=cubic", "method.steps=2", "method.retraining.epochs=0"), "method.retraining.epochs=0:"),
        (("method.schedule=cubic", "method.steps=2", "control=random"), "control=random: would be cut at once"),
    ],
)
def test_what_makes_no_schedule_is_told(settings: tuple[str, ...], told: str) -> None:
    with pytest.raises(InputError) as error:
        build(compose_config("method=filter_magnitude", "device=cpu", *settings))
    (line,) = error.value.lines
    assert line.startswith(told)


def test_every_method_that_ranks_takes_steps() -> None:
    assert isinstance(method(), FilterMagnitude)
    for name in ("filter_magnitude", "slimming", "group_sparsity"):
        assert isinstance(method(name), InSteps)


# -- runs ------------------------------------------------------------------------------------------------------

LEAN = (
    "device=cpu", "threads=1", "experiment=quick", "model.depth=8", "model.width=4", "pretrain.epochs=1",
    "eval.latency_seconds=0.01", "dataset.held_out=0.6", "method=group_sparsity", "method.schedule=linear",
    "method.steps=2", "preserve_ratio=0.5", "method.retraining.epochs=2", "method.retraining.checkpoint_seconds=0",
)  # fmt: skip


def run_in(folder: Path, *changes: str) -> JSON:
    config = compose_config(*LEAN, *changes)
    job = build(copy.deepcopy(config))
    settings: Any = {"launch": "1", "tensorboard": False, "plots": False}
    crew = Crew(1, CPU, 1, lambda: None)
    return run(job, config, config_hash(config), folder / "run", Store(folder / "cache"), crew, **settings)


def test_every_step_is_a_row_and_is_found_again(tmp_path: Path) -> None:
    summary = run_in(tmp_path)
    names = ["dense", "sparsified", "pruned, step 1", "finetuned, step 1", "pruned", "finetuned"]
    assert list(summary["results"]) == names
    assert summary["steps"]["step 1"]["asked"] == {"preserve_ratio": 0.75}
    assert summary["steps"]["step 1"]["met"]
    assert summary["budget"]["met"]
    first, last = (read_json(tmp_path / "run" / path / "plan.json") for path in ("steps/step-1", ""))
    for group, told in last["groups"].items():
        assert set(told["kept"]) <= set(first["groups"][group]["kept"])
    # the last cut is of what the step before has trained
    stages = summary["stages"]
    before, after = (
        read_weights(Path(stages[stage]["folder"]) / "model.safetensors")[0]["conv1.weight"]
        for stage in ("finetune step 1", "prune")
    )
    stayed, stays = (plan["groups"]["conv1"]["kept"] for plan in (first, last))
    assert torch.equal(after, before[[stayed.index(channel) for channel in stays]])
    rows = {row["stage"]: row for row in read_rows(tmp_path / "run") if "loss" in row}
    assert rows["finetune step 1"]["lr"] == 0.01
    assert rows["finetune step 1"]["reg_gradient"] > 0  # between the steps it is trained under the penalty
    assert "reg_gradient" not in rows["finetune"]
    again = run_in(tmp_path, "finetune.epochs=2")
    computed = [name for name, stage in again["stages"].items() if not stage["reused"]]
    assert computed == ["finetune", "eval"]


@pytest.mark.slow
def test_killed_between_two_steps_it_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def row(self: StageFolder, **values: Any) -> None:
        if values.get("reg_gradient") and values["epoch"] == 2 and values["stage"] == "finetune":
            raise KilledError
        real(self, **values)

    real = StageFolder.row
    calm = run_in(tmp_path / "calm")
    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(StageFolder, "row", row)
        run_in(tmp_path / "killed")
    killed = run_in(tmp_path / "killed")
    assert not killed["stages"]["finetune step 1"]["reused"]
    for stage in ("finetune step 1", "finetune"):
        folders = [Path(summary["stages"][stage]["folder"]) for summary in (calm, killed)]
        one, other = (read_weights(folder / "model.safetensors")[0] for folder in folders)
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
