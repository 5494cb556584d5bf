"""Layers as people write them, for the networks of `random_networks`: norms of one's own above all."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CallsSuper(nn.BatchNorm2d):
    """A batch norm of one's own that uses torch's forward."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class NormAct(nn.BatchNorm2d):
    """As timm writes it: the function called with the module's own tensors, an activation after it."""

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        return F.silu(F.batch_norm(x, mean, var, self.weight, self.bias, self.training, 0.1, self.eps))


class GatedNorm(nn.BatchNorm2d):
    """Own parameters beside those of the norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gate = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gate[:, None, None]


class LayerNorm2d(nn.LayerNorm):
    """A layer norm over the channels of maps."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class LayerNormByHand(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        deviation = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(deviation + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class RMSLast(nn.Module):
    """Over the last dimension."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.scale


class ResponseNorm(nn.Module):
    """Global response norm over the channels of maps (Woo et al., "ConvNeXt V2", CVPR 2023, arXiv:2301.00808)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.zeros(1, channels, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        energy = x.norm(2, (2, 3), keepdim=True)
        return self.gamma * (x * (energy / (energy.mean(1, keepdim=True) + 1e-6))) + self.beta + x


class ScaledLayerNorm(nn.LayerNorm):
    """Own parameters beside those of the norm, over the last dimension."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.temperature = nn.Parameter(torch.ones(1))
        self.after = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.after * self.temperature


class ConditionalNorm(nn.LayerNorm):
    """Adaptive layer norm: scale and shift come from another input."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__(channels, elementwise_affine=False)
        self.project = nn.Linear(condition, 2 * channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.project(condition).unsqueeze(1).chunk(2, -1)
        return super().forward(x) * (1 + scale) + shift


class ConditionalBatchNorm(nn.Module):
    """A norm without affine parameters, scaled by tables of a condition."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gamma, self.beta = nn.Linear(condition, channels), nn.Linear(condition, channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gamma, beta = self.gamma(condition)[..., None, None], self.beta(condition)[..., None, None]
        return self.norm(x) * (1 + gamma) + beta


class ConditionalGroupNorm(nn.GroupNorm):
    """Extra inputs that are given from outside, by keyword."""

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = super().forward(x)
        return x if scale is None else x * (1 + scale[..., None, None])


class NormThenMix(nn.GroupNorm):
    """A projection inside."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(super().forward(x))  # type: ignore[no-any-return]


class LayerNormThenMix(nn.LayerNorm):
    """The same over the last dimension."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels)
        self.mix = nn.Linear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(super().forward(x))  # type: ignore[no-any-return]


class ResidualNorm(nn.LayerNorm):
    """The sum before the norm is part of it: two inputs of one width."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return super().forward(x + residual)


class CountingNorm(nn.Module):
    """Statistics by hand: buffers that forward mutates, in place and by assignment, in train mode."""

    running: Tensor
    calls: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running", torch.zeros(channels))
        self.register_buffer("calls", torch.tensor(0))
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean = x.mean((0, 2, 3))
            self.running.mul_(0.9).add_(0.1 * mean.detach())
            self.calls += 1
        else:
            mean = self.running
        return (x - mean[:, None, None]) * self.weight[:, None, None]


class OwnConv(nn.Conv2d):
    """Its padding by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias, self.stride, 0, 1, self.groups)


class StandardisedConv(nn.Conv2d):
    """Weights that are computed from its own."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class LayerScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x.mul(self.gamma)


class DropPath(nn.Module):
    """A branch is dropped for some of the images in training."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.5)
        return x * kept / 0.5


class Attention(nn.Module):
    """Of a vision transformer, by hand."""

    def __init__(self, width: int, heads: int, fused: bool = False, norm: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.fused = heads, width // heads, fused
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm = nn.LayerNorm(self.head_dim) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q = self.q_norm(q)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, -1))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Queries from one input, keys and values from another; q, k and v by views of their own."""

    def __init__(self, width: int, other: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(other, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        b, n, c = x.shape
        q = self.q(x).view(b, n, self.heads, c // self.heads).transpose(1, 2)
        k, v = self.kv(y).chunk(2, dim=-1)
        k, v = (t.view(b, y.size(1), self.heads, c // self.heads).transpose(1, 2) for t in (k, v))
        a = torch.softmax(q @ k.transpose(-1, -2) * 0.4, -1)
        return self.proj((a @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Counted(nn.Module):
    """Counts its calls, and keeps its last result."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last = 0, None
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen: Any = self.seen + 1
        self.last: Any = x
        return x


class BatchNormThenMix(nn.BatchNorm2d):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels)
        self.mix = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(super().forward(x))  # type: ignore[no-any-return]


class SpatiallyAdaptive(nn.Module):
    """Scale and shift of a norm are maps, computed from another input."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels)
        self.shared = nn.Conv2d(condition, 4, 3, padding=1)
        self.gamma, self.beta = nn.Conv2d(4, channels, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = F.relu(self.shared(condition))
        return self.norm(x) * (1 + self.gamma(hidden)) + self.beta(hidden)


class NormOverAll(nn.Module):
    """One mean and deviation for channels and places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(x, dim=(1, 2, 3), keepdim=True)
        return (x - mean) / (std + self.eps) * self.weight


class NormAndInput(nn.Module):
    """A residual around a norm, in one module."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.strength = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.strength * self.g * (x / (x.pow(2).mean(dim=1, keepdim=True) + 1e-6).sqrt())


class NormPair(LayerNormByHand):
    """Gives its input too."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class NormPooled(nn.Module):
    """What it gives has another shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3), keepdim=True)
        return (x / (1 + x.abs().sum(1, keepdim=True))) * self.weight.view(1, -1, 1, 1)


class NormInPlace(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x -= x.mean(1, keepdim=True)
        return x.mul_(self.weight)


class KeepsVariance(nn.Module):
    """Running statistics over the channels, used in eval mode."""

    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("variance", torch.ones(1))
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.variance = 0.9 * self.variance + 0.1 * x.detach().var().view(1)
        return x / (1 + self.variance.abs()).sqrt() * self.weight[None, :, None, None]


class OwnGroupNorm(nn.Module):
    """By hand, with the number of groups as an attribute."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.view(b, self.groups, -1)
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt()
        return x.view(b, c, h, w) * self.weight[:, None, None] + self.bias[:, None, None]


class GroupNormAct(nn.GroupNorm):
    """A norm by its function, and layers without weights after it."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__(groups, channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)))  # type: ignore[no-any-return]


class LayerNormAct(nn.LayerNorm):
    """Of maps, as `GroupNormAct`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return self.act(x.permute(0, 3, 1, 2))  # type: ignore[no-any-return]


class RMSNormAct(nn.RMSNorm):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(F.rms_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class KnowsWidth(nn.Module):
    """Its width is an attribute, and it divides by it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.weight = width, nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        energy = x.square().sum(1, keepdim=True) / self.width
        return x / (1 + energy) * self.weight.view(1, self.width, 1, 1)


class OwnInstanceNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, weight=self.weight, bias=self.bias)


class GivesPairs(nn.Module):
    """A dict of a tensor and a list."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, out, 1), nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"out": self.a(x), "parts": [self.b(x), None]}


class OwnSwish(torch.autograd.Function):
    """A function with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * (s + x * s * (1 - s))
