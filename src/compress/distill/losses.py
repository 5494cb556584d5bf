"""Distillation losses on logits. Each is a pure function, called with float32 tensors."""

from torch import Tensor
from torch.nn import functional as F

from compress.schema.bounds import Positive


def kd(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: Positive) -> Tensor:
    """T^2 * KL(teacher || student) of the softened outputs, mean over the batch: (B, C), (B, C), (B,) -> scalar.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", NIPS workshop 2014, arXiv:1503.02531,
    section 2. The mean is over the batch only; a common mistake is to average over the C classes too, a loss C times
    too small.
    """
    teacher_log_probs = F.log_softmax(teacher / temperature, dim=1)
    student_log_probs = F.log_softmax(student / temperature, dim=1)
    return temperature**2 * F.kl_div(student_log_probs, teacher_log_probs, reduction="batchmean", log_target=True)
