"""Layers of our own that the channel graph knows by name."""

from torch import Tensor, nn
from torch.nn import functional as F


class ChannelPad(nn.Module):
    """Zero channels before and after the given ones: (B, C, H, W) -> (B, before + C + after, H, W).

    Two plain numbers, so that surgery can lower them when it takes padded channels out.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        return f"before={self.before}, after={self.after}"
