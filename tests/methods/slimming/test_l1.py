"""The L1 term: one step by hand, in the training loop, and what a sparse training shows."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, ORACLES, compose_config, make_recipe
from torch import Tensor, nn

from compress.config.build import make
from compress.data.memory import MemoryData
from compress.graph.build import channel_graph
from compress.io.files import JSON, read_rows
from compress.io.stage_folder import StageFolder
from compress.methods.slimming.penalty import add_l1, l1_penalty
from compress.methods.slimming.scales import shared_norms
from compress.methods.slimming.slimming import Slimming
from compress.methods.sparse_training import BINS, distribution
from compress.models.resnet_cifar import resnet
from compress.prune.method import Problem
from compress.prune.scales import norms_of, scales_of
from compress.run.job import make_problem
from compress.schema.settings import Budget, Recipe
from compress.train.loop import NO_HOOKS, Hooks, Training, train
from compress.train.objective import cross_entropy

STEP = json.loads((ORACLES / "slimming.json").read_text())["invariants_checked"]["l1_step"]
SLIMMING: Slimming = make(compose_config("method=slimming")["method"])


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return resnet(depth=8, width=8, shortcut="conv", in_channels=1, num_classes=10)


def gammas(model: nn.Module) -> Tensor:
    return torch.cat([norm.weight.detach() for norm in norms_of(model).values()])


# -- one step --------------------------------------------------------------------------------------------------


def norm_of_four() -> nn.Sequential:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm1d(4), nn.Conv2d(4, 2, 1))
    for norm in model[:2]:
        norm.weight.data = torch.tensor([0.5, -0.5, 0.0, 2.0])
    return model


def test_one_step_without_a_gradient_of_the_data() -> None:
    model = norm_of_four()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    add_l1(model, 0.01, linear=False)
    assert model[0].weight.grad.tolist() == pytest.approx([0.01, -0.01, 0.0, 0.01])
    frozen = norm_of_four().requires_grad_(False)
    add_l1(frozen, 0.01, linear=False)
    assert frozen[0].weight.grad is None
    assert model[0].weight.grad[2] == 0
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert model[0].weight.tolist() == pytest.approx(STEP) == [0.499, -0.499, 0, 1.999]
    after = model.state_dict()
    assert [name for name in after if not torch.equal(after[name], before[name])] == ["0.weight"]


def test_behind_linear_layers_only_if_asked() -> None:
    model = norm_of_four()
    add_l1(model, 0.01, linear=True)  # no gradient yet: the term is all of it
    assert model[1].weight.grad.tolist() == pytest.approx([0.01, -0.01, 0, 0.01])
    assert model[0].bias.grad is model[2].weight.grad is None


def test_it_is_added_to_the_gradient_and_leaves_no_graph() -> None:
    model = norm_of_four()
    model[0].weight.grad = torch.tensor([1.0, 1.0, 1.0, -1.0])
    add_l1(model, 0.25, linear=False)
    assert model[0].weight.grad.tolist() == [1.25, 0.75, 1.0, -0.75]
    assert not model[0].weight.grad.requires_grad


def test_it_goes_through_momentum() -> None:
    """v1 = 0.01, v2 = 0.9 * 0.01 + 0.01 = 0.019: after two steps 0.5 - 0.001 - 0.0019."""
    model = norm_of_four()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        add_l1(model, 0.01, linear=False)
        optimizer.step()
    assert model[0].weight.tolist() == pytest.approx([0.4971, -0.4971, 0, 1.9971])


def test_the_gradients_that_meet_by_hand() -> None:
    """Over the penalised scales: of the loss alone, a mean over the steps of an epoch; and of the penalty."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    model[3].weight.requires_grad_(False)
    penalty = l1_penalty(0.01, linear=False, spared=("2",))
    assert penalty.row() == {"task_gradient": 0.0, "l1_gradient": 0.0, "l1": 0.01}
    for epoch, steps in enumerate(((1.0, 3.0), (5.0,)), 1):
        penalty.begin_epoch(model, epoch)
        for size in steps:
            model[1].weight.grad = torch.tensor([3.0, 0.0, -4.0]) * size
            model[2].weight.grad = torch.full((3,), 100.0)
            penalty.add(model)
        assert model[1].weight.grad.tolist() == pytest.approx([3 * size + 0.01, 0.01, -4 * size + 0.01])
        assert model[2].weight.grad.tolist() == [100.0] * 3
        row = penalty.row()
        assert row["task_gradient"] == pytest.approx(5 * sum(steps) / len(steps))
        assert row["l1_gradient"] == pytest.approx(0.01 * 3**0.5, rel=1e-5)


# -- in the training loop --------------------------------------------------------------------------------------


def trained(
    model: nn.Module, data: MemoryData, folder: Path, l1: float | None, recipe: Recipe, row: Any = lambda _: {}
) -> None:
    hooks = NO_HOOKS if l1 is None else Hooks(on_gradient=partial(add_l1, strength=l1, linear=False), row=row)
    what = {"model": model, "data": data, "recipe": recipe, "objective": cross_entropy(recipe)}
    train(Training(**what, stage="s", seed=0, device=CPU, work=StageFolder(folder), hooks=hooks))


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_clipping_does_not_scale_it(amp: str, digit_data: MemoryData, tmp_path: Path) -> None:
    """With next to nothing left of the data's gradient, every scale moves by lr * l1 a step, and nothing else."""
    recipe = make_recipe(
        epochs=1,
        lr=0.1,
        schedule="constant",
        momentum=0.0,
        weight_decay=0.0,
        clip_norm=1e-12,
        batch_size=128,
        amp=amp,
    )
    model = fresh()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trained(model, digit_data, tmp_path, 0.01, recipe)
    steps = -(-len(digit_data.split()["train"]) // 128)
    scales = {f"{name}.weight" for name in norms_of(model)}
    for name, value in model.named_parameters():
        expected = before[name] - 0.1 * 0.01 * steps if name in scales else before[name]
        assert torch.allclose(value, expected, rtol=0, atol=1e-6), name


def test_training_with_it_shrinks_scales_and_without_it_does_not(digit_data: MemoryData, tmp_path: Path) -> None:
    medians, others = {}, {}
    recipe = make_recipe(epochs=2, weight_decay=0.0)
    for l1 in (None, 0.0, 0.1):
        (tmp_path / str(l1)).mkdir()
        trained(model := fresh(), digit_data, tmp_path / str(l1), l1, recipe)
        medians[l1] = float(gammas(model).abs().median())
        others[l1] = gammas(model)
    assert torch.equal(others[None], others[0.0])
    assert medians[0.0] > 0.9
    assert medians[0.1] < 0.7 * medians[0.0]


# -- sparsify --------------------------------------------------------------------------------------------------


def problem_of(model: nn.Module, data: MemoryData, folder: Path, seed: int = 0) -> tuple[Problem, StageFolder]:
    work = StageFolder(folder)

    def learn(recipe: Recipe, hooks: Hooks, network: nn.Module | None = None) -> JSON:
        what = {"model": model, "data": data, "recipe": recipe, "objective": cross_entropy(recipe)}
        history = train(Training(**what, stage="sparsify", seed=seed, device=CPU, work=work, hooks=hooks))
        history.pop("best_weights")
        return history

    return replace(make_problem(model, data, Budget("percent", 0.5), CPU, seed, fresh), train=learn), work


def settings(**changes: Any) -> Slimming:
    recipe = make_recipe(epochs=2, weight_decay=0.0)
    return replace(SLIMMING, **{"l1": 0.1, "training": recipe, "watch": [0.0, 0.3, 0.7]} | changes)


def test_sparsify_trains_the_network_and_tells_how_sparse_it_is(digit_data: MemoryData, tmp_path: Path) -> None:
    model = fresh()
    before = gammas(model)
    problem, work = problem_of(model, digit_data, tmp_path)
    found = settings().learn(problem, work)
    assert float(gammas(model).abs().median()) < 0.7 * float(before.abs().median())
    assert (found["l1"], found["epochs"], found["made"]) == (0.1, 2, "sparse-trained network")
    rows = read_rows(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        assert {"scale_median", "scale_small_share", "scales", "cfg", "held_out_top1"} <= set(row)
        assert row["task_gradient"] > 0
        assert sum(row["scales"]["counts"]) == len(before)  # those of a residual stream too, each by itself
        assert len(row["scales"]["counts"]) == len(row["scales"]["edges"]) - 1 == BINS
        assert row["scales"]["edges"] == sorted(row["scales"]["edges"])
        assert list(row["cfg"]) == ["0", "0.3", "0.7"]
        full: list[int] = [len(norm.weight) for norm in norms_of(model).values()]  # type: ignore[arg-type]
        assert row["cfg"]["0"] == full
        for wide, narrow in pairwise(row["cfg"].values()):
            assert all(a >= b for a, b in zip(wide, narrow, strict=True))
            assert sum(wide) > sum(narrow)
    # the last row is what the network is now
    assert {key: rows[-1][key] for key in ("scale_median", "scales", "cfg")} == {
        key: found[key] for key in ("scale_median", "scales", "cfg")
    }
    assert found["scale_median"] == pytest.approx(float(gammas(model).abs().median()), abs=1e-6)
    assert found["watched_by"] == {
        "coupled": "sum", "scope": "global", "select": "threshold", "on_empty": "keep_max", "min_channels": 1,
        "round_to": 1, "protect": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"coupled": "max"},
        {"coupled": "keep", "scope": "layer"},
        {"select": "rank", "round_to": 4},
        {"select": "rank", "scope": "layer", "min_channels": 3},
        {"on_empty": "drop_block"},
    ],
)
def test_the_cfg_that_is_watched_is_the_one_that_would_be_cut(
    changes: dict[str, Any], digit_data: MemoryData, tmp_path: Path
) -> None:
    problem, work = problem_of(scattered(fresh(), ["layer2.0.bn1"]), digit_data, tmp_path)
    method = settings(training=make_recipe(epochs=0), **changes)
    cfgs = method.learn(problem, work)["cfg"]
    assert len({str(cfg) for cfg in cfgs.values()}) == 3
    for percent, cfg in cfgs.items():
        asked = replace(problem, budget=Budget("percent", float(percent)))
        assert cfg == method.plan(asked, None).own["cfg"], percent


@pytest.mark.parametrize(
    ("changes", "told"),
    [({}, [True, True]), ({"on_empty": "error"}, [True, False]), ({"select": "rank"}, [True, False])],
)
def test_a_percent_that_would_be_refused_has_no_cfg(
    changes: dict[str, Any], told: list[bool], digit_data: MemoryData, tmp_path: Path
) -> None:
    problem, work = problem_of(scattered(fresh()), digit_data, tmp_path)
    method = settings(training=make_recipe(epochs=0), watch=[0.1, 0.99], **changes)
    assert [cfg is not None for cfg in method.learn(problem, work)["cfg"].values()] == told
    untrained, work = problem_of(fresh(), digit_data, tmp_path)
    cfgs = method.learn(untrained, work)["cfg"]  # all equal: a threshold tells nothing apart
    assert (cfgs["0.1"] is None) == (method.select == "threshold")


def scattered(model: nn.Module, small: Sequence[str] = ()) -> nn.Module:
    """Scales in (0.5, 1.5) at random; those of the norms in `small` close to nothing."""
    random = torch.Generator().manual_seed(0)
    for name, norm in norms_of(model).items():
        norm.weight.data.copy_(
            (0.5 + torch.rand(len(norm.weight), generator=random)) * (1e-3 if name in small else 1)
        )
    return model


def test_dead_scales_are_counted_when_most_are_dead() -> None:
    assert distribution("scale", torch.tensor([1e-6] * 6 + [0.2, 0.5, 0.9, 1.0]))["scale_small_share"] == 0.6


def test_it_begins_with_the_weights_it_is_given_or_with_new_ones(digit_data: MemoryData, tmp_path: Path) -> None:
    """Without epochs what it begins with is what it ends with."""
    untrained = replace(settings(), training=make_recipe(epochs=0))
    for start in ("pretrained", "scratch"):
        torch.manual_seed(5)
        model = resnet(depth=8, width=8, shortcut="conv", in_channels=1, num_classes=10)
        given = {name: value.clone() for name, value in model.state_dict().items()}
        (tmp_path / start).mkdir()
        problem, work = problem_of(model, digit_data, tmp_path / start)
        replace(untrained, start=start, start_scale=0.25).learn(problem, work)
        assert problem.model is model
        same = torch.equal(model.get_parameter("conv1.weight"), given["conv1.weight"])
        assert same == (start == "pretrained")
        scales = gammas(model)
        assert torch.equal(scales, torch.full_like(scales, 1.0 if same else 0.25))


def test_norms_of_a_residual_stream_can_be_spared(digit_data: MemoryData, tmp_path: Path) -> None:
    """Of resnet8's norms, those of the stream: the stem's, and the last of each block."""
    model = fresh()
    graph = channel_graph(model, digit_data.shape)
    spared = shared_norms(graph, scales_of(model, graph))
    alone = {name for name in norms_of(model) if name.endswith("bn1") and name.startswith("layer")}
    assert alone
    assert spared == set(norms_of(model)) - alone
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    add_l1(model, 0.5, linear=False, spared=spared)
    assert {name for name, norm in norms_of(model).items() if norm.weight.grad.any()} == alone
    learned = []
    for l1_on in ("all", "unshared"):
        (tmp_path / l1_on).mkdir()
        problem, work = problem_of(fresh(), digit_data, tmp_path / l1_on)
        settings(training=make_recipe(epochs=1), l1=0.05, l1_on=l1_on).learn(problem, work)
        sizes = {name: float(norm.weight.detach().abs().mean()) for name, norm in norms_of(problem.model).items()}
        learned.append([sum(sizes[name] for name in names) / len(names) for names in (spared, alone)])
    (of_all, _), (of_spared, of_alone) = learned
    assert of_all < 0.95 * of_spared
    assert of_alone < 0.95 * of_spared


def test_settings_of_the_cut_do_not_change_what_is_learned(digit_data: MemoryData, tmp_path: Path) -> None:
    """They are named in `plan_only`, so the cache gives one sparse training to all of them."""
    results = []
    changes: list[dict[str, Any]] = [{}, {"coupled": "max", "scope": "layer", "select": "rank", "min_channels": 2}]
    for at, change in enumerate(changes):
        (tmp_path / str(at)).mkdir()
        problem, work = problem_of(fresh(), digit_data, tmp_path / str(at))
        found = settings(training=make_recipe(epochs=1), **change).learn(problem, work)
        results.append((found, gammas(problem.model)))
        assert set(change) <= Slimming.traits.plan_only
    (first, _), (other, _) = results
    assert {key for key in first if first[key] != other[key]} == {"cfg", "watched_by"}  # what is said of the cut
    assert torch.equal(results[0][1], results[1][1])


def test_a_look_by_hand() -> None:
    found = distribution("scale", torch.tensor([0.0, 0.001, 1.0, 1.0, 2.0, 50.0]))
    assert found["scale_median"] == 1.0
    assert found["scale_small_share"] == pytest.approx(2 / 6, abs=1e-4)
    assert found["scales"]["counts"][:3] == [2, 2, 1]
    assert found["scales"]["counts"][-1] == 1  # the largest is in the last bin
    assert found["scales"]["edges"][-1] == 50.0


def test_scales_that_are_all_zero_can_be_looked_at() -> None:
    found = distribution("scale", torch.zeros(3))
    assert (found["scale_median"], sum(found["scales"]["counts"])) == (0.0, 3)


# -- diagnosis -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_scales_that_are_not_sparse_are_warned_of(scope: Any, digit_data: MemoryData, tmp_path: Path) -> None:
    model = fresh()
    problem, _ = problem_of(model, digit_data, tmp_path)
    random = torch.Generator().manual_seed(0)
    for norm in norms_of(model).values():
        norm.weight.data.copy_(0.5 + torch.rand(len(norm.weight), generator=random))
    (warning,) = replace(SLIMMING, scope=scope).plan(problem, None).warnings
    assert warning.startswith("the scales " if scope == "global" else "the scales of conv1 are not sparse")
    assert "expect a collapse" in warning
    for norm in norms_of(model).values():
        norm.weight.data[: len(norm.weight) // 2 + 1] *= 1e-3
    assert replace(SLIMMING, scope=scope, coupled="max").plan(problem, None).warnings == []
