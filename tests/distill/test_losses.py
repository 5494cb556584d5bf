"""Losses against the oracle's numbers and their own laws."""

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from conftest import ORACLES
from torch import Tensor
from torch.nn import functional as F

from compress.distill.losses import dkd, kd, nkd, rld, standardised, wttm
from compress.distill.relations import dist
from compress.errors import InputError

ORACLE = json.loads((ORACLES / "distill.json").read_text())
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def case(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher and labels of a case of the oracle."""
    if name == "A":
        inputs = ORACLE["inputs"]["A"]
        student, teacher = (torch.tensor(inputs[key], dtype=torch.float64) for key in ("z_s", "z_t"))
        return student.to(dtype), teacher.to(dtype), torch.tensor(inputs["y"])
    i, j = torch.arange(8, dtype=torch.float64)[:, None], torch.arange(100, dtype=torch.float64)[None]
    student = 3 * torch.sin(0.9 * i + 1.7 * j + 0.3)
    teacher = 5 * torch.sin(0.9 * i + 1.7 * j) + 2 * torch.cos(0.5 * j - 0.2 * i)
    factor = {"B": 1, "C": 4}[name]
    return (factor * student).to(dtype), (factor * teacher).to(dtype), (7 * torch.arange(8) + 3) % 100


STUDENT, TEACHER, LABELS = case("A")


def of_standardised(loss: Loss) -> Loss:
    return lambda student, teacher, labels: loss(standardised(student), standardised(teacher), labels)


def dists(temperature: float, **changes: Any) -> Loss:
    return partial(
        dist, **{"temperature": temperature, "beta": 1.0, "gamma": 1.0, "tau2_scale": True, "eps": 1e-8, **changes}
    )


DKD = partial(dkd, alpha=1.0, beta=8.0)
RLD = partial(rld, temperature=4.0, label_temperature=1.0)
TARGET, OTHERS = {"alpha": 1.0, "beta": 0.0}, {"alpha": 0.0, "beta": 1.0}
# The losses of the oracle, by where their values stand.
LOSSES: dict[str, Loss] = {
    "kd_T1": partial(kd, temperature=1.0),
    "kd_T2": partial(kd, temperature=2.0),
    "kd_T4": partial(kd, temperature=4.0),
    "dist_tau1/inter": dists(1.0, gamma=0.0),
    "dist_tau1/intra": dists(1.0, beta=0.0),
    "dist_tau1/total": dists(1.0),
    "dist_tau4/inter": dists(4.0, gamma=0.0),
    "dist_tau4/intra": dists(4.0, beta=0.0),
    "dist_tau4/total": dists(4.0),
    "dist_tau4/total_without_tau2": dists(4.0, tau2_scale=False),
    "dkd_a1_b8_T4/tckd": partial(dkd, temperature=4.0, **TARGET),
    "dkd_a1_b8_T4/nckd": partial(dkd, temperature=4.0, **OTHERS),
    "dkd_a1_b8_T4/total": partial(DKD, temperature=4.0),
    "kd_logitstd_T2": of_standardised(partial(kd, temperature=2.0)),
    "kd_logitstd_T4": of_standardised(partial(kd, temperature=4.0)),
    "dkd_logitstd_a1_b8_T2/tckd": of_standardised(partial(dkd, temperature=2.0, **TARGET)),
    "dkd_logitstd_a1_b8_T2/nckd": of_standardised(partial(dkd, temperature=2.0, **OTHERS)),
    "dkd_logitstd_a1_b8_T2/total": of_standardised(partial(DKD, temperature=2.0)),
    "nkd_T1_g1.5/target": partial(nkd, temperature=1.0, gamma=0.0),
    "nkd_T1_g1.5/total": partial(nkd, temperature=1.0, gamma=1.5),
    "rld_a1_b8_aT1_T4/scd": partial(RLD, **TARGET),
    "rld_a1_b8_aT1_T4/mcd": partial(RLD, **OTHERS),
    "rld_a1_b8_aT1_T4/total": partial(RLD, alpha=1.0, beta=8.0),
    "ttm_g0.1": partial(wttm, gamma=0.1, weighted=False),
    "wttm_g0.1": partial(wttm, gamma=0.1, weighted=True),
}


def expected(name: str, of: str) -> float | None:
    node = ORACLE["logit_losses"][of]
    for key in name.split("/"):
        node = node.get(key, {})
    return node or None


@pytest.mark.parametrize(
    ("name", "of"), [(name, of) for of in "ABC" for name in LOSSES if expected(name, of) is not None]
)
def test_every_loss_is_the_oracles_and_in_float32_too(name: str, of: str) -> None:
    assert LOSSES[name](*case(of)).item() == pytest.approx(expected(name, of), abs=1e-10)
    in_float32 = LOSSES[name](*case(of, torch.float32))
    assert in_float32.dtype is torch.float32
    assert in_float32.item() == pytest.approx(expected(name, of), rel=1e-5, abs=1e-6)


def gradient(loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    student = student.clone().requires_grad_()
    loss(student, teacher, labels).backward()
    assert student.grad is not None
    return student.grad


@pytest.mark.parametrize("key", ["kd_T4", "dist_tau1", "dist_tau4", "dkd_a1_b8_T4", "kd_logitstd_T2", "nkd_T1_g1.5"])
def test_gradients_are_the_oracles(key: str) -> None:
    found = gradient(LOSSES.get(key) or LOSSES[f"{key}/total"], STUDENT, TEACHER, LABELS)
    assert found[0].tolist() == pytest.approx(
        ORACLE["grad_wrt_z_s_caseA"][key]["row0"], abs=6e-9
    )  # given to 8 digits
    assert found.norm().item() == pytest.approx(ORACLE["grad_wrt_z_s_caseA"][key]["l2"], abs=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, TEACHER, LABELS), (student,), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("temperature", ["1", "2", "4", "8"])
def test_a_temperature_is_a_weight_of_dist_and_none_of_kd(temperature: str) -> None:
    tau, oracle = float(temperature), ORACLE["grad_norm_vs_tau_caseA"][temperature]
    losses = {
        "dist_x_tau2": dists(tau),
        "raw_dist": dists(tau, tau2_scale=False),
        "kl_x_tau2": partial(kd, temperature=tau),
    }
    for key, loss in losses.items():
        assert gradient(loss, STUDENT, TEACHER, LABELS).norm().item() == pytest.approx(oracle[key], abs=1e-10)


# -- laws of all losses


@pytest.mark.parametrize("name", LOSSES)
def test_a_constant_added_to_a_row_changes_nothing(name: str) -> None:
    shifts = torch.tensor([[3.0], [-2.0], [0.5], [40.0]], dtype=torch.float64)
    value = LOSSES[name](STUDENT, TEACHER, LABELS).item()
    assert LOSSES[name](STUDENT + shifts, TEACHER - 2 * shifts, LABELS).item() == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_classes_and_images_have_no_order(name: str) -> None:
    value = LOSSES[name](STUDENT, TEACHER, LABELS).item()
    images, classes = torch.tensor([2, 0, 3, 1]), torch.tensor([3, 1, 4, 0, 2])
    renamed = torch.tensor([classes.tolist().index(label) for label in LABELS.tolist()])
    assert LOSSES[name](STUDENT[images], TEACHER[images], LABELS[images]).item() == pytest.approx(value, abs=1e-12)
    assert LOSSES[name](STUDENT[:, classes], TEACHER[:, classes], renamed).item() == pytest.approx(value, abs=1e-12)


def corners() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Batches (float32) at which a careless loss is not finite."""
    student, teacher, labels = case("B", torch.float32)
    far = torch.zeros(4, 5)
    far[0, 0], far[1, 1], far[2, 2], far[3, 3] = 600, -600, 600, -600
    never = student.clone()
    never[:, 7] = -600
    return {
        "a batch of one": (student[:1], teacher[:1], labels[:1]),
        "gaps of 600 in the student": (far, TEACHER.float(), LABELS),
        "gaps of 600 in the teacher": (STUDENT.float(), far, LABELS),
        "gaps of 600 that contradict": (far, -far, LABELS),
        "a class absent from the batch": (never, never.flip(0), labels),
        "a student without an opinion": (torch.zeros(4, 5), TEACHER.float(), LABELS),
        "a teacher without an opinion": (STUDENT.float(), torch.zeros(4, 5), LABELS),
        "the label last for the teacher": (STUDENT.float(), TEACHER.float(), TEACHER.argmin(1)),
        "three classes": (STUDENT[:, :3].float(), TEACHER[:, :3].float(), LABELS % 3),
    }


@pytest.mark.parametrize("where", corners())
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient_are_finite_in_every_corner(name: str, where: str) -> None:
    student, teacher, labels = corners()[where]
    student = student.clone().requires_grad_()
    value = LOSSES[name](student, teacher, labels)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    exact = LOSSES[name](student.detach().double(), teacher.double(), labels).item()
    assert value.item() == pytest.approx(exact, rel=2e-5, abs=2e-5)


def test_two_classes_are_refused_where_they_leave_nothing_to_learn() -> None:
    student, teacher, labels = STUDENT[:, :2], TEACHER[:, :2], torch.tensor([0, 1, 0, 1])
    for name in ("dkd_a1_b8_T4/total", "nkd_T1_g1.5/total", "rld_a1_b8_aT1_T4/total"):
        with pytest.raises(InputError, match="^needs 3 classes, not 2: .* is constant whatever the student says"):
            LOSSES[name](student, teacher, labels)
    with pytest.raises(InputError, match=r"^needs 3 classes, not 2: .* are 0.71 and -0.71"):
        LOSSES["kd_logitstd_T2"](student, teacher, labels)
    for name in ("kd_T4", "dist_tau4/total", "wttm_g0.1"):
        assert gradient(LOSSES[name], student, teacher, labels).norm() > 0.01


# -- laws of single ones


def test_a_perfect_student_is_left_alone() -> None:
    for loss in (LOSSES["kd_T2"], LOSSES["dkd_a1_b8_T4/total"]):
        assert loss(TEACHER + 3, TEACHER, LABELS).item() == pytest.approx(0, abs=1e-12)
    assert LOSSES["rld_a1_b8_aT1_T4/total"](TEACHER, TEACHER, TEACHER.argmax(1)).item() == pytest.approx(0, abs=1e-12)
    assert 0 < dists(1.0)(TEACHER, TEACHER, LABELS).item() < 1e-6  # what eps takes from a correlation of 1
    assert LOSSES["nkd_T1_g1.5/total"](TEACHER, TEACHER, LABELS).item() > 0.1  # a cross entropy


def test_kd_is_its_two_parts_with_the_weights_that_dkd_frees() -> None:
    for each in range(4):
        student, teacher, label = STUDENT[[each]], TEACHER[[each]], LABELS[[each]]
        of_label = (teacher / 4).softmax(1)[0, label.item()].item()
        parts = dkd(student, teacher, label, temperature=4.0, alpha=1.0, beta=1 - of_label)
        assert parts.item() == pytest.approx(kd(student, teacher, label, temperature=4.0).item(), abs=1e-12)


def test_dkd_at_a_gap_of_600_by_hand() -> None:
    """The student is sure of class 0, the teacher has no opinion, the label is 1; T = 4, so the gap is 150."""
    student, teacher, label = torch.tensor([[600.0, 0, 0]]), torch.zeros(1, 3), torch.tensor([1])
    on_label = 1 / 3 * (math.log(1 / 3) + 150) + 2 / 3 * math.log(2 / 3)
    among_others = 0.5 * (math.log(0.5) - 0) + 0.5 * (math.log(0.5) + 150)
    value = DKD(student, teacher, label, temperature=4.0).item()
    assert value == pytest.approx(16 * (on_label + 8 * among_others), rel=1e-6)


def test_rld_is_dkd_exactly_where_the_teacher_is_right() -> None:
    for each, same in enumerate((True, True, True, False)):
        one = STUDENT[[each]], TEACHER[[each]], LABELS[[each]]
        refined = rld(*one, temperature=4.0, label_temperature=4.0, alpha=1.0, beta=8.0).item()
        assert (abs(refined - DKD(*one, temperature=4.0).item()) < 1e-12) == same


def test_rld_without_a_class_below_the_label_has_its_first_part_only() -> None:
    lowest = TEACHER.argmin(1)
    assert LOSSES["rld_a1_b8_aT1_T4/mcd"](STUDENT, TEACHER, lowest).item() == 0


def test_ttm_is_a_temperature_of_the_teacher_alone() -> None:
    softened, log_probs = (TEACHER / 4).softmax(1), STUDENT.log_softmax(1)
    expected = F.kl_div(log_probs, softened, reduction="batchmean").item()
    assert wttm(STUDENT, TEACHER, LABELS, gamma=0.25, weighted=False).item() == pytest.approx(expected, abs=1e-12)
    unsure = torch.zeros_like(TEACHER)
    ratio = wttm(STUDENT, unsure, LABELS, gamma=0.25, weighted=True) / kd(STUDENT, unsure, LABELS, temperature=1.0)
    assert ratio.item() == pytest.approx(5**0.75)  # the largest weight of an image


def test_standardised_logits_forget_scale_and_shift() -> None:
    loss = LOSSES["kd_logitstd_T2"]
    assert loss(2 * TEACHER + 3, TEACHER, LABELS).item() == pytest.approx(0, abs=1e-12)
    plain = kd(2 * TEACHER + 3, TEACHER, LABELS, temperature=2.0).item()
    assert plain == pytest.approx(ORACLE["properties"]["plain: KD(2*z_t+3 , z_t) T2"], abs=1e-10)
    assert standardised(TEACHER).std(dim=1).tolist() == pytest.approx([1] * 4, abs=1e-6)


def test_dist_of_halves_of_a_batch_is_not_that_of_the_batch() -> None:
    student, teacher, labels = case("B")
    intra = LOSSES["dist_tau4/intra"]
    halves = [intra(student[part], teacher[part], labels[part]).item() for part in (slice(4), slice(4, None))]
    whole = intra(student, teacher, labels).item()
    expected = ORACLE["properties"]["dist intra batch halves averaged vs full (case B, tau4)"]
    assert [sum(halves) / 2, whole] == pytest.approx(expected, abs=1e-10)
    inter = LOSSES["dist_tau4/inter"]
    halves = [inter(student[part], teacher[part], labels[part]).item() for part in (slice(4), slice(4, None))]
    assert sum(halves) / 2 == pytest.approx(inter(student, teacher, labels).item(), abs=1e-12)


def test_of_one_image_or_two_classes_a_part_of_dist_teaches_nothing() -> None:
    one = STUDENT[:1], TEACHER[:1], LABELS[:1]
    assert dists(1.0, beta=0.0)(*one).item() == 1
    assert gradient(dists(1.0, beta=0.0), *one).norm() == 0
    assert gradient(dists(1.0), *one).norm() > 0.01
    two = STUDENT[:, :2], TEACHER[:, :2], LABELS % 2
    assert gradient(dists(1.0, gamma=0.0), *two).norm() < 1e-6
