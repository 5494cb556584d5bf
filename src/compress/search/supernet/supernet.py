"""`Supernet`: a skeleton and weights for any widths as one network that trains like any other.

The widths of a step are set by `use`, from a rule of `compress.search.supernet.rules`. What a candidate is worth is
measured with running statistics of its own (`calibrated`): Yu and Huang, "Universally Slimmable Networks and Improved
Training Techniques", ICCV 2019, arXiv:1903.05134, section 3.2; Liu et al., "MetaPruning", ICCV 2019,
arXiv:1903.10258, section 3.2. They are cumulative averages over a few batches, from fresh buffers, where published
code goes on with a moving average over a hundred: so that no candidate depends on those before it, and a tenth of the
images do. Everything but the batch norms is in eval mode meanwhile (no dropout), so that a candidate that is measured
again gets the same.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.measure.macs import in_eval_mode
from compress.search.supernet.crops import Widths, check_widths
from compress.search.supernet.hypernetwork import Generated
from compress.search.supernet.skeleton import Skeleton
from compress.search.supernet.weights import Shared

NARROWER = "narrower"  # what an objective taps: the module whose output is the logits of all widths but the first


class _Chosen:
    """The widths of the next forward passes. Copies of a supernet share it, as they share its parameters: DDP on GPUs
    runs a copy, and whoever trains calls `use` of the bare network."""

    def __init__(self, widths: tuple[Widths, ...]) -> None:
        self.widths = widths

    def __deepcopy__(self, memo: object) -> "_Chosen":
        return self


class Supernet(nn.Module):
    """Images (B, C, H, W) -> logits (B, classes) at the widths that are set; at first the full ones.

    If several widths are set, training runs them all: the answer is the first one's, and the logits of the others,
    (widths - 1, B, classes), are the output of the module `narrower`, for an objective to tap.

    Batch norm normalises by the batch, in eval mode too, as there are no running statistics; a candidate is scored
    with those that `calibrated` measures.
    """

    def __init__(self, skeleton: Skeleton, weights: Shared | Generated) -> None:
        super().__init__()
        assert not skeleton.own_norms
        self.skeleton, self.weights = skeleton, weights
        self.narrower = nn.Identity()
        self._chosen = _Chosen((skeleton.crops.full_widths,))

    def use(self, widths: Sequence[Sequence[int]]) -> None:
        """Set the widths of the next forward passes, at least one; each in the order of the groups.

        Raises:
            ValueError: not one width per group, or one that is not in [1, full width].
        """
        assert widths
        self._chosen.widths = tuple(check_widths(self.skeleton.crops.graph, each) for each in widths)

    def forward(self, images: Tensor) -> Any:
        first, *others = self._chosen.widths
        answer = self._run(images, first)
        if others and self.training:
            self.narrower(torch.stack([_logits(self._run(images, widths)) for widths in others]))
        return answer

    def _run(self, images: Tensor, widths: Widths) -> Any:
        return self.skeleton.run(images, self.weights.at(widths), widths)

    def calibrated(self, widths: Sequence[int], batches: Iterable[Tensor]) -> "Candidate":
        """The network at these widths with statistics of its own, measured on batches of images (B, C, H, W).

        Its weights are those of now: generated once, and not followed when the training goes on.

        Raises:
            ValueError: not one width per group, one that is not in [1, full width], or no batch.
        """
        chosen = check_widths(self.skeleton.crops.graph, widths)
        with torch.inference_mode(False), torch.no_grad():
            tensors = {name: tensor.clone() for name, tensor in self.weights.at(chosen).items()}
            device = next(self.weights.parameters()).device
            tensors |= self.skeleton.fresh_statistics(chosen, device)
            count = 0
            with self.skeleton.measuring():
                for images in batches:
                    self.skeleton.run(images, tensors, chosen)
                    count += 1
        if not count:
            raise ValueError("batches: must be one at least, to measure the statistics of batch norm")
        return Candidate(self.skeleton, chosen, tensors)


class Candidate(nn.Module):
    """A supernet at fixed widths, with statistics of its own: images (B, C, H, W) -> logits (B, classes), in eval
    mode and without gradients."""

    def __init__(self, skeleton: Skeleton, widths: Widths, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.skeleton, self.widths, self._tensors = skeleton, widths, tensors

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad(), in_eval_mode(self.skeleton):
            return _logits(self.skeleton.run(images, self._tensors, self.widths))


def _logits(answer: Any) -> Tensor:
    """Without those of auxiliary heads."""
    logits: Tensor = answer[0] if isinstance(answer, tuple) else answer
    return logits
