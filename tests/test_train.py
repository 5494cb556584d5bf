"""The training loop: schedules by hand, resume bit for bit, and clear ends."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import CPU, make_recipe
from torch import nn

from compress.data.memory import MemoryData
from compress.errors import InputError
from compress.io import stage_folder
from compress.io.files import read_rows
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import accuracy
from compress.models.resnet_cifar import resnet
from compress.schema.settings import Recipe
from compress.train.loop import Training, train
from compress.train.objective import cross_entropy, outputs_of, total, with_heads
from compress.train.schedule import learning_rate


def test_cosine_goes_from_peak_to_zero_through_half() -> None:
    recipe = make_recipe(epochs=10, lr=0.4)
    assert learning_rate(recipe, 0) == pytest.approx(0.4)
    assert learning_rate(recipe, 5) == pytest.approx(0.2)
    assert learning_rate(recipe, 10) == pytest.approx(0)


def test_linear_goes_from_peak_to_zero_after_the_hold() -> None:
    recipe = make_recipe(epochs=12, lr=0.4, schedule="linear", hold_epochs=2)
    assert [learning_rate(recipe, at) for at in (0, 2, 4.5, 7, 12)] == pytest.approx([0.4, 0.4, 0.3, 0.2, 0])


def test_warm_up_is_linear_and_hold_keeps_the_peak() -> None:
    recipe = make_recipe(epochs=20, lr=0.1, warmup_epochs=2.0, hold_epochs=3)
    assert [learning_rate(recipe, at) for at in (0, 1, 2, 2.9)] == pytest.approx([0, 0.05, 0.1, 0.1])
    assert learning_rate(recipe, 11.5) == pytest.approx(0.05)


@pytest.mark.parametrize("warmup", [0.0, 1.0, 5.0])
def test_hold_then_step_drops_where_the_recipe_says(warmup: float) -> None:
    steps = {"schedule": "step", "hold_epochs": 120, "step_epochs": 30}
    recipe = make_recipe(epochs=240, lr=0.05, warmup_epochs=warmup, **steps)
    rates = [learning_rate(recipe, at) for at in (149.9, 150, 179.9, 180, 210)]
    assert rates == pytest.approx([0.05, 0.005, 0.005, 0.0005, 0.00005])


def test_warm_up_covers_steps() -> None:
    recipe = make_recipe(epochs=20, lr=1.0, schedule="step", step_epochs=2, warmup_epochs=5.0)
    assert [learning_rate(recipe, at) for at in (4, 5, 5.9, 6, 8)] == pytest.approx([0.8, 1, 1, 0.1, 0.01])


def test_steps_without_a_hold_begin_at_the_peak() -> None:
    recipe = make_recipe(epochs=90, lr=0.1, schedule="step", step_epochs=30)
    assert [learning_rate(recipe, at) for at in (0, 29.9, 30, 60)] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_no_epochs_report_the_network_as_it_is(tiny: nn.Module, digit_data: MemoryData, tmp_path: Path) -> None:
    result = run(tiny, digit_data, make_recipe(epochs=0), tmp_path / "a")
    assert result["held_out_top1"] == result["best_held_out_top1"] > 0


def run(model: nn.Module, data: MemoryData, recipe: Recipe, folder: Path, **more: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    work = more.pop("work", None) or StageFolder(folder)
    settings = {"objective": cross_entropy(recipe), "stage": "pretrain", "seed": 3, "device": CPU} | more
    return train(Training(model=model, data=data, recipe=recipe, work=work, **settings))


def test_it_learns_the_digits(tiny: nn.Module, digit_data: MemoryData, tmp_path: Path) -> None:
    result = run(tiny, digit_data, make_recipe(epochs=6, lr=0.1), tmp_path / "a")
    assert accuracy(tiny, digit_data.ordered("test", 512, CPU)).top1 > 85
    assert result["best_held_out_top1"] >= result["held_out_top1"] > 80


class KilledError(Exception):
    pass


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return resnet(depth=8, width=8, shortcut="conv", in_channels=1, num_classes=10)


def killed_in(epoch: int, folder: Path, each_row: Callable[[], None] = lambda: None) -> StageFolder:
    """Of a training that is killed when it has written the row of an epoch, and not yet saved it."""

    def on_row(row: Any) -> None:
        each_row()
        if row["epoch"] == epoch:
            raise KilledError

    folder.mkdir(exist_ok=True)
    return StageFolder(folder, on_row)


@pytest.mark.parametrize(
    ("seconds", "killed", "resumed"),
    [(0.0, 2, 1), (5.0, 4, 2), (1000.0, 2, None)],
    ids=["every epoch", "every other epoch", "never"],
)
def test_a_resumed_training_equals_the_uninterrupted_one(
    seconds: float,
    killed: int,
    resumed: int | None,
    digit_data: MemoryData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An epoch takes four seconds by the clock of the saving."""
    clock = [0.0]
    monkeypatch.setattr(stage_folder, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def tick() -> None:
        clock[0] += 4

    recipe = make_recipe(epochs=killed + 1, checkpoint_seconds=seconds)
    whole = fresh()
    expected = run(whole, digit_data, recipe, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(fresh(), digit_data, recipe, tmp_path, work=killed_in(killed, tmp_path / "killed", tick))
    rows: list[Any] = []
    caplog.set_level("INFO")
    again, work = fresh(), StageFolder(tmp_path / "killed", rows.append)
    got = run(again, digit_data, recipe, tmp_path, work=work)
    told = [] if resumed is None else [f"pretrain: continues after epoch {resumed}"]
    assert [line for line in caplog.messages if "continues" in line] == told
    assert [row["epoch"] for row in rows] == list(range(1, killed + 2))
    assert [row["epoch"] for row in read_rows(tmp_path / "killed")] == list(range(1, killed + 2))
    assert {k: v for k, v in got.items() if k != "best_weights"} == {
        k: v for k, v in expected.items() if k != "best_weights"
    }
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_the_end_of_a_training_is_saved_however_soon_it_comes(digit_data: MemoryData, tmp_path: Path) -> None:
    recipe = make_recipe(epochs=2, checkpoint_seconds=1000.0)
    expected = run(fresh(), digit_data, recipe, tmp_path / "a")
    with_nothing_left = StageFolder(tmp_path / "a", lambda row: None)
    assert with_nothing_left.resumed is not None
    assert with_nothing_left.resumed["epoch"] == 2
    assert run(fresh(), digit_data, recipe, tmp_path, work=with_nothing_left)["epochs"] == expected["epochs"]


def test_a_loss_that_is_no_number_stops_with_what_to_try(
    tiny: nn.Module, digit_data: MemoryData, tmp_path: Path
) -> None:
    broken = copy.deepcopy(tiny)
    broken.bn1.momentum = 1e38  # it trains on, by the statistics of each batch
    broken.register_buffer("mask", torch.tensor(-torch.inf))
    with pytest.raises(InputError, match=r"^pretrain: bn1.running_\w+ is no longer finite in epoch 1"):
        run(broken, digit_data, make_recipe(), tmp_path / "b")
    with pytest.raises(
        InputError,
        match=r"^pretrain: the loss became .* in epoch 1 at .*; try lr=1e\+19, warmup_epochs=5 or clip_norm=",
    ):
        run(tiny, digit_data, make_recipe(lr=1e20), tmp_path / "a")


def test_early_stop_ends_without_progress(tiny: nn.Module, digit_data: MemoryData, tmp_path: Path) -> None:
    recipe = make_recipe(epochs=30, lr=1e-9, early_stop_epochs=2, momentum=0.0, weight_decay=0.0)
    assert run(tiny, digit_data, recipe, tmp_path / "a")["epochs"] < 30


def test_bf16_and_channels_last_train_too(tiny: nn.Module, digit_data: MemoryData, tmp_path: Path) -> None:
    recipe = make_recipe(epochs=1, amp="bf16", channels_last="on", label_smoothing=0.1, clip_norm=1.0)
    assert 0 < run(tiny, digit_data, recipe, tmp_path / "a")["held_out_top1"] <= 100
    assert next(tiny.parameters()).dtype == torch.float32


class Helped(nn.Module):
    """With a head that only exists in training, as googlenet has."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.side = nn.Linear(64, 8), nn.Linear(8, 10), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.body(x.mean(1).flatten(1)).relu()
        return (self.head(x), None, self.side(x)) if self.training else self.head(x)


def test_heads_that_only_exist_in_training_are_trained_too(digit_data: MemoryData, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Helped()
    before = model.side.weight.detach().clone()
    result = run(model, digit_data, make_recipe(epochs=1), tmp_path / "a")
    assert not torch.equal(model.side.weight, before)
    assert result["held_out_top1"] > 0
    images, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    answer, recipe = model.train()(images), make_recipe()
    outputs = outputs_of(answer, {})
    terms = with_heads(cross_entropy(recipe)(outputs, labels, images, 0.0), outputs, labels, recipe)
    plain = nn.functional.cross_entropy(answer[0], labels)
    assert torch.allclose(total(terms), plain + 0.3 * nn.functional.cross_entropy(answer[2], labels))
