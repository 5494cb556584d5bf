"""Genes decode to the published widths and counts, layer by layer; what is no gene is told."""

import json
import random
from typing import Any, Literal

import pytest
import torch
from conftest import ORACLES, zoo
from torch import Tensor, nn
from torchvision import models

from compress.errors import InputError
from compress.measure.counts import counts
from compress.measure.macs import count_operators
from compress.models.metapruning import resnet50
from compress.models.spaces import (
    MOBILENETV2,
    Space,
    decode,
    mobilenetv2_gene,
    mobilenetv2_space,
    ratio,
    resnet50_gene,
    resnet50_space,
)
from compress.models.weights import load_strictly

ORACLE = json.loads((ORACLES / "metaprune.json").read_text())
GENES = {f"{row['net']} {row['name']}": row for row in ORACLE["genes"]}
IMAGENET = (3, 224, 224)
NETS = ("resnet50", "seed", "paper")


def net(kind: str, gene: list[int] | None, shape: tuple[int, int, int] = IMAGENET, **changes: Any) -> nn.Module:
    if kind == "resnet50":
        return zoo("resnet50", shape, 1000, gene=gene, **changes)
    return zoo("mobilenetv2", shape, 1000, gene=gene, variant=kind)


def space_of(kind: str) -> Space:
    return resnet50_space(3) if kind == "resnet50" else mobilenetv2_space("seed" if kind == "seed" else "paper")


def kind_of(row: dict[str, Any]) -> Literal["resnet50", "seed"]:
    return "resnet50" if row["net"] == "resnet50" else "seed"


def random_gene(kind: str, draw: random.Random) -> list[int]:
    space = space_of(kind)
    gene = [draw.randrange(-1, 31) for _ in space.bases]
    gene[space.full] = -1
    return gene


def test_the_oracle_is_whole() -> None:
    assert len(GENES) == 9
    assert len(ORACLE["upstream"]) == 6


@pytest.mark.parametrize("name", GENES)
def test_widths_of_the_genes(name: str) -> None:
    row = GENES[name]
    widths = decode(space_of(kind_of(row)), row["gene"])
    assert list(widths.outs) == row["out_channels"]
    assert list(widths.mids) == row["mid_channels"]


@pytest.mark.parametrize("name", GENES)
def test_counts_of_the_genes(name: str) -> None:
    row = GENES[name]
    expected = row["counts"]
    model = net(kind_of(row), row["gene"])
    found = counts(model, IMAGENET)
    assert found.params == expected["params"]
    assert (found.macs, found.fvcore, found.ptflops, found.metapruning) == (
        expected["conv_fc"], expected["fvcore_total"], expected["ptflops_052"], expected["search"],
    )  # fmt: skip
    assert count_operators(model, IMAGENET).macs == {"_convolution": expected["conv"], "linear": expected["linear"]}


@pytest.mark.parametrize("name", GENES)
def test_counts_of_the_genes_in_other_variants(name: str) -> None:
    row = GENES[name]
    assert set(row["alt"]) == ({"stem_pad_0", "stem_pad_1"} if row["net"] == "resnet50" else {"paper_variant"})
    for variant, expected in row["alt"].items():
        if variant == "paper_variant":
            found = counts(net("paper", row["gene"]), IMAGENET)
        else:
            found = counts(net("resnet50", row["gene"], stem_padding=int(variant[-1])), IMAGENET)
        names = {"conv_fc": "macs", "fvcore_total": "fvcore", "ptflops_052": "ptflops", "search": "metapruning"}
        assert {key: getattr(found, names.get(key, key)) for key in expected} == expected


@pytest.mark.parametrize("name", ORACLE["upstream"])
def test_counts_of_the_authors_own_genes(name: str) -> None:
    row = ORACLE["upstream"][name]
    found = counts(net("resnet50" if name.startswith("resnet") else "paper", row["gene"]), IMAGENET)
    assert (found.macs, found.metapruning, found.fvcore, found.params) == (
        row["conv_fc"], row["search"], row["fvcore_total"], row["params"],
    )  # fmt: skip


def layers_of(model: nn.Module, shape: tuple[int, int, int]) -> list[dict[str, int]]:
    """Every convolution and linear layer as it runs, its BN's parameters with it."""
    seen: list[dict[str, int]] = []

    def conv(module: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        assert module.bias is None
        seen.append({
            "cin": module.in_channels, "cout": module.out_channels, "k": module.kernel_size[0],
            "stride": module.stride[0], "groups": module.groups, "h_out": output.shape[2],
            "macs": module.weight.numel() * output.shape[2] * output.shape[3],
            "params": module.weight.numel() + 2 * module.out_channels,
        })  # fmt: skip

    def linear(module: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        n_in, n_out = module.in_features, module.out_features
        seen.append({"cin": n_in, "cout": n_out, "k": 0, "stride": 1, "groups": 1, "h_out": 1})
        seen[-1] |= {"macs": n_in * n_out, "params": n_in * n_out + n_out}

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(conv)
        elif isinstance(module, nn.Linear):
            module.register_forward_hook(linear)
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return seen


@pytest.mark.parametrize("name", GENES)
def test_every_layer_of_the_genes(name: str) -> None:
    row = GENES[name]
    assert len(row["layers"]) == 54
    expected = [{key: value for key, value in layer.items() if key != "name"} for layer in row["layers"]]
    assert layers_of(net(kind_of(row), row["gene"]), IMAGENET) == expected
    told = {"stem": "stem.conv7x7" if row["net"] == "resnet50" else "stem.conv3x3", "last": "last.conv1x1"}
    names = [told.get(place, place) for place, _ in space_of(kind_of(row)).convs()]
    assert [*names, "fc"] == [layer["name"] for layer in row["layers"]]


def test_full_networks_have_the_published_sizes() -> None:
    sizes = {"resnet50": 25_557_032, "seed": 6_546_008, "paper": 5_313_198, "torchvision": 3_504_872}
    for kind, params in sizes.items():
        assert sum(p.numel() for p in net(kind, None).parameters()) == params


def test_middles_follow_the_variant() -> None:
    shared = [198, 198, *[264] * 3, *[528] * 4, *[792] * 3, *[1344] * 3]
    assert mobilenetv2_space("seed").mids == (22, *shared, 2688)
    assert mobilenetv2_space("paper").mids == (44, 132, *shared)


def closed_form(kind: str, gene: list[int], side: int) -> tuple[int, int, int]:
    """MACs, BN numbers and parameters from the table alone."""
    space = space_of(kind)
    widths = [channel for part in decode(space, gene) for channel in part]
    macs = norms = params = 0
    for place, conv in space.convs():
        if conv.name != "down":  # the shortcut reads what the block read, and ends where the block ends
            side = (side + 2 * conv.padding - conv.kernel) // conv.stride + 1
        c_in = 3 if conv.source is None else widths[conv.source]
        weights = conv.kernel**2 * (1 if conv.depthwise else c_in) * widths[conv.out]
        macs += weights * side**2
        norms += widths[conv.out] * side**2
        params += weights + 2 * widths[conv.out]
        if space.pooled and place == "stem":
            side = (side - 1) // 2 + 1
    classifier = widths[space.full] * 1000
    return macs + classifier, norms, params + classifier + 1000


@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in [*NETS][:-1]), [*NETS][-1]]
)
@pytest.mark.slow
def test_a_formula_from_the_table_equals_the_network(kind: str) -> None:
    draw = random.Random(kind)
    for _ in range(16):
        gene = random_gene(kind, draw)
        macs, norms, params = closed_form(kind, gene, 64)
        found = counts(net(kind, gene), (3, 64, 64))
        assert (found.macs, found.metapruning, found.params) == (macs, macs + norms + 1000, params)


@pytest.mark.parametrize("name", GENES)
def test_the_formula_gives_the_published_counts(name: str) -> None:
    row = GENES[name]
    macs, norms, params = closed_form(kind_of(row), row["gene"], 224)
    assert (macs, 2 * norms, params) == tuple(row["counts"][key] for key in ("conv_fc", "batch_norm", "params"))


# -- genes -----------------------------------------------------------------------------------------------------


def test_ratios() -> None:
    assert [ratio(0), ratio(1), ratio(29), ratio(30), ratio(-1)] == [0.10, 0.13, 0.97, 1, 1]


def test_equal_widths_by_chance_add_no_shortcut() -> None:
    """44 * 0.49 and 22 * 0.97 are both 21: a block that compares widths would add."""
    gene = [13, 29, *[-1] * 24]
    model = net("seed", gene, (3, 32, 32))
    assert [block.adds for block in model.get_submodule("blocks")] == [
        place > 0 for stage in MOBILENETV2 for place in range(stage.blocks)
    ]
    first = model.get_submodule("blocks.0")
    assert first.expand[0].in_channels == first.project[0].out_channels == 21


def test_genes_in_the_authors_own_form() -> None:
    draw = random.Random(0)
    ours = random_gene("resnet50", draw)
    theirs = ours[:4] + ours[5:]
    assert resnet50_gene(theirs) == ours
    assert shapes(net("resnet50", theirs)) == shapes(net("resnet50", ours))

    ours = random_gene("paper", draw)
    repeats = [stage.blocks for stage in MOBILENETV2]
    by_block = [entry for entry, times in zip(ours[1:8], repeats, strict=True) for _ in range(times)]
    theirs = [ours[0], *by_block, *ours[9:]]
    assert len(theirs) == 35
    assert mobilenetv2_gene(theirs) == ours
    assert shapes(net("paper", theirs)) == shapes(net("paper", ours))
    theirs[3] = (theirs[2] + 1) % 31
    with pytest.raises(InputError, match=r"stage 2 has outputs \[.*\]; its blocks must share one"):
        net("paper", theirs)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("kind", "gene", "told"),
    [
        ("resnet50", [-1] * 22, r"must be 21 whole numbers in \[-1, 30\].*leave off a trailing top-1 error"),
        ("resnet50", [31] + [-1] * 20, "must be 21 whole numbers"),
        ("resnet50", [-2] + [-1] * 20, "must be 21 whole numbers"),
        ("resnet50", [-1] * 4 + [7] + [-1] * 16, "entry 4 must be -1"),
        ("seed", [-1] * 27, r"must be 26 whole numbers in \[-1, 30\].*leave off a trailing top-1 error"),
        ("paper", [-1] * 21, "must be 26 whole numbers"),
        ("paper", [-1] * 8 + [0] + [-1] * 17, "entry 8 must be -1"),
        ("torchvision", [-1] * 26, "variant=torchvision takes no gene"),
    ],
)
def test_what_is_no_gene_is_told(kind: str, gene: list[int], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        net(kind, gene)
    assert str(caught.value).startswith("gene=[")


def test_a_gene_with_its_error_is_told_by_the_builder_too() -> None:
    row = GENES["resnet50 flops0"]
    with pytest.raises(InputError, match="leave off a trailing top-1 error"):
        resnet50(gene=[*row["gene"], row["top1_error"]], stem_padding=3, in_channels=3, num_classes=1000)
    assert shapes(net("resnet50", [30] * 21)) == shapes(net("resnet50", None))


# -- networks --------------------------------------------------------------------------------------------------


def test_weights_of_torchvision_fit_and_give_the_same() -> None:
    theirs = models.resnet50(weights=None).eval()
    ours = zoo("resnet50", IMAGENET, 1000).eval()
    load_strictly(ours, theirs.state_dict(), "torchvision")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), atol=1e-5)


@pytest.mark.parametrize("kind", [*NETS, "torchvision"])
def test_small_images_of_any_channels_and_classes(kind: str) -> None:
    name, changes = ("resnet50", {}) if kind == "resnet50" else ("mobilenetv2", {"variant": kind})
    model = zoo(name, (1, 32, 32), 7, **changes).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


def test_activations_of_the_variants() -> None:
    images = 100 * torch.randn(1, 3, 32, 32)
    for kind, bounded in (("paper", True), ("seed", False)):
        block = net(kind, None, (3, 32, 32)).eval().get_submodule("blocks.0")
        assert (block.activation(images).max() == 6) == bounded
