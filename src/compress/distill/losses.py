"""Distillation losses on the logits of one image at a time: pure functions of student (B, C), teacher (B, C) and
labels (B,) to a scalar, a mean over the batch.

They compute in the dtype of the logits. Probabilities that may be tiny stand as logarithms, so that no gap between
logits makes a loss infinite. Losses on relations between images are in `relations`.
"""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import InputError
from compress.schema.bounds import Bound, NonNegative, Positive

STD_EPS = 1e-7  # as published


def kd(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: Positive) -> Tensor:
    """T^2 * KL(teacher || student) of the softened outputs.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", NIPS workshop 2014, arXiv:1503.02531,
    section 2. The mean is over the batch only; a common mistake is to average over the C classes too, a loss C times
    too small.
    """
    teacher_log_probs = F.log_softmax(teacher / temperature, dim=1)
    student_log_probs = F.log_softmax(student / temperature, dim=1)
    return temperature**2 * F.kl_div(student_log_probs, teacher_log_probs, reduction="batchmean", log_target=True)


def dkd(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: Positive, alpha: NonNegative, beta: NonNegative
) -> Tensor:
    """`kd` in two parts with weights of their own: alpha * (label against all other classes) + beta * (among the
    other classes).

    Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, arXiv:2203.08679, equation 7. The released code masks
    the label's logit by -1000 before it takes a softmax and its logarithm, which is infinite in float32 for
    gaps between logits of some hundreds; here everything is a logarithm.

    Raises:
        InputError: fewer than three classes.
    """
    _require_three(student)
    student, teacher = student / temperature, teacher / temperature
    others = ~_one_hot(labels, student)
    on_label = _binary_kl(_log_odds(teacher, labels), _log_odds(student, labels))
    log_p, log_q = _log_softmax_within(teacher, others), _log_softmax_within(student, others)
    among_others = (log_p.exp() * (log_p - log_q)).sum(1)
    return temperature**2 * (alpha * on_label + beta * among_others).mean()


def nkd(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: Positive, gamma: NonNegative) -> Tensor:
    """Cross entropy on the label weighted by the teacher's probability of it (T = 1), + gamma * T^2 * cross entropy
    among the other classes. Not 0 for a student that equals its teacher.

    Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss
    and Customized Soft Labels", ICCV 2023, arXiv:2303.13005; by the released code.

    Raises:
        InputError: fewer than three classes.
    """
    _require_three(student)
    log_p, log_q = (F.log_softmax(logits, dim=1).gather(1, labels[:, None]) for logits in (teacher, student))
    on_label = -(log_p.exp() * log_q).mean()
    others = ~_one_hot(labels, student)
    log_p, log_q = (_log_softmax_within(logits / temperature, others) for logits in (teacher, student))
    among_others = -(log_p.exp() * log_q).sum(1).mean()
    return on_label + gamma * temperature**2 * among_others


def rld(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: Positive,
    label_temperature: Positive,
    alpha: NonNegative,
    beta: NonNegative,
) -> Tensor:
    """As `dkd`, but for images on which the teacher is wrong: the label is to be as probable for the student as the
    teacher's first choice is for the teacher (alpha, with `label_temperature`); and only the classes that the teacher
    ranks below the label are compared among each other (beta, with `temperature`).

    Sun et al., "Knowledge Distillation with Refined Logits", ICCV 2025, arXiv:2408.07703; by the released code. If no
    class is below the label, the second part is 0.

    Raises:
        InputError: fewer than three classes.
    """
    _require_three(student)
    first_choice = _log_odds(teacher / label_temperature, teacher.argmax(1))
    on_label = _binary_kl(first_choice, _log_odds(student / label_temperature, labels))
    below = teacher < teacher.gather(1, labels[:, None])
    log_p, log_q = (_log_softmax_within(logits / temperature, below) for logits in (teacher, student))
    among_below = (log_p.exp() * (log_p - log_q)).sum(1)
    return (alpha * label_temperature**2 * on_label + beta * temperature**2 * among_below).mean()


def wttm(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    gamma: Annotated[float, Bound(gt=0, le=1)],
    weighted: bool,
) -> Tensor:
    """KL from the teacher's probabilities to the power gamma, normalised, to the student's at temperature 1.

    With `weighted` (WTTM; without it TTM) each image counts by the sum of these powers, which is large where the
    teacher is unsure: at most C^(1 - gamma).

    Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024, arXiv:2402.11148.
    """
    powers = gamma * F.log_softmax(teacher, dim=1)
    log_sums = powers.logsumexp(1, keepdim=True)
    each = ((powers - log_sums).exp() * (powers - log_sums - F.log_softmax(student, dim=1))).sum(1)
    return (log_sums[:, 0].exp() * each if weighted else each).mean()


def standardised(logits: Tensor) -> Tensor:
    """Logits (B, C) with mean 0 and standard deviation 1 (unbiased, over C - 1) in every row.

    Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv:2403.01427.

    Raises:
        InputError: fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise InputError(
            f"needs 3 classes, not {logits.shape[1]}: of two classes the standardised logits are 0.71 and -0.71 "
            "whatever the network says, so that nothing is learned"
        )
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (logits.std(dim=1, keepdim=True) + STD_EPS)


def _require_three(logits: Tensor) -> None:
    if logits.shape[1] < 3:
        raise InputError(
            f"needs 3 classes, not {logits.shape[1]}: with one class beside the label's, its part on the other "
            "classes is constant whatever the student says; take kd"
        )


def _one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """(B, C) of bool."""
    return labels[:, None] == torch.arange(logits.shape[1], device=logits.device)


def _log_softmax_within(logits: Tensor, kept: Tensor) -> Tensor:
    """(B, C): log softmax over the kept classes of each row; 0 at the others, also in a row that keeps none."""
    return F.log_softmax(logits.masked_fill(~kept, -torch.inf), dim=1).masked_fill(~kept, 0.0)


def _log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """(B,): log of p / (1 - p) of one class (B,) of each row, exact also where p is next to 0 or 1."""
    rest = logits.masked_fill(_one_hot(classes, logits), -torch.inf).logsumexp(1)
    return logits.gather(1, classes[:, None])[:, 0] - rest


def _binary_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """(B,): KL(teacher || student) of yes and no, given the log odds (B,) of yes."""
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return yes + no
