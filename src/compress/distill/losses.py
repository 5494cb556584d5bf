"""Losses that make a student's outputs like a teacher's. Each is one pure function, evaluated in float32."""

from torch import Tensor
from torch.nn import functional as F

from compress.schema.bounds import Positive


def kd(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: Positive) -> Tensor:
    """T^2 * KL(teacher || student) of the softened outputs, mean over the batch: (B, C), (B, C), (B,) -> scalar.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", NIPS workshop 2014, arXiv:1503.02531,
    section 2. The mean is over the batch only; dividing by the classes too is a common slip, C times too small.
    """
    wanted = F.log_softmax(teacher / temperature, dim=1)
    given = F.log_softmax(student / temperature, dim=1)
    return temperature**2 * F.kl_div(given, wanted, reduction="batchmean", log_target=True)
