"""Distillation as an objective: weights over the epochs, sums, and what a run of every choice does."""

import functools
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONF, Command, compose_config, make_recipe
from test_losses import ORACLE, case
from torch import Tensor, nn
from torch.nn import functional as F

from compress.config.build import make
from compress.config.built_jobs import problems_of
from compress.config.command_line import mistakes, with_late_values
from compress.config.diagnose import diagnose
from compress.distill.distill import Distill, WeightedTerm
from compress.distill.losses import kd
from compress.errors import InputError, placed
from compress.io.files import read_rows
from compress.train.objective import Outputs, total

CHOICES = sorted(path.stem for path in (CONF / "distill").glob("*.yaml"))
ON_FEATURES = ["at", "hint", "reviewkd", "sp"]
ON_LOGITS = [choice for choice in CHOICES if choice not in ON_FEATURES]
KD4 = partial(kd, temperature=4.0)


@functools.cache
def shipped(choice: str, *more: str) -> Distill:
    """A choice of `distill=`, as a run gets it."""
    distill: Distill = make(compose_config("teacher=self", f"distill={choice}", *more)["distill"], "distill")
    return distill


def summed(distill: Distill, epoch: int, logits: tuple[Tensor, Tensor, Tensor]) -> float:
    """The loss of an epoch in float64."""
    terms = [term.weight_in(epoch) * term.of(*logits) for term in distill.terms.values()]
    return (distill.ce_weight * F.cross_entropy(logits[0], logits[2]) + sum(terms)).item()


def test_the_table_of_the_documentation_has_every_choice_with_its_numbers() -> None:
    page = (Path(__file__).parents[2] / "docs" / "distill.md").read_text()
    table = page.split("## Losses")[1].split("\n### ")[0]
    rows = [[cell.strip("` ") for cell in line.split("|")[1:-1]] for line in table.splitlines() if line[:3] == "| `"]
    rows = [row for row in rows if row[0] != "distill="]
    assert sorted(row[0] for row in rows) == ON_LOGITS
    for choice, _, *numbers, _ in rows:
        distill = shipped(choice)
        ((name, term),) = distill.terms.items()
        assert name == choice  # no two choices have terms of one name
        temperature = term.loss.keywords.get("temperature", math.nan)
        expected = [distill.ce_weight, term.weight, temperature, term.warmup_epochs]
        assert [float(cell or "nan") for cell in numbers] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("choice", "epoch", "key"),
    [
        ("kd", 1, "recipe_kd_mdistiller (0.1*CE+0.9*KD_T4)"),
        ("dist", 1, "recipe_dist_imagenet (1*CE+2*DIST_tau1)"),
        ("dist_t4", 1, "recipe_dist_cifar (1*CE+2*DIST_tau4)"),
        ("kd_z", 1, "recipe_kd_logitstd (0.1*CE+9*KDz_T2)"),
        ("dkd", 5, "recipe_dkd at 1-based epoch 5 (warm-up 5/20)"),
        ("dkd", 20, "recipe_dkd (1*CE+DKD), epoch>=20"),
        ("dkd", 240, "recipe_dkd (1*CE+DKD), epoch>=20"),
    ],
)
def test_what_is_shipped_is_the_published_recipe(choice: str, epoch: int, key: str) -> None:
    for of in "ABC":
        expected = ORACLE["logit_losses"][of][key]
        assert summed(shipped(choice), epoch, case(of)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("choice", "value"),
    [
        ("dkd_z", lambda a: 9 * a["dkd_logitstd_a1_b8_T2"]["total"]),
        ("nkd", lambda a: a["nkd_T1_g1.5"]["total"]),
        ("rld", lambda a: a["rld_a1_b8_aT1_T4"]["total"]),
    ],
)
def test_so_are_those_without_a_recipe_in_the_oracle(choice: str, value: Any) -> None:
    values = ORACLE["logit_losses"]["A"]
    assert summed(shipped(choice), 20, case("A")) == pytest.approx(values["ce"] + value(values), abs=1e-9)


# -- weights over the epochs


def test_the_weight_grows_by_whole_epochs_from_1_and_ends_after_the_last_one() -> None:
    term = WeightedTerm(weight=2.0, loss=KD4, warmup_epochs=4, stop_epoch=6)
    assert [term.weight_in(epoch) for epoch in range(1, 9)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 0.0, 0.0]
    assert WeightedTerm(weight=2.0, loss=KD4).weight_in(1) == 2.0


class Counting(nn.Module):
    """A teacher that counts how often it is asked."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.flatten(1)[:, :3]


def terms_at(epochs: list[float], **terms: WeightedTerm) -> tuple[list[dict[str, float]], int]:
    """The terms at each time, and how often the teacher was asked."""
    teacher, images = Counting(), torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    objective = Distill(stages=["finetune"], ce_weight=1.0, terms=terms).objective(
        make_recipe(), teacher, nn.Identity(), (1, 2, 2)
    )
    labels, logits = torch.tensor([0, 1, 2, 0]), -images.flatten(1)[:, :3]
    found = [objective(Outputs(logits), labels, images, at) for at in epochs]
    return [{name: value.item() for name, value in one.items()} for one in found], teacher.calls


def test_the_epoch_of_a_time_is_the_one_that_it_is_in() -> None:
    (begin, late, second, after), asked = terms_at(
        [0.05, 0.95, 1.05, 2.05], a=WeightedTerm(weight=1.0, loss=KD4, warmup_epochs=2, stop_epoch=2)
    )
    assert begin == late
    assert second["a"] == pytest.approx(2 * begin["a"])
    assert after == {"ce": begin["ce"], "a": 0.0}
    assert asked == 3  # no term needs the teacher in epoch 3


def test_a_term_that_stops_leaves_the_others_their_teacher() -> None:
    (first, second), asked = terms_at(
        [0.5, 1.5], a=WeightedTerm(weight=1.0, loss=KD4, stop_epoch=1), b=WeightedTerm(weight=0.5, loss=KD4)
    )
    assert list(first) == list(second) == ["ce", "a", "b"]
    assert second == {**first, "a": 0.0}
    assert asked == 2


# -- the objective


def test_the_weighted_sum_and_the_teachers_stillness() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.9)).train()
    distill = Distill(stages=["finetune"], ce_weight=0.1, terms={"kd": WeightedTerm(weight=0.9, loss=KD4)})
    student = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    loss = distill.objective(make_recipe(), teacher, student, (1, 2, 2))
    images, logits, labels = (
        torch.randn(5, 1, 2, 2),
        torch.randn(5, 3, requires_grad=True),
        torch.tensor([0, 1, 2, 0, 1]),
    )
    terms = loss(Outputs(logits), labels, images, 0.0)
    value = total(terms)
    on_labels, on_teacher = F.cross_entropy(logits, labels), KD4(logits, teacher(images), labels)
    expected = 0.1 * on_labels + 0.9 * on_teacher
    assert list(terms) == ["ce", "kd"]
    assert terms["ce"].item() == pytest.approx(0.1 * on_labels.item(), rel=1e-6)
    assert terms["kd"].item() == pytest.approx(0.9 * on_teacher.item(), rel=1e-6)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    value.backward()
    assert logits.grad is not None
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.training
    assert math.isfinite(value.item())


@pytest.mark.parametrize("choice", ON_LOGITS)
def test_losses_are_computed_in_float32_under_autocast(choice: str) -> None:
    """To the bit what they are without it, of the logits as bf16 gives them."""
    student, teacher, labels = case("B", torch.bfloat16)
    objective = shipped(choice).objective(make_recipe(), nn.Flatten(), nn.Identity(), (1, 2, 2))
    images = teacher[:, :, None, None]  # to which the teacher answers with its logits
    with torch.autocast("cpu", torch.bfloat16):
        mixed = objective(Outputs(student), labels, images, 30.0)
    plain = objective(Outputs(student.float()), labels, images.float(), 30.0)
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    assert {name: value.item() for name, value in mixed.items()} == {n: value.item() for n, value in plain.items()}


# -- what is refused


def test_a_distillation_without_terms_is_refused() -> None:
    with pytest.raises(InputError, match=r"^terms=\{\}: must name at least one"):
        Distill(stages=["finetune"], ce_weight=1.0, terms={})
    with pytest.raises(InputError, match="^terms.ce: is the name of the cross entropy"):
        Distill(stages=["finetune"], ce_weight=1.0, terms={"ce": WeightedTerm(weight=1.0, loss=kd)})
    stopping = {"kd": WeightedTerm(weight=1.0, loss=KD4, stop_epoch=3)}
    with pytest.raises(InputError, match="^ce_weight=0: nothing would be left to train by after epoch 3"):
        Distill(stages=["finetune"], ce_weight=0.0, terms=stopping)
    Distill(stages=["finetune"], ce_weight=0.1, terms=stopping)


def problems_with(classes: int, *choices: str) -> list[str]:
    """What `check` says of a list of choices, for so many classes."""
    try:
        shipped(f"[{','.join(choices)}]").check(classes)
    except InputError as error:
        return list(error.problems)
    return []


def test_two_classes_are_refused_by_name_before_a_run() -> None:
    for classes in (3, 10, 1000):
        assert problems_with(classes, *CHOICES) == []
    told = problems_with(2, *CHOICES)
    assert [line.partition(": ")[0] for line in told] == [
        f"terms.{name}" for name in ("dkd", "dkd_z", "kd_z", "nkd", "rld")
    ]
    assert all("needs 3 classes, not 2" in line for line in told)


def test_a_term_of_ones_own_that_is_no_loss_is_refused() -> None:
    wrong = {
        "each": lambda s, t, y: s - t,
        "number": lambda s, t, y: 1.0,
        "broken": lambda s, t, y: s @ t,
        "partial": kd,
    }
    terms = {name: WeightedTerm(weight=1.0, loss=loss) for name, loss in wrong.items()}
    with pytest.raises(InputError) as told:
        Distill(stages=["finetune"], ce_weight=1.0, terms=terms).check(10)
    first, second, third, fourth = told.value.problems
    assert first == "terms.each: must be a scalar tensor, not one of shape (2, 10)"
    assert second == "terms.number: must be a scalar tensor, not a float"
    assert third.startswith("terms.broken: cannot be computed (RuntimeError: ")
    assert fourth.startswith("terms.partial: cannot be computed (TypeError: kd() missing 1 required keyword-only")


def test_what_is_probably_not_meant_is_doubted() -> None:
    def doubts(classes: int, *overrides: str, epochs: int = 20) -> list[str]:
        return [placed(line, "distill") for line in shipped(*overrides).doubts(classes, epochs)]

    for choice in CHOICES:
        assert doubts(10, choice) == []
    key = "distill.terms.dist.loss"
    (told,) = doubts(10, "dist", f"{key}.temperature=2")
    assert told.startswith(f"{key}.temperature=2: with {key}.tau2_scale=true it is a weight too")
    (told,) = doubts(2, "dist")
    assert told.startswith(f"{key}.beta=1: of two classes this part is constant")
    assert doubts(10, "dist", f"{key}.temperature=2", f"{key}.tau2_scale=false") == []
    (told,) = doubts(10, "dkd", epochs=19)
    assert told.startswith("distill.terms.dkd.warmup_epochs=20: this stage trains for 19 only")


# -- sums by a list


def test_a_list_of_choices_adds_up_their_terms() -> None:
    both, other = shipped("[kd,dist]"), shipped("[dist,kd]")
    assert list(both.terms) == ["kd", "dist"]
    assert (both.ce_weight, other.ce_weight) == (1.0, 0.1)  # of the last
    logits = case("A")
    parts = [summed(shipped(choice), 1, logits) for choice in ("kd", "dist")]
    ce = F.cross_entropy(logits[0], logits[2]).item()
    assert summed(both, 1, logits) == pytest.approx(sum(parts) - 0.1 * ce, abs=1e-12)
    assert summed(other, 1, logits) == pytest.approx(sum(parts) - 1.0 * ce, abs=1e-12)
    assert len(shipped(f"[{','.join(CHOICES)}]").terms) == len(CHOICES)  # no two terms have one name
    for choice, name in (("kd", "kd"), ("[kd,dist]", "kd+dist")):
        assert compose_config("teacher=self", f"distill={choice}")["distill"]["name"] == name


def test_a_value_inside_of_a_swept_group_is_set_in_its_jobs() -> None:
    line = ["-m", "distill=dist,[kd,dist]", "distill.terms.dist.weight=1", "distill.stages=[finetune]", "seed=1,2"]
    swept = ["distill.terms.dist.weight=choice(1)", "distill.stages=choice([finetune])"]
    assert with_late_values(line) == [*line[:2], *swept, "seed=1,2"]
    more = ["-m", "teacher@teacher.first=zoo,self", "teacher.first.weight=2", "teacher.second.weight=2"]
    assert with_late_values(more) == [*more[:2], "teacher.first.weight=choice(2)", more[3]]
    alone = ["-m", "distill=dist", "distill.ce_weight=1", "seed=1,2"]
    added = ["-m", "distill=dist,kd", "+distill.own=1", "distill.ce_weight=1,2"]
    for unchanged in (alone, added, line[1:4], ["-m", "distill=dist,[kd"]):
        assert with_late_values(unchanged) == unchanged


def test_mistakes_in_a_list_are_told() -> None:
    assert mistakes(["distill=[kd,dist]"]) == mistakes(["-m", "distill=kd,[ kd, dist_t4 ],[dkd]"]) == []
    (told,) = mistakes(["distill=[kd,dist,kd]"])
    assert told == "distill=[kd,dist,kd]: kd is there twice; to count it more give distill.terms.kd.weight"
    for wrong in ("distill=[]", "distill=[{a: 1}]", "distill=[[kd]]", "distill=[kd", "distill=[kd,,dist]"):
        (told,) = mistakes([wrong])
        assert told.startswith(f"{wrong}: must be the name of a choice, or a list of names whose terms add up")
    assert mistakes(["model=[a,b]"]) != []
    (told,) = diagnose(["teacher=self", "distill=[kd,dits]"], problems_of)
    assert told.startswith("distill=dits: unknown choice; did you mean dist? choices: at, dist, ")


# -- runs


@pytest.mark.slow
def test_a_run_of_every_choice_and_of_a_sum(command: Command, tmp_path: Path) -> None:
    """One sweep of real runs with one dense network; of each the last epoch's rows."""
    small = ("model.depth=8", "model.width=4", "dataset.held_out=0.1", "method=filter_magnitude", "experiment=quick")
    fast = ("device=cpu", "plots=false", "tensorboard=false", "finetune.epochs=1", "stages=[pretrain,prune,finetune]")
    sums = [["kd", "dist"], ON_FEATURES]
    choices = [*ON_LOGITS, *(f"[{','.join(names)}]" for names in sums)]
    # with a setting inside of the swept group, which Hydra's composing before the sweep has not
    sweep = (
        f"distill={','.join(choices)}",
        "distill.stages=[finetune]",
        "hydra.sweep.subdir=${hydra.job.num}",
        "hydra.sweep.dir=out",
    )
    done = command("-m", *small, *fast, "teacher=self", *sweep)
    assert done.returncode == 0, done.stderr
    assert "reviewkd: compares [layer1, layer2, layer3] of the student with [layer1, layer2, layer3]" in done.stdout
    assert "finetune: distill.terms.at.weight=1000: of maps of 64, 16, 4 pixels this loss is 16 times" in done.stdout
    assert "finetune: distill.terms.dkd.warmup_epochs=20: this stage trains for 1 only" in done.stdout
    for number, names in enumerate([*([choice] for choice in ON_LOGITS), *sums]):
        (row,) = [row for row in read_rows(tmp_path / "out" / str(number)) if row["stage"] == "finetune"]
        parts = {key.removeprefix("loss_"): value for key, value in row.items() if key.startswith("loss_")}
        assert set(parts) == {"ce", *names}
        assert all(math.isfinite(part) and part > 0 for part in parts.values()), (names, parts)
        assert row["loss"] == pytest.approx(sum(parts.values()), abs=1e-5, rel=1e-6)
