"""Losses against the oracle's numbers and their own laws."""

import json
import math

import pytest
import torch
from conftest import ORACLES, make_recipe
from torch import nn
from torch.nn import functional as F

from compress.distill.distill import Distill, WeightedTerm
from compress.distill.losses import kd
from compress.errors import InputError
from compress.train.objective import Outputs, total

ORACLE = json.loads((ORACLES / "distill.json").read_text())
CASE = ORACLE["inputs"]["A"]
STUDENT, TEACHER = (torch.tensor(CASE[key], dtype=torch.float64) for key in ("z_s", "z_t"))
LABELS = torch.tensor(CASE["y"])


@pytest.mark.parametrize("temperature", [1, 2, 4])
def test_kd_is_the_oracles(temperature: int) -> None:
    expected = ORACLE["logit_losses"]["A"][f"kd_T{temperature}"]
    assert kd(STUDENT, TEACHER, LABELS, temperature=temperature).item() == pytest.approx(expected, abs=1e-9)


def test_kd_gradient_is_the_oracles() -> None:
    student = STUDENT.clone().requires_grad_()
    kd(student, TEACHER, LABELS, temperature=4.0).backward()
    assert student.grad is not None
    expected = ORACLE["grad_wrt_z_s_caseA"]["kd_T4"]
    assert student.grad[0].tolist() == pytest.approx(expected["row0"], abs=1e-7)
    assert student.grad.norm().item() == pytest.approx(expected["l2"], abs=1e-7)


def test_kd_of_a_perfect_student_is_zero() -> None:
    assert kd(TEACHER + 3, TEACHER, LABELS, temperature=2.0).item() == pytest.approx(0, abs=1e-12)


def test_the_weighted_sum_and_the_teachers_stillness() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.9)).train()
    distill = Distill(
        stages=["finetune"], ce_weight=0.1,
        terms={"kd": WeightedTerm(weight=0.9, loss=lambda s, t, y: kd(s, t, y, temperature=4.0))},
    )  # fmt: skip
    student = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    loss = distill.objective(make_recipe(), teacher, student, (1, 2, 2))
    images, logits, labels = (
        torch.randn(5, 1, 2, 2),
        torch.randn(5, 3, requires_grad=True),
        torch.tensor([0, 1, 2, 0, 1]),
    )
    terms = loss(Outputs(logits), labels, images, 0.0)
    value = total(terms)
    on_labels, on_teacher = F.cross_entropy(logits, labels), kd(logits, teacher(images), labels, temperature=4.0)
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


def test_losses_are_computed_in_float32_under_autocast() -> None:
    kinds = []

    def spy(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        kinds.extend([student.dtype, teacher.dtype])
        return (student - teacher).square().mean()

    distill = Distill(stages=["finetune"], ce_weight=0.0, terms={"spy": WeightedTerm(weight=1.0, loss=spy)})
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with torch.autocast("cpu", torch.bfloat16):
        images = torch.randn(2, 1, 2, 2)
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        objective = distill.objective(make_recipe(), teacher, net, (1, 2, 2))
        objective(Outputs(net(images)), torch.tensor([0, 1]), images, 0.0)
    assert kinds == [torch.float32, torch.float32]


def test_a_distillation_without_terms_or_stages_is_refused() -> None:
    with pytest.raises(InputError, match=r"^terms=\{\}: must name at least one"):
        Distill(stages=["finetune"], ce_weight=1.0, terms={})
    with pytest.raises(InputError, match=r"^stages=\[\]: must name at least one"):
        Distill(stages=[], ce_weight=1.0, terms={"kd": WeightedTerm(weight=1.0, loss=kd)})
    with pytest.raises(InputError, match="^terms.ce: is the name of the cross entropy"):
        Distill(stages=["finetune"], ce_weight=1.0, terms={"ce": WeightedTerm(weight=1.0, loss=kd)})
