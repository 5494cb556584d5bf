"""Recorded steps: what is replayed is what the same steps give one by one. Without a card, by operations that are
written down (`recording`)."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, compose_config, make_recipe
from recording import HostReads, Recording, Tapes, refuses
from torch import Tensor, nn

from compress.config.build import build, make
from compress.data.digits import digits
from compress.data.memory import MemoryData
from compress.distill.distill import Distill, WeightedTerm
from compress.distill.kept_logits import KeptLogits
from compress.distill.losses import kd
from compress.errors import InputError
from compress.io.files import JSON
from compress.io.stage_folder import StageFolder
from compress.methods.group_sparsity import GroupSparsity
from compress.methods.slimming.penalty import l1_penalty
from compress.models.masks import set_masks
from compress.models.resnet_cifar import resnet
from compress.run.job import make_problem
from compress.schema.settings import Budget, Recipe
from compress.train import loop
from compress.train.loop import Hooks, Training, train
from compress.train.objective import Objective, cross_entropy

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def few_digits() -> MemoryData:
    """About 360 training images: two batches of 128 and a smaller one."""
    return digits(image_size=None, mean=[0.3053], std=[0.376], pad=1, flip=True, held_out=0.75, split_seed=0)


def network(width: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = resnet(depth=8, width=width, shortcut="conv", in_channels=1, num_classes=10)
    return nn.Sequential(model, nn.Dropout(0.0))


def kd_for(stop: int | None) -> Distill:
    def loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return kd(student, teacher, labels, temperature=4.0)

    return Distill(
        stages=["finetune"], ce_weight=0.5, terms={"kd": WeightedTerm(loss=loss, weight=0.5, stop_epoch=stop)}
    )


def plain(recipe: Recipe, model: nn.Module, data: MemoryData, device: torch.device) -> tuple[Objective, Hooks]:
    return cross_entropy(recipe), Hooks()


def with_teacher(recipe: Recipe, model: nn.Module, data: MemoryData, device: torch.device) -> tuple[Objective, Hooks]:
    """Which is asked in two of three epochs, so that the recorded step is another one then."""
    return kd_for(2).objective(recipe, network(6, 1).to(device), model, SHAPE), Hooks()


def with_kept_logits(
    recipe: Recipe, model: nn.Module, data: MemoryData, device: torch.device
) -> tuple[Objective, Hooks]:
    random = torch.Generator().manual_seed(0)
    table = torch.randn(data.views * len(data.split()["train"]), 10, generator=random)
    return kd_for(None).objective(recipe, KeptLogits(table.to(device)), model, SHAPE), Hooks()


def with_penalty(recipe: Recipe, model: nn.Module, data: MemoryData, device: torch.device) -> tuple[Objective, Hooks]:
    return cross_entropy(recipe), l1_penalty(0.01, linear=False, device=device).hooks(lambda _: {})


def with_group_penalty(
    recipe: Recipe, model: nn.Module, data: MemoryData, device: torch.device
) -> tuple[Objective, Hooks]:
    method: GroupSparsity = make(compose_config("method=group_sparsity")["method"])
    problem = make_problem(model, data, Budget("percent", 0.5), device, 0, network)
    return cross_entropy(recipe), method.penalty(problem).hooks(lambda _: {})


def with_growing_masks(
    recipe: Recipe, model: nn.Module, data: MemoryData, device: torch.device
) -> tuple[Objective, Hooks]:
    def begin_epoch(trained: nn.Module, epoch: int) -> None:
        if epoch > 1:
            weight = trained.get_parameter("0.linear.weight")
            set_masks(trained, {"0.linear": torch.arange(weight.numel()).view_as(weight) % 4 >= epoch - 1})

    return cross_entropy(recipe), Hooks(begin_epoch=begin_epoch)


def trained_by(
    given: Any, recipe: Recipe, data: Any, folder: Path, device: torch.device, model: nn.Module, on_row: Any
) -> list[JSON]:
    """Trains `model` in place by what `given` makes; the rows."""
    rows = list[JSON]()
    objective, hooks = given(recipe, model, data, device)
    folder.mkdir(exist_ok=True)

    def keep(row: JSON) -> None:
        rows.append(row)
        on_row(row)

    train(Training(
        model=model, data=data, recipe=recipe, objective=objective, work=StageFolder(folder, keep), stage="finetune",
        seed=0, device=device, hooks=hooks,
    ))  # fmt: skip
    return rows


def trained(
    given: Any, recorder: Recording | None, data: MemoryData, folder: Path, monkeypatch: pytest.MonkeyPatch,
    recipe: Recipe | None = None, on_row: Any = lambda row: None,
) -> tuple[nn.Module, list[JSON]]:  # fmt: skip
    """Trained by recorded steps: the weights, and the rows without times."""
    monkeypatch.setattr(loop, "_recorder", lambda training: recorder)
    recipe = recipe or make_recipe(epochs=3, batch_size=128, clip_norm=1.0, warmup_epochs=1.0)
    model = network()
    rows = trained_by(given, recipe, data, folder, CPU, model, on_row)
    return model, [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize(
    ("given", "recordings"),
    [
        (plain, 1),
        (with_teacher, 2),
        (with_kept_logits, 1),
        (with_penalty, 1),
        (with_group_penalty, 1),
        (with_growing_masks, 3),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_recorded_steps_are_the_steps_one_by_one(
    given: Any, recordings: int, few_digits: MemoryData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, statistics, rates, sums and figures; with a smaller last batch, and whatever recording does."""
    tapes = Tapes()
    model, rows = trained(given, tapes, few_digits, tmp_path / "replayed", monkeypatch)
    expected, expected_rows = trained(given, refuses, few_digits, tmp_path / "one by one", monkeypatch)
    assert same(model, expected)
    assert rows == expected_rows
    assert (tapes.recorded, tapes.replayed) == (recordings, 3 * 2)


def test_recorded_steps_are_an_ordinary_training_to_float_noise(
    few_digits: MemoryData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which has another implementation of the optimizer, and a rate that is no tensor."""
    model, _ = trained(plain, Tapes(), few_digits, tmp_path / "replayed", monkeypatch)
    ordinary, _ = trained(plain, None, few_digits, tmp_path / "ordinary", monkeypatch)
    for one, other in zip(model.parameters(), ordinary.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_resumed_training_of_recorded_steps_is_the_uninterrupted_one(
    few_digits: MemoryData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def die(row: JSON) -> None:
        if row["epoch"] == 2:
            raise KilledError

    whole, _ = trained(with_penalty, Tapes(), few_digits, tmp_path / "whole", monkeypatch)
    with pytest.raises(KilledError):
        trained(with_penalty, Tapes(), few_digits, tmp_path / "killed", monkeypatch, on_row=die)
    again, rows = trained(with_penalty, Tapes(), few_digits, tmp_path / "killed", monkeypatch)
    assert same(whole, again)
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_what_cannot_be_recorded_is_told_once_and_trained_step_by_step(
    few_digits: MemoryData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    trained(plain, refuses, few_digits, tmp_path / "a", monkeypatch)
    assert [line for line in caplog.messages if "graph" in line] == [
        "finetune: steps one by one, not as a CUDA graph: for a reason"
    ]
    with pytest.raises(InputError, match=r"^graphs=on: a step cannot be recorded \(for a reason\); use auto or off$"):
        trained(plain, refuses, few_digits, tmp_path / "b", monkeypatch, make_recipe(batch_size=128, graphs="on"))


class Looking(nn.Module):
    """Decides by a value, or by a number drawn on the host."""

    def __init__(self, draws: bool) -> None:
        super().__init__()
        self.head, self.draws = nn.Linear(64, 10), draws

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        decided = torch.rand(()) if self.draws else x.sum()
        return self.head(torch.where(decided > 0.5, x, -x) if self.draws else x if decided > 0 else -x)


@pytest.mark.parametrize(("draws", "why"), [(True, "random numbers on the CPU"), (False, "waits for the device")])
def test_a_network_that_decides_on_the_host_is_trained_step_by_step(
    draws: bool, why: str, few_digits: MemoryData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    monkeypatch.setattr(loop, "_recorder", lambda training: Tapes())
    recipe = make_recipe(epochs=1, batch_size=128)
    train(Training(
        model=Looking(draws), data=few_digits, recipe=recipe, objective=cross_entropy(recipe),
        work=StageFolder(tmp_path), stage="finetune", seed=0, device=CPU,
    ))  # fmt: skip
    assert any(why in line for line in caplog.messages)


@pytest.mark.parametrize("given", [plain, with_teacher, with_kept_logits, with_penalty, with_growing_masks])
def test_no_step_waits_for_the_device(
    given: Any, few_digits: MemoryData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order, augmentation, step, sums: all but what stands at the beginning and the end of an epoch."""
    next(few_digits.shuffled(128, 0, CPU))  # images and normalisation are copied to the device once
    reads, steps, told = HostReads(), loop._Loop._steps, list[int]()

    def watched(self: Any, epoch: int) -> None:
        with monkeypatch.context() as patch, reads:
            for name in ("tolist", "numpy", "cpu"):  # which on a CPU are no operations
                patch.setattr(Tensor, name, lambda *_, name=name: reads.found.append(name))
            steps(self, epoch)
        told.append(epoch)

    monkeypatch.setattr(loop._Loop, "_steps", watched)
    recipe = make_recipe(epochs=3, batch_size=128, clip_norm=1.0)
    monkeypatch.setattr(loop, "_recorder", lambda training: None)
    model = network()
    objective, hooks = given(recipe, model, few_digits, CPU)
    train(Training(
        model=model, data=few_digits, recipe=recipe, objective=objective, work=StageFolder(tmp_path), stage="s",
        seed=0, device=CPU, hooks=hooks,
    ))  # fmt: skip
    assert told == [1, 2, 3]
    assert reads.found == []


def test_graphs_without_a_card_are_refused_before_anything_runs() -> None:
    for key in ("pretrain", "finetune", "method.training"):
        asked = compose_config("device=cpu", "method=slimming", "percent=0.3", f"{key}.graphs=on")
        with pytest.raises(InputError) as refused:
            build(asked)
        wanted = f"{key}.graphs=on: needs a CUDA device, not cpu; use auto or off"
        assert wanted in refused.value.problems
    scratch = ("device=cpu", "method=slimming", "percent=0.3", "finetune.init=scratch")
    build(compose_config(*scratch, "finetune.graphs=on"))  # its recipe is that of `pretrain`
    with pytest.raises(InputError, match=r"^pretrain\.graphs=on: needs a CUDA device"):
        build(compose_config(*scratch, "pretrain.graphs=on"))


def test_graphs_are_for_steps_that_are_the_same_each_time(few_digits: MemoryData, tmp_path: Path) -> None:
    recipe = make_recipe()
    there = Training(
        model=network(), data=few_digits, recipe=recipe, objective=cross_entropy(recipe), work=StageFolder(tmp_path),
        stage="s", seed=0, device=torch.device("cuda"),
    )  # fmt: skip
    assert loop.obstacle_to_graphs(there) is None
    for hooks, why in (
        (Hooks(begin_step=lambda *_: None), "another one at every step"),
        (Hooks(on_gradient=lambda _: None), "may differ from step to step"),
        (Hooks(on_gradient=lambda _: None, gradient_state=tuple), None),
    ):
        found = loop.obstacle_to_graphs(dataclasses.replace(there, hooks=hooks))
        assert found is None if why is None else why in str(found)
