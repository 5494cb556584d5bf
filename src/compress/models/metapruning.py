"""MobileNetV2 and ResNet-50 at the widths that a gene names.

Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV 2019, arXiv:1903.10258;
`compress.models.spaces` has the tables and defines genes. Whether a block has a shortcut depends on its index in the
stage, not on equal widths as in other code: there two widths that happen to be equal change the network.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import OWN, SettingError
from compress.models.layers import initialise_convolutions
from compress.models.spaces import (
    Block,
    Conv,
    GeneForm,
    GeneWidths,
    decode,
    mobilenetv2_gene,
    mobilenetv2_space,
    resnet50_gene,
    resnet50_space,
    written,
)

RESNET50_AUTHORS, MOBILENETV2_AUTHORS = 20, 35  # entries of a gene in the authors' code

Variant = Literal["torchvision", "paper", "seed"]


class Builder:
    """Makes the modules of a table's convolutions at given widths."""

    def __init__(self, widths: GeneWidths, in_channels: int) -> None:
        self._channels, self._in_channels = (*widths.outs, *widths.mids), in_channels

    def width(self, entry: int | None) -> int:
        """Channels by index in the gene; None: the image's."""
        return self._in_channels if entry is None else self._channels[entry]

    def conv(self, conv: Conv) -> nn.Conv2d:
        c_in, c_out = self.width(conv.source), self.width(conv.out)
        groups = c_in if conv.depthwise else 1
        return nn.Conv2d(c_in, c_out, conv.kernel, conv.stride, conv.padding, groups=groups, bias=False)

    def norm(self, conv: Conv) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(self.width(conv.out))

    def conv_norm(self, conv: Conv) -> nn.Sequential:
        return nn.Sequential(self.conv(conv), self.norm(conv))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, each with BN; parameters are named as in torchvision."""

    def __init__(self, block: Block, make: Builder) -> None:
        super().__init__()
        one, two, three = block.convs
        self.conv1, self.bn1 = make.conv(one), make.norm(one)
        self.conv2, self.bn2 = make.conv(two), make.norm(two)
        self.conv3, self.bn3 = make.conv(three), make.norm(three)
        self.downsample: nn.Module = make.conv_norm(block.down) if block.down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ResNet50(nn.Module):
    """(B, C, H, W) -> (B, classes)."""

    def __init__(self, gene_form: GeneForm, widths: GeneWidths, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.gene_form = gene_form
        space = gene_form.space
        assert space.pooled
        make = Builder(widths, in_channels)
        self.conv1, self.bn1 = make.conv(space.stem), make.norm(space.stem)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages = [nn.Sequential(*(Bottleneck(b, make) for b in space.blocks if b.stage == s)) for s in range(1, 5)]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths.outs[-1], num_classes)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """1x1, depthwise 3x3, 1x1 without activation; its input is added unless it is the first block of its stage."""

    def __init__(self, block: Block, make: Builder, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        expand, dw, project = block.convs
        self.expand, self.dw, self.project = make.conv_norm(expand), make.conv_norm(dw), make.conv_norm(project)
        self.activation, self.adds = activation, block.index > 0

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.activation(self.dw(self.activation(self.expand(x)))))
        return x + out if self.adds else out  # type: ignore[no-any-return]


class MobileNetV2(nn.Module):
    """(B, C, H, W) -> (B, classes)."""

    def __init__(
        self,
        gene_form: GeneForm,
        widths: GeneWidths,
        activation: Callable[[Tensor], Tensor],
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.gene_form = gene_form
        space = gene_form.space
        assert space.last is not None
        make = Builder(widths, in_channels)
        self.activation = activation
        self.stem = make.conv_norm(space.stem)
        self.blocks = nn.Sequential(*(InvertedResidual(block, make, activation) for block in space.blocks))
        self.last = make.conv_norm(space.last)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths.outs[-1], num_classes)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.activation(self.stem(x)))
        return self.classifier(self.pool(self.activation(self.last(x))).flatten(1))  # type: ignore[no-any-return]


def resnet50(
    *, gene: list[int] | None, stem_padding: Literal[0, 1, 3], in_channels: int, num_classes: int
) -> ResNet50:
    """
    Raises:
        SettingError: the gene is not one of this network.
    """
    form = GeneForm(resnet50_space(stem_padding), RESNET50_AUTHORS, resnet50_gene)
    return ResNet50(form, decode(form.space, form.checked(gene)), in_channels, num_classes)


def mobilenetv2(*, variant: Variant, gene: list[int] | None, in_channels: int, num_classes: int) -> nn.Module:
    """
    Raises:
        SettingError: the gene is not one of this network; torchvision's own takes none.
    """
    if variant == "torchvision":
        if gene is not None:
            raise SettingError(
                f"{written(gene)}: {OWN}variant=torchvision takes no gene; give {OWN}variant=paper or seed"
            )
        from compress.models.torchvision import classifier  # torchvision takes a second to import

        return classifier(
            arch="mobilenet_v2", weights=None, download=False, in_channels=in_channels, num_classes=num_classes
        )
    form = GeneForm(mobilenetv2_space(variant), MOBILENETV2_AUTHORS, mobilenetv2_gene)
    activation = F.relu6 if variant == "paper" else F.relu
    return MobileNetV2(form, decode(form.space, form.checked(gene)), activation, in_channels, num_classes)


def gene_form(model: nn.Module) -> GeneForm | None:
    """How genes of a network are written: its own form for the networks of this module, None for all others."""
    return model.gene_form if isinstance(model, ResNet50 | MobileNetV2) else None
