"""What is minimised: named terms, features of taps, adapters that are trained beside the network and then dropped."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, make_recipe
from test_steps import Scripted, drawn_batches, held_out_scores, linear, run
from torch import Tensor, nn
from torch.nn import functional as F

from compress.data.memory import MemoryData
from compress.errors import InputError
from compress.io.stage_folder import StageFolder, read_progress
from compress.parallel import ddp
from compress.parallel.collectives import ALONE, Team
from compress.parallel.helper_processes import Crew
from compress.train import loop
from compress.train.loop import Hooks, Training, train
from compress.train.objective import CrossEntropy, MeasuredTerms, Outputs, Tapped, outputs_of, total


@dataclass(frozen=True)
class Two:
    """0.5 CE + 0.1 of the mean square of the logits, which grows with the epoch."""

    taps: tuple[str, ...] = ()
    adapters: nn.Module = field(default_factory=nn.ModuleDict)
    seen: list[float] = field(default_factory=list)

    def __call__(self, outputs: Outputs, labels: Tensor, images: Tensor, epoch: float) -> Mapping[str, Tensor]:
        self.seen.append(epoch)
        small = outputs.logits.square().mean()
        return {"ce": 0.5 * F.cross_entropy(outputs.logits, labels), "small": 0.1 * (1 + epoch) * small}


def test_a_step_on_two_terms_by_hand(tmp_path: Path) -> None:
    """The gradient of the squares in closed form, that of CE as (softmax - onehot) / B; no momentum, no decay."""
    model, batches, rows, objective = linear(), drawn_batches(6, 6), list[Any](), Two()
    recipe = make_recipe(epochs=1, batch_size=6, lr=0.4, momentum=0.0, weight_decay=0.0, schedule="constant")
    weight, bias = (parameter.detach().clone() for parameter in model[1].parameters())
    losses: dict[str, list[float]] = {"ce": [], "small": []}
    for (images, labels), epoch in zip(batches, (0.25, 0.75), strict=True):
        x = images.flatten(1)
        logits = x @ weight.T + bias
        losses["ce"].append(0.5 * float(F.cross_entropy(logits, labels)))
        losses["small"].append(0.1 * (1 + epoch) * float(logits.square().mean()))
        error = 0.5 * (logits.softmax(1) - F.one_hot(labels, 3)) / 6 + 0.1 * (1 + epoch) * 2 * logits / logits.numel()
        weight -= 0.4 * error.T @ x
        bias -= 0.4 * error.sum(0)
    data = Scripted(batches, held_out_scores(0))
    run(model, data, recipe, tmp_path, objective=objective, work=StageFolder(tmp_path, rows.append))
    assert objective.seen == [0.25, 0.75]
    assert torch.allclose(model[1].weight, weight, rtol=0, atol=1e-12)
    assert torch.allclose(model[1].bias, bias, rtol=0, atol=1e-12)
    means = {name: sum(values) / 2 for name, values in losses.items()}
    assert rows[0]["loss_ce"] == pytest.approx(means["ce"], abs=1e-6)
    assert rows[0]["loss_small"] == pytest.approx(means["small"], abs=1e-6)
    assert rows[0]["loss"] == pytest.approx(sum(means.values()), abs=1e-6)


def test_a_teacher_is_asked_first_and_without_the_guard_of_weight_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking at each of its calls would cost up to a seventh of its time, the order a twelfth of the step's."""
    guards: list[int] = [0]
    seen: list[tuple[str, int]] = []

    @contextmanager
    def guarded(*_: Any) -> Iterator[None]:
        guards[0] += 1
        yield
        guards[0] -= 1

    class WithTeacher(Two):
        by_view = False

        def ask(self, images: Tensor, epoch: float) -> str:
            seen.append(("teacher", guards[0]))
            return f"answer at {epoch}"

        def __call__(self, *args: Any) -> Mapping[str, Tensor]:
            *others, answer = args
            seen.append((answer, guards[0]))
            return super().__call__(*others)

    monkeypatch.setattr(loop, "guard", lambda *_: guarded)
    model = linear()
    model.register_forward_pre_hook(lambda *_: seen.append(("student", guards[0])) if model.training else None)
    recipe = make_recipe(epochs=1, batch_size=6)
    run(model, Scripted(drawn_batches(6), held_out_scores(0)), recipe, tmp_path, objective=WithTeacher())
    assert seen == [("teacher", 0), ("student", 1), ("answer at 0.5", 1)]


def test_a_single_term_is_what_is_minimised_and_needs_no_second_column(tmp_path: Path) -> None:
    term, rows = torch.tensor(2.0), list[Any]()
    assert total({"ce": term}) is term
    recipe = make_recipe(epochs=1, batch_size=6)
    run(
        linear(),
        Scripted(drawn_batches(6), held_out_scores(0)),
        recipe,
        tmp_path,
        work=StageFolder(tmp_path, rows.append),
    )
    assert "loss" in rows[0]
    assert not [key for key in rows[0] if key.startswith("loss_")]


@dataclass(frozen=True)
class Telling(Two):
    """And the mean of the labels, which in the second epoch is not told any more."""

    def __call__(self, outputs: Outputs, labels: Tensor, images: Tensor, epoch: float) -> Mapping[str, Tensor]:
        terms = super().__call__(outputs, labels, images, epoch)
        return MeasuredTerms(terms, {"label": labels.double().mean()} if epoch < 1 else {})


def test_figures_beside_the_terms_are_means_over_the_images_and_not_minimised(tmp_path: Path) -> None:
    batches, recipe = drawn_batches(6, 2), make_recipe(epochs=2, batch_size=6)
    ends, rows = [], list[Any]()
    for name, objective in (("plain", Two()), ("telling", Telling())):
        (tmp_path / name).mkdir()
        model, data = linear(), Scripted(batches, held_out_scores(0, 0))
        run(model, data, recipe, tmp_path, objective=objective, work=StageFolder(tmp_path / name, rows.append))
        ends.append(model[1].weight.detach())
    assert torch.equal(*ends)
    labels = torch.cat([labels for _, labels in batches]).double()
    assert rows[2]["label"] == pytest.approx(labels.mean().item(), abs=1e-6)
    assert not [row for row in (rows[0], rows[1], rows[3]) if "label" in row]


# -- features and adapters -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hint:
    """Cross entropy, and that the first layer's activations, through an adapter, are those of a fixed one."""

    adapters: nn.ModuleDict
    wanted: nn.Module
    taps: tuple[str, ...] = ("0",)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, outputs: Outputs, labels: Tensor, images: Tensor, epoch: float) -> Mapping[str, Tensor]:
        given = outputs.features["0"]
        self.shapes.append(tuple(given.shape))
        with torch.no_grad():
            wanted = self.wanted(images)
        return {
            "ce": CrossEntropy().of(outputs.logits, labels),
            "hint": 0.5 * (self.adapters["hint"](given) - wanted).square().mean(),
        }


def student() -> nn.Sequential:
    """Without batch norm, so that processes train what one does; works in place behind the layer that is tapped."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)
    )


def hint() -> Hint:
    torch.manual_seed(1)
    wanted = nn.Conv2d(1, 8, 3, padding=1).requires_grad_(False)
    return Hint(nn.ModuleDict({"hint": nn.Conv2d(4, 8, 1)}), wanted)


def hinted(data: MemoryData, work: StageFolder, team: Team = ALONE, **changes: Any) -> tuple[nn.Module, Hint, Any]:
    model, objective, recipe = student(), hint(), make_recipe(**({"epochs": 3, "lr": 0.02} | changes))
    what = {"model": model, "data": data, "recipe": recipe, "objective": objective, "work": work}
    return model, objective, train(Training(**what, stage="finetune", seed=0, device=CPU, team=team))


class KilledError(Exception):
    pass


def test_adapters_learn_beside_the_network_and_are_resumed_bit_for_bit(
    digit_data: MemoryData, tmp_path: Path
) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    whole, objective, result = hinted(digit_data, StageFolder(tmp_path / "whole"))
    assert list(whole.state_dict()) == list(student().state_dict())
    assert list(result["best_weights"]) == list(student().state_dict())
    assert not torch.equal(objective.adapters["hint"].weight, hint().adapters["hint"].weight)
    assert set(objective.shapes) == {(64, 4, 8, 8), (54, 4, 8, 8)}
    assert not whole[0]._forward_hooks

    def die(row: Any) -> None:
        if row["epoch"] == 2:
            raise KilledError

    with pytest.raises(KilledError):
        hinted(digit_data, StageFolder(tmp_path / "killed", die))
    resumed, its, _ = hinted(digit_data, StageFolder(tmp_path / "killed"))
    for one, other in ((whole, resumed), (objective.adapters, its.adapters)):
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_an_adapter_that_is_no_longer_finite_is_named(digit_data: MemoryData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^finetune: (the loss became|adapters\.hint)"):
        hinted(digit_data, StageFolder(tmp_path), lr=1e30)


def _trains_along(meet: Any, data: MemoryData, folder: Path) -> None:
    group = meet(CPU)
    group.serve(lambda order, team: _trained(data, folder, team))
    group.leave()


def _trained(data: MemoryData, folder: Path, team: Team) -> dict[str, Tensor]:
    work = folder / str(team.rank)
    work.mkdir()
    model, objective, _ = hinted(data, StageFolder(work), team, batch_size=359)  # a last batch of one image
    assert objective.shapes[0] == (359 // team.world_size + team.rank * (team.world_size - 1), 4, 8, 8)
    return {**model.state_dict(), **objective.adapters.state_dict()}


def test_two_processes_see_the_features_of_their_shares_and_train_the_adapters_of_one(
    digit_data: MemoryData, tmp_path: Path
) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    alone = _trained(digit_data, tmp_path / "one", ALONE)
    with (
        Crew(2, CPU, 1, _trains_along, digit_data, tmp_path / "two") as crew,
        crew.guarded(),
        crew.together("train") as team,
    ):
        assert (team.rank, team.world_size) == (0, 2)
        together = _trained(digit_data, tmp_path / "two", team)
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        assert float((together[name] - tensor).norm() / tensor.norm()) < 1e-5, name
    assert not list((tmp_path / "two" / "1").glob("*.pt"))  # rank 0 alone writes


def test_features_are_those_of_the_module_that_is_called(tiny: nn.Module) -> None:
    """Of a copy with synchronised batch norms too, and as they were before what follows works in place."""
    images = torch.randn(2, 1, 8, 8)
    objective = CrossEntropy(taps=("conv1", "bn1", "linear"))
    tapped = Tapped(tiny.eval(), objective)
    copied = ddp.with_sync_batch_norm(tapped)
    with torch.no_grad():
        stem = tiny.conv1(images)
        for called in (tapped, copied.eval()):
            answer, features = called(images)
            outputs = outputs_of(answer, features)
            assert list(outputs.features) == ["conv1", "bn1", "linear"]
            assert torch.equal(outputs.features["conv1"], stem)
            assert torch.equal(outputs.features["bn1"], tiny.bn1(stem))
            assert torch.equal(outputs.features["linear"], outputs.logits)
    assert not tiny.conv1._forward_hooks
    in_place = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    _, features = Tapped(in_place, CrossEntropy(taps=("0",)))(torch.eye(3))
    assert torch.equal(features["0"], in_place[0](torch.eye(3)))


def test_taps_that_are_no_module_or_return_no_tensor_are_refused(tiny: nn.Module) -> None:
    with pytest.raises(InputError, match=r"^layer1\.0\.bn3: no module of this network; did you mean layer1\.0\.bn"):
        Tapped(tiny, CrossEntropy(taps=("layer1.0.bn3",)))

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    tapped = Tapped(nn.Sequential(Pair()), CrossEntropy(taps=("0",)))
    with pytest.raises(InputError, match="^0: returns a tuple; only a tensor"):
        tapped(torch.ones(1))


# -- hooks -----------------------------------------------------------------------------------------------------


def test_a_step_begins_with_its_epoch_and_number(tmp_path: Path) -> None:
    """What a hook does there is in the forward pass: a method may draw a width, say, from (seed, epoch, step)."""
    model, asked, weights = linear(), list[tuple[int, int]](), list[Tensor]()

    def begin_step(trained: nn.Module, epoch: int, step: int) -> None:
        asked.append((epoch, step))
        weights.append(copy.deepcopy(trained.get_parameter("1.weight").detach()))
        with torch.no_grad():
            trained.get_parameter("1.weight").zero_()

    recipe = make_recipe(epochs=2, batch_size=6, lr=1e-12)
    rows: list[Any] = []
    data = Scripted([(torch.ones(6, 1, 1, 4).double(), torch.zeros(6).long())] * 2, held_out_scores(0, 0))
    with torch.no_grad():
        model[1].bias.zero_()
    hooks = Hooks(begin_step=begin_step)
    run(model, data, recipe, tmp_path, hooks=hooks, work=StageFolder(tmp_path, rows.append))
    assert asked == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [row["loss"] for row in rows] == pytest.approx([1.098612] * 2, abs=1e-6)  # log 3: no weight, no bias


def test_without_best_weights_none_are_kept_or_reported(tmp_path: Path) -> None:
    recipe = make_recipe(epochs=2, batch_size=6)
    data = Scripted(drawn_batches(6), held_out_scores(4, 0))
    result = run(linear(), data, recipe, tmp_path, hooks=Hooks(keep_best=False))
    assert result.keys() == {"epochs", "held_out_top1"}
    progress, _ = read_progress(tmp_path)
    assert progress is not None
    assert progress["state"]["best_weights"] == {}


def test_a_method_scores_its_network_itself_in_the_epochs_it_likes(tmp_path: Path) -> None:
    scores, rows = iter([None, 30.0, None, 20.0]), list[Any]()
    recipe = make_recipe(epochs=4, batch_size=6, early_stop_epochs=3)
    data = Scripted(drawn_batches(6), [])  # whose held-out images nobody asks for
    hooks = Hooks(score=lambda model: next(scores))
    result = run(linear(), data, recipe, tmp_path, hooks=hooks, work=StageFolder(tmp_path, rows.append))
    assert [row.get("score") for row in rows] == [None, 30.0, None, 20.0]
    assert (result["score"], result["best_score"], result["best_epoch"]) == (20, 30, 2)
