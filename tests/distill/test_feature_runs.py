"""Training a pruned student by its teacher's feature maps: adapters made for it, resumed with it, left behind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, Command, compose_config, make_recipe
from test_distill import ON_FEATURES, shipped
from test_features import LOSSES
from torch import Tensor, nn

import compress
from compress.config.built_jobs import problems_of
from compress.data.memory import MemoryData
from compress.distill.distill import Distill, Distillation
from compress.distill.feature_term import FeatureTerm
from compress.errors import InputError, placed
from compress.io.files import read_json, read_rows
from compress.io.stage_folder import StageFolder, read_progress
from compress.io.tensors import read_weights
from compress.models.resnet_cifar import resnet
from compress.parallel.collectives import ALONE, Team
from compress.parallel.helper_processes import Crew
from compress.train.loop import Training, train
from compress.train.objective import Tapped, outputs_of, total

IMAGE = (1, 8, 8)


def network(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return resnet(depth=8, width=width, shortcut="conv", in_channels=1, num_classes=10)


def pruned() -> nn.Module:
    """Cut from width 8 to widths that differ from group to group."""
    dense = network(8, 0)
    groups = compress.channel_groups(dense, IMAGE)
    widths = {group.name: range(1 + (3 * number) % (group.width - 1)) for number, group in enumerate(groups)}
    return compress.cut(dense, compress.Plan(widths))


def distillation(learner: nn.Module, *names: str, **changes: Any) -> Distillation:
    """Of these terms on features, as shipped but for the changes, with a teacher of width 6."""
    terms = {name: FeatureTerm(**{**vars(shipped(name).terms[name]), **changes}) for name in names}
    distill = Distill(stages=["finetune"], ce_weight=1.0, terms=terms)
    torch.manual_seed(2)
    return distill.objective(make_recipe(), network(6, 1), learner, IMAGE)


@pytest.mark.parametrize("names", [("at",), ("sp",), ("hint",), ("reviewkd",), ("hint", "at", "reviewkd")])
def test_a_pruned_student_learns_and_keeps_its_shape(names: Sequence[str]) -> None:
    """Gradients reach the student's first layer and every parameter of the adapters; nothing of the teacher moves."""
    student = pruned()
    assert [m.out_channels for m in student.modules() if isinstance(m, nn.Conv2d)] != [8, 8, 16, 32]
    before = {key: tensor.clone() for key, tensor in student.state_dict().items()}
    objective = distillation(student, *names)
    assert all(torch.equal(tensor, before[key]) for key, tensor in student.state_dict().items())
    assert set(objective.adapters) == set(names) & {"hint", "reviewkd"}
    taught_by = objective.teachers[""].network
    teacher = {key: tensor.clone() for key, tensor in taught_by.state_dict().items()}
    images, labels = torch.randn(6, *IMAGE), torch.arange(6)
    trained = Tapped(student, objective).train()
    terms = objective(outputs_of(*trained(images)), labels, images, 0.0)
    assert list(terms) == ["ce", *names]
    total({name: terms[name] for name in names}).backward()
    assert student.conv1.weight.grad.norm() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.adapters.parameters())
    assert all(
        torch.equal(tensor, teacher[key]) for key, tensor in objective.teachers[""].network.state_dict().items()
    )
    assert all(p.grad is None for p in objective.teachers[""].network.parameters())
    assert not any(
        module._forward_hooks for module in (*student.modules(), *objective.teachers[""].network.modules())
    )


def test_a_term_is_its_weight_times_the_loss_of_the_adapted_maps() -> None:
    student = pruned().eval()
    objective = distillation(student, "hint", "at")
    images, labels = torch.randn(6, *IMAGE), torch.arange(6)
    objective.adapters.eval()
    with torch.no_grad():
        terms = objective(outputs_of(*Tapped(student, objective).eval()(images)), labels, images, 3.0)
        first, second, third = _stages(student, images)
        one, two, three = _stages(objective.teachers[""].network, images)
        (adapted,) = objective.adapters["hint"]([second])
    assert terms["hint"].item() == pytest.approx(100 * LOSSES["hint"]([adapted], [two]).item(), rel=1e-5)
    attention = LOSSES["at"]([first, second, third], [one, two, three])
    assert terms["at"].item() == pytest.approx(1000 * attention.item(), rel=1e-5)


def _stages(model: nn.Module, images: Tensor) -> list[Tensor]:
    found = [torch.relu(model.bn1(model.conv1(images)))]
    for stage in (model.layer1, model.layer2, model.layer3):
        found.append(stage(found[-1]))
    return found[1:]


def test_features_and_adapters_are_in_float32_under_autocast() -> None:
    student = pruned()
    objective = distillation(student, "hint", "reviewkd", "at", "sp")
    images, labels = torch.randn(6, *IMAGE), torch.arange(6)
    seen: list[torch.dtype] = []
    for module in objective.adapters.modules():
        module.register_forward_hook(lambda m, a, out: seen.append(out.dtype) if isinstance(out, Tensor) else None)
    with torch.autocast("cpu", torch.bfloat16):
        answer, features = Tapped(student, objective)(images)
        assert features["layer1"].dtype == torch.bfloat16
        terms = objective(outputs_of(answer, features), labels, images, 30.0)
    assert {term.dtype for term in terms.values()} == set(seen) == {torch.float32}


def test_a_stopped_term_asks_nobody_and_leaves_zero_gradients() -> None:
    student = pruned()
    objective = distillation(student, "hint", stop_epoch=1)
    images, labels = torch.randn(6, *IMAGE), torch.arange(6)
    objective.teachers[""].network.forward = None  # type: ignore[method-assign]
    terms = objective(outputs_of(*Tapped(student, objective)(images)), labels, images, 1.0)
    assert terms["hint"].item() == 0
    terms["hint"].backward()
    assert all(p.grad is not None and not p.grad.any() for p in objective.adapters.parameters())


def test_wrong_modules_are_told_with_the_key_of_the_term() -> None:
    for changes, told in (
        ({"student": ["layer2"], "teacher": ["layer7"]}, "terms.at.teacher=[layer7]: layer7: no module of this"),
        (
            {"student": ["linear"], "teacher": ["layer2"]},
            "terms.at.student=[linear]: linear: returns (2, 10); must be",
        ),
        ({"ends": [-4]}, "terms.at.ends=[-4]: the student has the ends of stages [layer1, layer2, layer3], the"),
    ):
        with pytest.raises(InputError) as error:
            distillation(pruned(), "at", **changes)
        assert placed(error.value.lines[0], "distill").startswith(f"distill.{told}")


def test_the_published_weight_of_attention_is_doubted_on_small_images() -> None:
    (told,) = distillation(pruned(), "at", "hint").doubts()
    assert placed(told, "distill").startswith("distill.terms.at.weight=1000: of maps of 64, 16, 4 pixels")
    assert distillation(pruned(), "at", "sp", weight=62.5).doubts() == []


def test_wrong_modules_are_told_before_the_run() -> None:
    at = ("teacher=self", "distill=at")
    (told,) = problems_of(compose_config(*at, "distill.terms.at.student=[layer7]"))
    assert told.startswith("distill.terms.at.student=[layer7]: needs distill.terms.at.teacher too")
    both = ("distill.terms.at.student=[layer7]", "distill.terms.at.teacher=[layer1]")
    (told,) = problems_of(compose_config(*at, *both))
    assert told == "distill.terms.at.student=[layer7]: layer7: no module of this network; did you mean layer3?"
    (told,) = problems_of(compose_config(*at, both[1].replace("1", "9"), both[0].replace("7", "1")))
    assert told.startswith("distill.terms.at.teacher=[layer9]: layer9: no module")
    (told,) = problems_of(compose_config(*at, "distill.terms.at.ends=[0]"))
    assert told == "distill.terms.at.ends[0]=0: must be < 0"


def test_the_table_of_the_documentation_has_the_shipped_numbers() -> None:
    page = (Path(__file__).parents[2] / "docs" / "distill.md").read_text()
    table = page.split("## Features")[1].split("\n### ")[0]
    rows = [[cell.strip("` ") for cell in line.split("|")[1:-1]] for line in table.splitlines() if line[:3] == "| `"]
    found = {row[0]: row[2:7] for row in rows if row[0] != "distill="}
    assert sorted(found) == ON_FEATURES
    for name, (ce_weight, weight, warmup, ends, adapter) in found.items():
        distill = shipped(name)
        term = distill.terms[name]
        assert [float(cell) for cell in (ce_weight, weight, warmup)] == [
            distill.ce_weight,
            term.weight,
            term.warmup_epochs,
        ]
        assert ends == ("all" if term.ends is None else str(*term.ends))
        assert adapter == ("none" if term.adapter is None else term.adapter.func.__name__)
        assert (term.student, term.teacher, term.stop_epoch) == (None, None, None)


# -- training --------------------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


def trained(
    data: MemoryData, work: StageFolder, team: Team = ALONE, **changes: Any
) -> tuple[nn.Module, Distillation]:
    student = pruned()
    objective = distillation(student, "hint", "reviewkd", **changes)
    recipe = make_recipe(epochs=2, lr=0.01)
    what = {"model": student, "data": data, "recipe": recipe, "objective": objective, "work": work}
    train(Training(**what, stage="finetune", seed=0, device=CPU, team=team))
    return student, objective


def test_adapters_are_resumed_bit_for_bit_and_are_in_no_network(digit_data: MemoryData, tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, objective = trained(digit_data, StageFolder(tmp_path / "whole"))
    untrained = distillation(pruned(), "hint", "reviewkd").adapters.state_dict()
    assert {key.partition(".")[0] for key in untrained} == {"hint", "reviewkd"}
    for key, tensor in objective.adapters.state_dict().items():
        assert tensor.isfinite().all()
        if key.endswith("weight"):
            assert not torch.equal(tensor, untrained[key]), key

    def die(row: Any) -> None:
        if row["epoch"] == 2:
            raise KilledError

    with pytest.raises(KilledError):
        trained(digit_data, StageFolder(tmp_path / "killed", die))
    progress, _ = read_progress(tmp_path / "killed")
    assert progress is not None
    assert set(progress["state"]["model"]) == set(pruned().state_dict())
    assert set(progress["state"]["adapters"]) == set(untrained)
    resumed, its = trained(digit_data, StageFolder(tmp_path / "killed"))
    for one, other in ((whole, resumed), (objective.adapters, its.adapters)):
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert {key: t.shape for key, t in whole.state_dict().items()} == {
        k: t.shape for k, t in pruned().state_dict().items()
    }


def _trains_along(meet: Any, data: MemoryData, folder: Path) -> None:
    group = meet(CPU)
    group.serve(lambda order, team: _shared(data, folder, team))
    group.leave()


def _shared(data: MemoryData, folder: Path, team: Team) -> None:
    work = folder / str(team.rank)
    work.mkdir()
    student, objective = trained(data, StageFolder(work), team, stop_epoch=1)
    torch.save({**student.state_dict(), **objective.adapters.state_dict()}, work / "all")


@pytest.mark.slow
def test_two_processes_end_with_the_same_network_and_adapters(digit_data: MemoryData, tmp_path: Path) -> None:
    """Also where the terms stop after the first epoch: DDP waits for the same parameters in every step."""
    with Crew(2, CPU, 1, _trains_along, digit_data, tmp_path) as crew, crew.guarded(), crew.together("train") as team:
        _shared(digit_data, tmp_path, team)
    one, two = (torch.load(tmp_path / str(rank) / "all") for rank in (0, 1))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert all(tensor.isfinite().all() for tensor in one.values())


@pytest.mark.slow
def test_a_run_with_features_in_both_trainings_has_the_files_and_sizes_of_one_without(
    command: Command, tmp_path: Path
) -> None:
    small = ("model.depth=8", "model.width=4", "method=slimming", "percent=0.4", "experiment=quick", "device=cpu")
    fast = ("plots=false", "tensorboard=false", "finetune.epochs=1", "hydra.run.dir=out", "dataset.held_out=0.1")
    taught = ("teacher=self", "distill=[kd,hint,reviewkd]", "distill.stages=[sparsify,finetune]")
    done = command(*small, *fast, *taught)
    assert done.returncode == 0, done.stderr
    summary = read_json(tmp_path / "out" / "summary.json")
    results = summary["results"]
    rows = [row for row in read_rows(tmp_path / "out") if row["stage"] in ("sparsify", "finetune")]
    assert {row["stage"] for row in rows} == {"sparsify", "finetune"}
    for row in rows:
        parts = [row[f"loss_{name}"] for name in ("ce", "kd", "hint", "reviewkd")]
        assert row["loss"] == pytest.approx(sum(parts), abs=1e-4)
        assert all(part > 0 for part in parts)
    small_network = compress.load(tmp_path / "out")
    counted = sum(p.numel() for p in small_network.parameters())
    assert counted == results["pruned"]["params"] == results["finetuned"]["params"] < results["dense"]["params"]
    assert results["pruned"]["macs"] == results["finetuned"]["macs"] < results["dense"]["macs"]
    weights, _ = read_weights(tmp_path / "out" / "model.safetensors")
    assert set(weights) <= set(small_network.state_dict())
