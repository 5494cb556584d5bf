"""On a card, `pytest -m gpu`: every method end to end, recorded steps, resuming, and the results of a CPU.

REHEARSE_ON_CPU=1 runs them without one, with operations written down in place of graphs, so that what is not about
the card is known to hold before one is at hand.
"""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, Command, livened, make_recipe, random_plan
from recording import Tapes
from test_graphs import (
    network,
    plain,
    trained_by,
    with_growing_masks,
    with_kept_logits,
    with_penalty,
    with_teacher,
)
from test_steps import Scripted
from torch import Tensor, nn

from compress.data.digits import digits
from compress.data.memory import MemoryData
from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.io.files import JSON, read_json, read_rows
from compress.measure.accuracy import accuracy, score_of
from compress.measure.latency import interleaved
from compress.prune.cost import cost_model
from compress.prune.latency.runtime import Where, pairs_of, runnable
from compress.prune.method import Problem
from compress.prune.order import channel_orders
from compress.prune.refit import Reconstructor, input_moments
from compress.prune.surgery import cut
from compress.schema.settings import Budget
from compress.search.scorers.recalibrate import Recalibration
from compress.search.scorers.refit import CalibrationSettings, Refit
from compress.train import loop
from compress.train.graphs import CannotRecordError, CudaGraphs
from compress.train.loop import Hooks
from compress.train.objective import cross_entropy

REHEARSED = bool(os.environ.get("REHEARSE_ON_CPU"))
CARD = torch.device("cpu" if REHEARSED else "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (REHEARSED or torch.cuda.is_available()), reason="needs a CUDA device"),
]
ALIKE = (
    1e-3  # relative distance of tensors of trainings whose sums differ in order; measured on the weights of few steps
)
GIVEN = [plain, with_teacher, with_kept_logits, with_penalty, with_growing_masks]


@pytest.fixture
def exact() -> Iterator[None]:
    """Whole float32 and fixed kernels, so that what is compared differs by the order of sums at most."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = before


@pytest.fixture(scope="module")
def few_digits() -> MemoryData:
    return digits(image_size=None, mean=[0.3053], std=[0.376], pad=1, flip=True, held_out=0.75, split_seed=0)


def distance(one: nn.Module, other: nn.Module) -> float:
    """The largest relative distance of a tensor with fractions."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(
        float((a.cpu().double() - b.cpu().double()).norm() / (b.cpu().double().norm() + 1e-6))
        for a, b in pairs
        if a.is_floating_point()
    )


def trained(
    given: Any, data: Any, folder: Path, graphs: str, device: torch.device = CARD, model: nn.Module | None = None,
    on_row: Any = lambda row: None, **changes: Any,
) -> tuple[nn.Module, list[JSON]]:  # fmt: skip
    recipe = make_recipe(**{"epochs": 3, "batch_size": 128, "warmup_epochs": 1.0, "graphs": graphs} | changes)
    model = model or network()
    return model, trained_by(given, recipe, data, folder, device, model, on_row)


@pytest.fixture(autouse=True)
def rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    if REHEARSED:
        chosen = loop._recorder
        monkeypatch.setattr(loop, "_recorder", lambda t: Tapes() if t.recipe.graphs == "on" else chosen(t))


# -- recorded steps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.usefixtures("exact")
def test_graphs_give_the_weights_and_rows_of_steps_one_by_one(
    given: Any, few_digits: MemoryData, tmp_path: Path
) -> None:
    one, rows = trained(given, few_digits, tmp_path / "graph", "on")
    other, expected = trained(given, few_digits, tmp_path / "eager", "off")
    assert distance(one, other) < ALIKE
    for row, wanted in zip(rows, expected, strict=True):
        assert row.keys() == wanted.keys()
        assert row["lr"] == wanted["lr"]
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-2)


@pytest.mark.parametrize("changes", [{"amp": "bf16", "channels_last": "on"}, {"clip_norm": 0.5}, {"momentum": 0.0}])
def test_graphs_take_every_recipe(changes: dict[str, Any], few_digits: MemoryData, tmp_path: Path) -> None:
    model, rows = trained(plain, few_digits, tmp_path, "on", **changes)
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.usefixtures("exact")
def test_dropout_draws_anew_in_a_replayed_step(few_digits: MemoryData, tmp_path: Path) -> None:
    """The same numbers as step by step, so also others at every step."""
    if REHEARSED:
        pytest.skip("numbers drawn on a CPU are not recorded")

    def dropping() -> nn.Module:
        model = network()
        model.append(nn.Sequential(nn.Linear(10, 64), nn.Dropout(0.5), nn.Linear(64, 10)))
        return model

    torch.manual_seed(0)
    first = dropping()
    one, _ = trained(plain, few_digits, tmp_path / "graph", "on", model=copy.deepcopy(first))
    other, _ = trained(plain, few_digits, tmp_path / "eager", "off", model=copy.deepcopy(first))
    assert distance(one, other) < ALIKE


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("graphs", ["on", "off"])
def test_a_resumed_training_is_the_uninterrupted_one(graphs: str, few_digits: MemoryData, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def die(row: JSON) -> None:
        if row["epoch"] == 2:
            raise KilledError

    whole, _ = trained(with_penalty, few_digits, tmp_path / "whole", graphs)
    with pytest.raises(KilledError):
        trained(with_penalty, few_digits, tmp_path / "killed", graphs, on_row=die)
    again, rows = trained(with_penalty, few_digits, tmp_path / "killed", graphs)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert distance(again, whole) < ALIKE


def test_a_training_goes_on_on_another_device(few_digits: MemoryData, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def die(row: JSON) -> None:
        if row["epoch"] == 2:
            raise KilledError

    with pytest.raises(KilledError):
        trained(plain, few_digits, tmp_path, "on", on_row=die)
    _, rows = trained(plain, few_digits, tmp_path, "off", device=CPU)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["loss"] < rows[0]["loss"]


class Looking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        return self.head(x if x.sum() > 0 else -x)


def test_a_network_that_looks_at_values_is_told_and_trained_step_by_step(
    few_digits: MemoryData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if REHEARSED:
        pytest.skip("graphs=auto is off on a CPU")
    caplog.set_level("INFO")
    _, rows = trained(plain, few_digits, tmp_path / "auto", "auto", model=Looking())
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert sum("not as a CUDA graph" in line for line in caplog.messages) == 1
    with pytest.raises(InputError, match=r"^graphs=on: a step cannot be recorded"):
        trained(plain, few_digits, tmp_path / "on", "on", model=Looking())
    trained(plain, few_digits, tmp_path / "after", "on")  # the failure has left the device usable


def test_what_waits_is_refused_before_it_is_recorded() -> None:
    if REHEARSED:
        pytest.skip("of CUDA")
    value = torch.ones((), device=CARD)
    with pytest.raises(CannotRecordError):
        CudaGraphs(CARD)(lambda: print(value.item()))
    seen = torch.zeros((), device=CARD)

    def add() -> None:
        seen.add_(1)

    replay = CudaGraphs(CARD)(add)
    seen.zero_()
    replay()
    assert float(seen) == 1


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("graphs", ["on", "off"])
def test_no_step_waits_for_the_card(
    given: Any, graphs: str, few_digits: MemoryData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second epoch on: before that images are copied, and a step is recorded."""
    steps, told = loop._Loop._steps, list[int]()

    def watched(self: Any, epoch: int) -> None:
        told.append(epoch)
        if epoch == 1 or REHEARSED or (self.replayed is not None and given in (with_teacher, with_growing_masks)):
            steps(self, epoch)  # those are recorded anew
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            steps(self, epoch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop._Loop, "_steps", watched)
    trained(given, few_digits, tmp_path, graphs)
    assert told == [1, 2, 3]


CALIBRATION = CalibrationSettings(
    images=200, batch_size=50, points=4, augmented=False, repeats=False, doubles_bias=False
)


@pytest.mark.parametrize(
    "make",
    [Refit(calibration=CALIBRATION, score_images=200), Recalibration(images=200, batch_size=50, score_images=200)],
)
def test_a_candidate_waits_for_the_card_for_its_score_only(
    make: Any, digit_data: MemoryData, recwarn: pytest.WarningsRecorder
) -> None:
    """Of the least squares no layer here has two groups at its inputs: such a one waits once, for its ridge."""
    torch.manual_seed(0)
    layers = [layer for width in (1, 16, 16) for layer in (nn.Conv2d(width, 16, 3), nn.BatchNorm2d(16), nn.ReLU())]
    model = livened(nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 10))).eval()
    graph = channel_graph(model, digit_data.shape)
    costs = cost_model(model, graph, digit_data.shape)
    problem = Problem(model.to(CARD), graph, costs, digit_data, Budget("preserve_ratio", 0.5), CARD, 0)
    scorer = make(problem)
    scorer.score(tuple(group.width for group in graph))  # images are copied, factors and kernels chosen
    scorer.score(tuple(group.width // 2 for group in graph))
    recwarn.clear()
    if not REHEARSED:
        torch.cuda.set_sync_debug_mode("warn")
    try:
        assert scorer.score(tuple(group.width // 4 for group in graph)) is not None
    finally:
        if not REHEARSED:
            torch.cuda.set_sync_debug_mode("default")
    waited = [warning for warning in recwarn if "synchroniz" in str(warning.message).lower()]
    assert len(waited) <= 2, [str(warning.message) for warning in waited]


# -- the results of a CPU --------------------------------------------------------------------------------------


class OnDevice(Scripted):
    def shuffled(self, batch_size: int, seed: int, device: torch.device) -> Iterator[Any]:
        for images, labels in super().shuffled(batch_size, seed, device):
            yield images.to(device), labels.to(device)

    def ordered(self, part: str, batch_size: int, device: torch.device) -> Iterator[Any]:
        for images, labels in super().ordered(part, batch_size, device):
            yield images.to(device), labels.to(device)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("graphs", ["on", "off"])
def test_the_same_batches_train_the_weights_of_a_cpu(graphs: str, digit_data: MemoryData, tmp_path: Path) -> None:
    """Augmentation is drawn by the device's own generator, so here the batches are written down."""
    batches = [(x, y) for x, y in digit_data.ordered("train", 128, CPU) if len(y) == 128]
    held_out = list(digit_data.ordered("held_out", 512, CPU))[:1]
    made = [
        trained(plain, OnDevice(batches, held_out * 3), tmp_path / device.type / how, how, device=device)
        for device, how in ((CARD, graphs), (CPU, "off"))
        if not (tmp_path / device.type).mkdir(exist_ok=True)
    ]
    (one, rows), (other, expected) = made
    assert distance(one, other) < 1e-2
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], rel=1e-3)


@pytest.mark.usefixtures("exact")
def test_what_a_search_measures_is_that_of_a_cpu(digit_data: MemoryData) -> None:
    """Accuracy, score, moments and refitted weights of a network, and its cut one."""
    model = livened(network(8)[0]).eval()
    there, graph = copy.deepcopy(model).to(CARD), channel_graph(model, (1, 8, 8))
    plan = random_plan(graph, 0.5)
    small, small_there = cut(model, graph, plan), cut(there, channel_graph(there, (1, 8, 8)), plan)
    assert distance(small_there, small) == 0
    held_out = [list(digit_data.ordered("held_out", 512, device)) for device in (CPU, CARD)]
    one, other = accuracy(small, held_out[0]), accuracy(small_there, held_out[1])
    assert other.top1 == pytest.approx(one.top1, abs=0.5)
    scores = [score_of(m, batches) for m, batches in ((small, held_out[0]), (small_there, held_out[1]))]
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[1].loss == pytest.approx(scores[0].loss, rel=1e-3)
    assert score_of(small_there, held_out[1], 101.0) is None
    found = []
    for on, batches in ((model, held_out[0]), (there, held_out[1])):
        images = [x for x, _ in batches]
        moments = input_moments(on, graph, images, 4, torch.Generator().manual_seed(0))
        orders = channel_orders(on, graph)
        first = {group.name: orders[group.name][: group.width // 2] for group in graph.groups}
        found.append(Reconstructor(on, graph, moments, orders).weights(first))
    assert found[0].keys() == found[1].keys()
    for name, weight in found[0].items():
        assert torch.allclose(found[1][name].cpu(), weight, rtol=1e-2, atol=1e-3), name


def test_latency_is_measured_on_the_device() -> None:
    model, where = network(), Where(CARD, "torch", 1, 2)
    passes = {"it": runnable(model, (1, 8, 8), where, pairs_of(model, (1, 8, 8)))}
    assert 0 < interleaved(passes, CARD, seconds=0.1, threads=1)["it"].median_ms < 1000


# -- whole runs ------------------------------------------------------------------------------------------------

TINY = (
    "experiment=quick", "model.depth=8", "model.width=8", f"device={CARD.type}", "threads=1", "seed=1", "plots=false",
    "tensorboard=false", "eval.latency_seconds=0.05", "pretrain.epochs=4", "finetune.epochs=2", "control=uniform",
)  # fmt: skip
RUNS = {
    "slimming": ("method=slimming", "percent=0.4", "method.training.epochs=2"),
    "group_sparsity": ("method=group_sparsity", "preserve_ratio=0.5", "method.training.epochs=2"),
    "filter_magnitude": ("method=filter_magnitude", "preserve_ratio=0.5"),
    "magnitude": ("method=magnitude", "percent=0.5", "control=null"),
    "amc": ("method=amc", "preserve_ratio=0.6"),
    "amc by walls": ("method=amc", "preserve_ratio=0.6", "method.agent_rule=walls"),
    "camc": ("method=camc", "preserve_ratio=0.6"),
    "metaprune": ("method=metaprune", "flops_limit=0.12", "method.hidden=4", "method.training.epochs=12"),
    "supernet": ("method=supernet", "flops_limit=0.12", "method.training.epochs=12"),
    "sample": ("method=sample", "preserve_ratio=0.6"),
    "sensitivity": ("method=sensitivity", "preserve_ratio=0.6"),
    "a teacher": ("method=filter_magnitude", "preserve_ratio=0.5", "teacher=self", "distill=kd"),
    "kept logits": (
        "method=filter_magnitude",
        "preserve_ratio=0.5",
        "teacher=self",
        "distill=kd",
        "distill.cache=on",
    ),
    "feature maps": ("method=filter_magnitude", "preserve_ratio=0.5", "teacher=self", "distill=at"),
    "bf16": ("method=filter_magnitude", "preserve_ratio=0.5", "pretrain.amp=bf16", "finetune.amp=bf16"),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_method_runs_to_its_table(name: str, command: Command, tmp_path: Path) -> None:
    asked = (*TINY, *RUNS[name], "hydra.run.dir=run")
    done = command(*asked)
    assert done.returncode == 0, done.stderr
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["status"] == "done"
    for row in summary["results"].values():
        assert row["latency_ms"] > 0
        assert (row["latency_device"] == torch.cuda.get_device_name(0)) if not REHEARSED else row["latency_device"]
    again = command(*(text.replace("=run", "=again") if "run.dir" in text else text for text in asked))
    assert again.returncode == 0, again.stderr
    assert "done in" not in again.stdout.replace("eval: done in", "")
    assert [row.get("epoch") for row in read_rows(tmp_path / "run")] == [
        row.get("epoch") for row in read_rows(tmp_path / "again")
    ]


def test_a_network_trained_on_a_card_goes_to_onnx(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = command(*TINY, *RUNS["filter_magnitude"], "eval.onnx=true", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "run" / "summary.json")["stages"]["eval"]["onnx_difference"] < 1e-4


def test_hooks_that_look_are_trained_step_by_step(few_digits: MemoryData, tmp_path: Path) -> None:
    seen: list[float] = []

    def looking(recipe: Any, model: nn.Module, data: Any, device: torch.device) -> Any:
        def look(trained: nn.Module) -> None:
            seen.append(float(next(trained.parameters()).detach().norm()))

        return cross_entropy(recipe), Hooks(on_gradient=look)

    trained(looking, few_digits, tmp_path, "auto")
    assert len(seen) == 9
    assert len(set(seen)) == 9
