"""Distillation losses on feature maps: pure functions of the student's maps and the teacher's, one of each per tapped
module, (B, C, H, W) with channels and sizes of their own, to a scalar.

They compute in the dtype of the maps. The sum is over the pairs of maps.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor
from torch.nn import functional as F

from compress.errors import OWN

Maps = Sequence[Tensor]
AT_WEIGHT, AT_PIXELS = 1000, (32 * 32, 16 * 16, 8 * 8)  # published together, for images of CIFAR
HCL_SIZES = (4, 2, 1)  # of the pooled maps that are compared besides the whole ones


def at(students: Maps, teachers: Maps) -> Tensor:
    """Attention transfer: squared difference of the attention maps, the mean over images and pixels. The attention
    map is the mean of the squares over the channels, as a vector of length 1.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv:1612.03928, by the authors' code
    (the paper has the norm of the difference). Any two widths can be compared; of two sizes the larger one is
    averaged down.
    """
    return _sum(_attention_distance(s, t) for s, t in zip(students, teachers, strict=True))


def sp(students: Maps, teachers: Maps) -> Tensor:
    """Similarity preserving: squared difference of the B x B similarities of images, the mean over their pairs. A
    similarity is the inner product of two images' maps; each image's are a vector of length 1.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv:1907.09682, equation 4. Any two
    widths and sizes can be compared. The B images are those at hand: the part of one device, under several.
    """
    return _sum(
        (_similarities(t) - _similarities(s)).square().mean() for s, t in zip(students, teachers, strict=True)
    )


def hint(students: Maps, teachers: Maps) -> Tensor:
    """Mean squared difference of maps of one shape: an adapter has brought the student's to the teacher's.

    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv:1412.6550, equation 3; trained together with
    the labels, as Tian et al. (arXiv:1910.10699) do, not in a stage before.
    """
    return _sum(F.mse_loss(s, t) for s, t in zip(students, teachers, strict=True))


def reviewkd(students: Maps, teachers: Maps) -> Tensor:
    """Hierarchical context loss of maps of one shape, pair by pair, and of the means over the pixels of the last one:
    the student's come out of the adapter of this name, which has one map more than the teacher.

    Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, arXiv:2104.09044, section 3.3.
    """
    means = F.adaptive_avg_pool2d(teachers[-1], 1)
    return _sum(hcl(s, t) for s, t in zip(students, [*teachers, means], strict=True))


def hcl(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss of two maps (B, C, H, W): mean squared difference of the maps, of their averages over
    4 x 4 regions, over 2 x 2 and over all pixels, with weights 1, 1/2, 1/4, 1/8, divided by their sum. Maps that are
    no larger than a grid skip it."""
    sizes = [size for size in HCL_SIZES if size < min(student.shape[2:])]
    pooled = [(F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)) for size in sizes]
    weights = [0.5**level for level in range(1 + len(pooled))]
    distances = [F.mse_loss(s, t) for s, t in [(student, teacher), *pooled]]
    return _sum(w * d for w, d in zip(weights, distances, strict=True)) / sum(weights)


def at_doubts(weight: float, pixels: Sequence[int]) -> list[str]:
    """What of the weight of `at` is probably not meant, for maps of so many pixels.

    An attention map has length 1, so the mean over its pixels falls as they become more: on small images the same
    weight is a stronger one.
    """
    factor = sum(1 / count for count in pixels if count > 1) / sum(1 / count for count in AT_PIXELS)
    if not factor or 1 / 4 <= weight * factor / AT_WEIGHT <= 4:
        return []
    return [
        f"{OWN}weight={weight:g}: of maps of {', '.join(map(str, pixels))} pixels this loss is {factor:.2g} times "
        f"that of 1024, 256 and 64 pixels, for which {AT_WEIGHT} was published; that is {AT_WEIGHT / factor:.3g} here"
    ]


def _sum(values: Iterable[Tensor]) -> Tensor:
    first, *others = values
    for other in others:
        first = first + other
    return first


def _attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = _same_size(student, teacher)
    return (_attention(student) - _attention(teacher)).square().mean()


def _attention(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W), rows of length 1."""
    return F.normalize(maps.square().mean(1).flatten(1))


def _same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both averaged down to the smaller height and width."""
    height, width = (min(s, t) for s, t in zip(student.shape[2:], teacher.shape[2:], strict=True))
    return tuple(  # type: ignore[return-value]
        maps if maps.shape[2:] == (height, width) else F.adaptive_avg_pool2d(maps, (height, width))
        for maps in (student, teacher)
    )


def _similarities(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, B), rows of length 1."""
    flat = maps.flatten(1)
    return F.normalize(flat @ flat.T)
