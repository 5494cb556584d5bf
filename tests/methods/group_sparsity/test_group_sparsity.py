"""Group sparsity: norms, factors and gradients by hand; what a training under it does; and through the command."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import CPU, Command, compose_config, make_recipe
from torch import Tensor, nn

from compress.config.build import make
from compress.config.rules import check
from compress.data.memory import MemoryData
from compress.graph.build import channel_graph
from compress.io.files import JSON, read_json, read_rows
from compress.io.stage_folder import StageFolder
from compress.methods.group_sparsity import GroupSparsity, by_depgraph, by_lasso, members, scores, squares
from compress.models.resnet_cifar import resnet
from compress.prune.limits import NO_LIMITS, Limits
from compress.prune.method import Problem
from compress.run.job import make_problem
from compress.schema.settings import Budget, Recipe
from compress.train.loop import Hooks, Training, train
from compress.train.objective import cross_entropy

METHOD: GroupSparsity = make(compose_config("method=group_sparsity")["method"])
# Channel 0 is made by (1, -2), scaled by 2 and read by (1, -1); channel 1 by (2, 4), 1 and (3, 3)
SQUARES = [1 + 4 + 4 + 1 + 1, 4 + 16 + 1 + 9 + 9]


def two_channels() -> nn.Sequential:
    """A convolution of two channels, a batch norm, and a linear layer that reads two pixels of each."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(4, 1))
    for name, values in {
        "0.weight": [1.0, -2.0, 2.0, 4.0], "0.bias": [7.0, 7.0], "1.weight": [2.0, 1.0], "1.bias": [5.0, 5.0],
        "3.weight": [1.0, -1.0, 3.0, 3.0], "3.bias": [9.0],
    }.items():  # fmt: skip
        parameter = model.get_parameter(name)
        parameter.data = torch.tensor(values).view_as(parameter)
    return model


def problem_of(model: nn.Module, shape: tuple[int, int, int], limits: Limits = NO_LIMITS) -> Problem:
    data: Any = SimpleNamespace(shape=shape)
    return make_problem(model, data, Budget("percent", 0.5), CPU, 0, lambda: model, limits)


def pulled(
    model: nn.Module, shape: tuple[int, int, int], limits: Limits = NO_LIMITS, **changes: Any
) -> dict[str, Tensor]:
    """What one step adds to gradients of zero, by parameter, where it adds something."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    replace(METHOD, reg=0.5, **changes).penalty(problem_of(model, shape, limits)).add(model)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


# -- by hand ---------------------------------------------------------------------------------------------------


def test_all_weights_of_a_channel_count_and_no_bias() -> None:
    model = two_channels()
    graph = channel_graph(model, (2, 1, 2))
    assert squares(model, members(model, graph[0])).tolist() == SQUARES
    norms = torch.tensor(SQUARES, dtype=torch.float64).sqrt()
    assert torch.allclose(scores(model, graph)[graph[0].name], norms / norms.mean())


def test_the_weakest_is_pulled_at_the_hardest_and_by_lasso_all_alike() -> None:
    of = torch.tensor([3.0, 1.0, 5.0])
    assert by_depgraph(of, alpha=4.0).tolist() == [4.0, 16.0, 1.0]
    assert by_depgraph(torch.full((3,), 2.0), alpha=4.0).tolist() == [1.0] * 3
    assert by_lasso(torch.tensor([4.0, 0.25])).tolist() == [0.5, 2.0]
    assert (by_lasso(torch.zeros(1)) * 0).item() == 0  # a channel that is gone has a pull of zero, not of NaN


@pytest.mark.parametrize(("weighting", "factors"), [("depgraph", [16, 1]), ("lasso", [11**-0.5, 39**-0.5])])
def test_one_step_by_hand(weighting: str, factors: list[float]) -> None:
    a, b = (0.5 * factor for factor in factors)
    expected = {
        "0.weight": [a, -2 * a, 2 * b, 4 * b], "1.weight": [2 * a, b], "3.weight": [a, -a, 3 * b, 3 * b],
    }  # fmt: skip
    found = pulled(two_channels(), (2, 1, 2), weighting=weighting)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].flatten().tolist() == pytest.approx(values), name


def test_it_adds_to_the_gradient_and_a_frozen_weight_counts_without_being_pulled_at() -> None:
    model = two_channels()
    model.get_parameter("3.weight").requires_grad_(False)
    model[0].weight.grad = torch.full((2, 2, 1, 1), 100.0)
    penalty = replace(METHOD, reg=0.5).penalty(problem_of(model, (2, 1, 2)))
    penalty.add(model)
    assert model[0].weight.grad.flatten().tolist() == [108.0, 84.0, 101.0, 102.0]
    assert model[3].weight.grad is None
    # of what is pulled at: the loss's (the batch norm had none), and what was added
    row = penalty.row()
    added = [8.0, 16.0, 1.0, 2.0, 16.0, 0.5]
    assert row["task_gradient"] == pytest.approx(200.0)
    assert row["reg_gradient"] == pytest.approx(sum(step**2 for step in added) ** 0.5, rel=1e-5)


def test_a_weight_between_two_groups_is_pulled_at_by_both() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 1, 1))
    for layer, values in zip(model, ([1.0, 2.0], [1.0, 0.0, 0.0, 1.0], [1.0, 3.0]), strict=True):
        layer.weight.data = torch.tensor(values).view_as(layer.weight)
    # groups: channels 0 and 1 of the first have 2 and 5, of the second 2 and 10; all factors of depgraph are 16 and 1
    found = pulled(model, (1, 1, 1))
    assert found["1.weight"].flatten().tolist() == [16.0, 0.0, 0.0, 1.0]
    assert found["0.weight"].flatten().tolist() == [8.0, 1.0]


def test_what_loses_nothing_is_not_pulled_at() -> None:
    """Of a residual network with `coupled: keep` no norm of the stream; with limits only what they leave."""

    def norms(names: Any) -> set[str]:
        return {name for name in names if ".bn" in name or name.startswith("bn")}

    torch.manual_seed(0)
    model = resnet(depth=8, width=4, shortcut="conv", in_channels=1, num_classes=10)
    whole, alone = norms(pulled(model, (1, 8, 8))), norms(pulled(model, (1, 8, 8), coupled="keep"))
    assert alone == {name for name in whole if name.endswith("bn1.weight") and name.startswith("layer")}
    assert alone < whole
    assert set(scores(model, channel_graph(model, (1, 8, 8)), "keep")) == {f"layer{n}.0.conv1" for n in (1, 2, 3)}
    only = pulled(model, (1, 8, 8), Limits(only=["layer2.0.conv1"]))
    assert set(only) == {"layer2.0.conv1.weight", "layer2.0.bn1.weight", "layer2.0.conv2.weight"}


# -- in the training loop --------------------------------------------------------------------------------------


def plain(width: int = 12) -> nn.Module:
    """No batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 10),
    )  # fmt: skip


def trained(data: MemoryData, folder: Path, **changes: Any) -> tuple[Problem, JSON]:
    """The problem whose network was trained, and the report. No weight decay beside the penalty."""
    folder.mkdir()
    model, work = plain(), StageFolder(folder)

    def learn(recipe: Recipe, hooks: Hooks, network: nn.Module | None = None) -> JSON:
        what: Any = {"model": model, "data": data, "recipe": recipe, "objective": cross_entropy(recipe)}
        history = train(Training(**what, stage="sparsify", seed=0, device=CPU, work=work, hooks=hooks))
        history.pop("best_weights")
        return history

    problem = make_problem(model, data, Budget("preserve_ratio", 0.4), CPU, 0, plain)
    recipe = make_recipe(epochs=3, weight_decay=0.0)
    problem = replace(problem, train=learn)
    return problem, replace(METHOD, training=recipe, **changes).learn(problem, work)


def least_of(problem: Problem) -> Tensor:
    """The norm of the weakest third of the channels, as a share of the mean of their group: (groups,)."""
    found = scores(problem.model, problem.graph).values()
    return torch.stack([norms.sort().values[: len(norms) // 3].mean() for norms in found])


def test_the_weakest_channels_shrink_beside_the_others(digit_data: MemoryData, tmp_path: Path) -> None:
    without, _ = trained(digit_data, tmp_path / "without", reg=0.0)
    under, told = trained(digit_data, tmp_path / "depgraph", reg=0.02)
    lasso, _ = trained(digit_data, tmp_path / "lasso", reg=0.02, weighting="lasso")
    assert (least_of(under) < 0.5 * least_of(without)).all()
    assert (least_of(lasso) < least_of(without)).all()
    rows = read_rows(tmp_path / "depgraph")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(row["reg_gradient"] > 0 for row in rows)
    assert sum(rows[-1]["norms"]["counts"]) == 24
    assert {key: rows[-1][key] for key in ("norm_median", "norm_small_share", "norms")} == {
        key: told[key] for key in ("norm_median", "norm_small_share", "norms")
    }
    # and what goes then is what shrank: the cut takes less from this network than from the other
    plan = METHOD.plan(under, tmp_path).plan
    for group, kept in plan.kept.items():
        norms = scores(under.model, under.graph)[group]
        gone = sorted(set(range(len(norms))) - set(kept))
        assert not gone or float(norms[gone].max()) <= float(norms[list(kept)].min())


def test_settings_of_the_cut_are_no_settings_of_the_training() -> None:
    assert {"scope", "select", "on_empty", "round_to", "protect", "min_channels"} < METHOD.traits.plan_only
    assert not {"coupled", "skip", "only", "keep", "reg", "weighting", "alpha", "training"} & METHOD.traits.plan_only


# -- through the command ---------------------------------------------------------------------------------------

NETWORK = """
from torch import nn

def plain(in_channels, num_classes):
    return nn.Sequential(
        nn.Conv2d(in_channels, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, num_classes),
    )
"""


@pytest.mark.slow
def test_a_network_without_batch_norm_beside_no_sparse_training(command: Command, tmp_path: Path) -> None:
    (tmp_path / "plain_network.py").write_text(NETWORK)
    asked = (
        "-m", "experiment=quick", "device=cpu", "model=custom", "model._target_=plain_network.plain", "plots=false",
        "tensorboard=false", "threads=1", "method=group_sparsity,filter_magnitude", "preserve_ratio=0.6,0.4",
    )  # fmt: skip
    done = command(*asked, PYTHONPATH=f"{tmp_path}:{Path(__file__).parents[3] / 'src'}")
    assert done.returncode == 0, done.stderr
    summaries = [read_json(path) for path in sorted(tmp_path.rglob("summary.json"))]
    assert len(summaries) == 4
    assert all(summary["budget"]["met"] for summary in summaries)
    sparse = [summary for summary in summaries if summary["config"]["method"]["name"] == "group_sparsity"]
    assert [list(summary["results"]) for summary in sparse] == [["dense", "sparsified", "pruned", "finetuned"]] * 2
    assert len({summary["stages"]["sparsify"]["key"] for summary in sparse}) == 1  # one training for both budgets


def test_what_it_does_not_take_is_told() -> None:
    for setting, told in [
        ("method.weighting=ridge", "must be one of depgraph, lasso"),
        ("method.coupled=max", "must be one of sum, keep"),
        ("method.reg=-1", "must be >= 0"),
    ]:
        (problem,) = check(compose_config("method=group_sparsity", setting))
        assert problem.startswith(setting)
        assert told in problem
