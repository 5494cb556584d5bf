"""Distillation losses on relations: how the classes of an image, and the images of a batch, stand to each other."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import OWN
from compress.schema.bounds import NonNegative, Positive

PUBLISHED = (1, 4)  # temperatures: of ImageNet, and of CIFAR-100


def dist(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: Positive,
    beta: NonNegative,
    gamma: NonNegative,
    tau2_scale: bool,
    eps: Positive,
) -> Tensor:
    """T^2 * (beta * inter + gamma * intra), where inter is 1 - the correlation of the student's and the teacher's
    softened probabilities over the classes of an image, intra over the images of a class; means over both:
    (B, C), (B, C), (B,) -> scalar.

    Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv:2205.10536, section 4.
    The factor T^2 (`tau2_scale`) is in the released code, which gave the published results, and not in the paper.
    Correlations do not shrink with T as a divergence does, so T^2 is a weight here: see `doubts`. `eps` is added to
    the product of the norms; it decides how much of the gradient is left to a class that is next to absent from the
    batch. intra is over the B images at hand: the part of one device, under several.
    """
    p, q = F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    inter = 1 - _correlations(p, q, eps).mean()
    intra = 1 - _correlations(p.T, q.T, eps).mean()
    scale = temperature * temperature if tau2_scale else 1.0
    return scale * (beta * inter + gamma * intra)


def _correlations(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """Pearson's correlation of the rows of (N, M) and (N, M): (N,)."""
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(1) / (norms + eps)


def doubts(settings: Mapping[str, Any], classes: int) -> list[str]:
    """What of these settings of `dist` is probably not meant."""
    temperature, found = settings["temperature"], []
    if settings["tau2_scale"] and temperature not in PUBLISHED:
        found.append(
            f"{OWN}temperature={temperature:g}: with {OWN}tau2_scale=true it is a weight too: the gradient grows "
            "about 12 times from 1 to 4, the published temperatures, for which the weight of this term was chosen"
        )
    if classes == 2 and settings["beta"]:
        found.append(f"{OWN}beta={settings['beta']:g}: of two classes this part is constant; only gamma's teaches")
    return found
