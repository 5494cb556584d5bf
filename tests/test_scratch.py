"""The pruned network from scratch: its channels, selections and masks with new weights, for as long as it may."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose_config, livened, make_recipe, random_plan
from torch import nn
from torch.nn import functional as F

from compress.config.build import build
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.io.stage_folder import StageFolder
from compress.measure.macs import count_macs
from compress.models.layers import ChannelSelection
from compress.models.masks import MASK, masked_layers, set_masks
from compress.prune.saved_network import load_network, save_network
from compress.prune.surgery import cut
from compress.run.job import Job, RunState
from compress.run.stages.finetune import finetune, fresh_like, scratch_recipe
from compress.schema.settings import FinetuneRecipe
from compress.train.schedule import learning_rate


def job_of(*overrides: str) -> Job:
    return build(compose_config("method=slimming", "device=cpu", "percent=0.2", *overrides))


def pruned(job: Job, share: float = 0.4) -> tuple[nn.Module, Plan]:
    torch.manual_seed(7)
    model = livened(job.model.build())
    graph = channel_graph(model, job.data.shape)
    plan = random_plan(graph, share, seed=2)
    return cut(model, graph, plan), plan


@pytest.fixture(scope="module")
def selecting() -> Job:
    return job_of("model=resnet20_cs", "finetune.init=scratch")


@pytest.mark.parametrize("model", ["resnet20_cs", "resnet8x4_cs", "resnet20"])
def test_channels_stay_and_weights_are_new(model: str) -> None:
    job = job_of(f"model={model}")
    small, plan = pruned(job)
    new = fresh_like(RunState(job, {}), small, plan)
    old, now = small.state_dict(), new.state_dict()
    assert {name: (t.shape, t.dtype) for name, t in now.items()} == {
        name: (t.shape, t.dtype) for name, t in old.items()
    }
    for name, module in new.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert not torch.equal(module.weight, old[f"{name}.weight"]), name
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.running_mean, torch.zeros_like(module.running_mean))
        elif isinstance(module, ChannelSelection):
            assert torch.equal(module.indices, old[f"{name}.indices"])
            at = list(plan.kept[name])
            assert module.indices.tolist() == at != list(range(len(at)))  # not the first ones
    assert count_macs(new, job.data.shape) == count_macs(small, job.data.shape)


def test_weights_are_drawn_for_the_widths_that_are_left() -> None:
    job = job_of("model=resnet20")
    small, plan = pruned(job, 0.25)
    new = fresh_like(RunState(job, {}), small, plan)
    conv = new.get_submodule("layer3.1.conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.shape[:2] == (16, 16)
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.1)


def test_it_trains_a_step(selecting: Job) -> None:
    small, plan = pruned(selecting)
    new = fresh_like(RunState(selecting, {}), small, plan).train()
    before = {name: value.detach().clone() for name, value in new.named_parameters()}
    optimizer = torch.optim.SGD(new.parameters(), lr=0.1, momentum=0.9)
    images, labels = next(iter(selecting.data.shuffled(32, 0, torch.device("cpu"))))
    F.cross_entropy(new(images), labels).backward()
    optimizer.step()
    moved = [name for name, value in new.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) > 0.9 * len(before)
    assert all(bool(value.isfinite().all()) for value in new.parameters())


def test_the_seed_decides(selecting: Job) -> None:
    small, plan = pruned(selecting)
    first, again = (fresh_like(RunState(selecting, {}), small, plan).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = fresh_like(RunState(replace(selecting, seed=selecting.seed + 1), {}), small, plan)
    assert not torch.equal(other.state_dict()["conv1.weight"], first["conv1.weight"])


def test_masks_stay() -> None:
    job = job_of("model=resnet20")
    model = job.model.build()
    random = torch.Generator().manual_seed(0)
    masks = {
        name: torch.rand(layer.weight.shape, generator=random) < 0.3
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d)
    }
    set_masks(model, masks)
    new = fresh_like(RunState(job, {}), model, Plan())
    assert set(masked_layers(new)) == set(masks)
    for name, mask in masks.items():
        assert torch.equal(new.get_buffer(f"{name}.{MASK}"), mask)
        weight = new.get_parameter(f"{name}.weight")
        assert not bool(weight[~mask].any())
        assert bool(weight[mask].all())
        assert not torch.equal(weight, model.get_parameter(f"{name}.weight"))
    # a mask of its own: laid on by value
    new.get_buffer(f"conv1.{MASK}").zero_()
    assert bool(model.get_buffer(f"conv1.{MASK}").any())


def test_emptied_blocks_stay_emptied(selecting: Job) -> None:
    torch.manual_seed(0)
    model = selecting.model.build()
    plan = Plan({"layer2.1.conv1": [], "select": [3, 200]})
    small = cut(model, channel_graph(model, selecting.data.shape), plan)
    new = fresh_like(RunState(selecting, {}), small, plan)
    assert list(new.state_dict()) == list(small.state_dict())
    assert count_macs(new, selecting.data.shape) == count_macs(small, selecting.data.shape)


# -- how long --------------------------------------------------------------------------------------------------


def with_recipe(job: Job, budget: str, **changes: Any) -> Job:
    recipe = make_recipe(**changes)
    finetune = FinetuneRecipe(**vars(make_recipe(epochs=40)), init="scratch", scratch_budget=budget)  # type: ignore[arg-type]
    return replace(job, pretrain=recipe, finetune=finetune)


CRD = {"epochs": 240, "schedule": "step", "hold_epochs": 120, "step_epochs": 30, "lr": 0.05}


def test_e_is_the_recipe_of_the_dense_network(selecting: Job) -> None:
    job = with_recipe(selecting, "E", **CRD)
    assert scratch_recipe(job, 1) == job.pretrain


@pytest.mark.parametrize(
    ("part", "times", "expected"),
    [
        (2, 1, (480, 240, 60)),
        (1, 1, (240, 120, 30)),
        (3, 2, (360, 180, 45)),
        (1.57, 1, (376, 188, 47)),  # 376.8, 188.4, 47.1: to whole epochs, downwards
    ],
)
def test_b_is_as_many_multiply_adds(part: float, times: int, expected: tuple[int, int, int], selecting: Job) -> None:
    dense = count_macs(selecting.model.build(), selecting.data.shape)
    recipe = scratch_recipe(with_recipe(selecting, "B", **CRD), round(dense * times / part))
    lengths = (recipe.epochs, recipe.hold_epochs, recipe.step_epochs)
    assert lengths == expected
    assert {type(length) for length in lengths} == {int}
    assert (recipe.lr, recipe.schedule, recipe.batch_size) == (0.05, "step", 64)


def test_b_of_a_short_recipe_still_has_steps(selecting: Job) -> None:
    """Never a step of no epochs, not even for a network that is larger than the dense one."""
    dense = count_macs(selecting.model.build(), selecting.data.shape)
    job = with_recipe(selecting, "B", epochs=10, schedule="step", step_epochs=1, hold_epochs=0)
    assert scratch_recipe(job, dense).step_epochs == 1
    assert scratch_recipe(job, 2 * dense).step_epochs == 1
    assert scratch_recipe(job, 2 * dense).epochs == 5


def drops(recipe: Any) -> list[int]:
    """Epochs (from 0) that begin with a lower rate than the one before; the rate is constant within each."""
    rates = [
        {learning_rate(recipe, epoch + part) for part in (0.0, 0.1, 0.5, 0.99)} for epoch in range(recipe.epochs)
    ]
    assert all(len(rate) == 1 for rate in rates)
    flat = [rate.pop() for rate in rates]
    return [epoch for epoch in range(1, len(flat)) if flat[epoch] < flat[epoch - 1]]


def test_hold_120_step_30_drops_at_150_180_and_210() -> None:
    """Constant for the hold, then a drop after every step: the published milestones."""
    assert drops(make_recipe(**CRD)) == [150, 180, 210]


def test_b_moves_the_drops_with_the_length(selecting: Job) -> None:
    dense = count_macs(selecting.model.build(), selecting.data.shape)
    job = with_recipe(selecting, "B", **CRD)
    assert drops(scratch_recipe(job, dense // 2)) == [300, 360, 420]


def test_the_stage_begins_with_new_weights_of_the_same_network(selecting: Job, tmp_path: Path) -> None:
    """Without epochs what it begins with is what it leaves."""
    job = with_recipe(selecting, "B", epochs=0, step_epochs=10)
    small, plan = pruned(job)
    longer = count_macs(job.model.build(), job.data.shape) / count_macs(small, job.data.shape)
    done = {stage: tmp_path / stage for stage in ("pretrain", "prune")}
    for folder in (*done.values(), tmp_path / "finetune"):
        folder.mkdir()
    save_network(done["prune"] / "model.safetensors", small, job.model, plan)
    state = RunState(job, done)
    result = finetune(state, StageFolder(tmp_path / "finetune"))
    assert (result["init"], result["epochs"]) == ("scratch", 0)
    assert result["recipe"]["step_epochs"] == int(10 * longer) > 10
    loaded, read = load_network(tmp_path / "finetune" / "model.safetensors")
    assert read == plan
    expected = fresh_like(state, small, plan).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(loaded.get_buffer("select.indices"), small.get_buffer("select.indices"))
    assert not torch.equal(loaded.get_parameter("conv1.weight"), small.get_parameter("conv1.weight"))
