"""The zoo, built from conf/model, by exact published counts; and networks narrowed by a list of widths."""

import json
import random
import re
from typing import Any

import pytest
import torch
from conftest import ORACLES, livened, zoo
from torch import nn

from compress.errors import InputError
from compress.io.paths import CONF
from compress.measure.counts import counts
from compress.measure.macs import count_operators
from compress.models.layers import ChannelPad, ChannelSelection
from compress.models.spec import ModelSpec
from compress.models.vgg import WIDTHS

ORACLE = json.loads((ORACLES / "slimming.json").read_text())["oracle_A"]
CIFAR = (3, 32, 32)
# How the oracle calls a network -> its config, settings that differ, classes
NAMES: list[tuple[str, Any]] = [
    (r"resnet(20|44)\(w\)", lambda depth: (f"resnet{depth}_w", {}, 10)),
    (r"resnet(\d+)_cs", lambda depth: (f"resnet{depth}_cs", {}, 10)),
    (r"resnet(20|32|44|56|110)", lambda depth: (f"resnet{depth}", {}, 10)),
    (r"resnet74", lambda: ("resnet56", {"depth": 74}, 10)),
    (r"resnet8x4_pre", lambda: ("resnet8x4_cs", {}, 100)),
    (r"resnet(8|32)x4_crd", lambda depth: (f"resnet{depth}x4", {}, 100)),
    (
        r"vgg(\d+)_bn_cifar\(conv_bias=(True|False)\)",
        lambda depth, bias: (f"vgg{depth}_bn", {"conv_bias": bias == "True"}, 10),
    ),
    (
        r"preresnet164_c(\d+)_sel([01])",
        lambda classes, selection: ("preresnet164", {"selection": selection == "1"}, int(classes)),
    ),
    (r"preresnet56b_c10", lambda: ("preresnet164", {"depth": 56}, 10)),
]


def config_of(oracle_name: str) -> tuple[str, dict[str, Any], int]:
    found = [(re.fullmatch(pattern, oracle_name), choose) for pattern, choose in NAMES]
    (answer,) = [choose(*match.groups()) for match, choose in found if match]
    return answer  # type: ignore[no-any-return]


def test_the_oracle_is_whole() -> None:
    assert len(ORACLE["full_models"]) == 26
    assert len(ORACLE["vgg19_cfg_tables"]) == 13
    assert len({config_of(name)[0] for name in ORACLE["full_models"]}) == 18


@pytest.mark.parametrize("name", ORACLE["full_models"])
def test_full_networks(name: str) -> None:
    row = ORACLE["full_models"][name]
    config, changes, classes = config_of(name)
    model = zoo(config, CIFAR, classes, **changes)
    found = counts(model, CIFAR)
    assert found.params_with_selection == row["params"]
    assert found.params == row.get("params_without_select_indexes", row["params"])
    assert found.params == row.get("ptflops06_params", found.params)
    assert (found.macs, found.fvcore, found.ptflops) == (
        row["conv_linear_macs"], row["fvcore_total"], row["ptflops06"],
    )  # fmt: skip
    macs = count_operators(model, CIFAR).macs
    expected = {kind: row["fvcore_by_operator"][kind] for kind in ("conv", "linear")}
    assert {"conv": macs["_convolution"], "linear": macs["linear"]} == expected
    assert macs.keys() == {"_convolution", "linear"}


@pytest.mark.parametrize("name", ORACLE["vgg19_cfg_tables"])
def test_slimmed_vggs(name: str) -> None:
    row = ORACLE["vgg19_cfg_tables"][name]
    assert sum(width for width in row["cfg"] if width != "M") == row["kept"]
    plain = counts(zoo("vgg19_bn", cfg=row["cfg"]), CIFAR)
    assert (plain.params, plain.macs, plain.fvcore, plain.ptflops) == (
        row["params"], row["conv_linear_macs"], row["fvcore_total"], row["ptflops06"],
    )  # fmt: skip
    biased = counts(zoo("vgg19_bn", cfg=row["cfg"], conv_bias=True), CIFAR)
    assert {"params": biased.params, "ptflops06": biased.ptflops} == row["with_conv_bias"]


def test_first_edition_of_the_slimmed_vggs() -> None:
    (row,) = ORACLE["vgg19_first_edition"].values()
    for bias in (True, False):
        found = counts(zoo("vgg19_bn", cfg=row["cfg"], conv_bias=bias), CIFAR)
        suffix = f"bias_{str(bias).lower()}"
        assert (found.params, found.ptflops) == (row[f"params_conv_{suffix}"], row[f"ptflops06_{suffix}"])


def test_vgg_pruned_by_filter_norm() -> None:
    row = ORACLE["l1_filter_extra"]
    found = counts(zoo("vgg16_bn", cfg=row["cfg"], conv_bias=True), CIFAR)
    assert (found.params, found.macs, found.fvcore, found.ptflops) == (
        row["params"], row["conv_linear_macs"], row["fvcore_total"], row["ptflops06"],
    )  # fmt: skip


@pytest.mark.parametrize("depth", ORACLE["seed004_resnet_pruned"]["check"])
def test_slimmed_resnets(depth: str) -> None:
    row = ORACLE["seed004_resnet_pruned"]["check"][depth]
    assert sum(row["example_cfg"]) == row["kept"]
    found = counts(zoo(f"resnet{depth}_cs", cfg=row["example_cfg"]), CIFAR)
    assert [found.params_with_selection, found.macs, found.ptflops] == row["example"]


def test_slimmed_resnet8x4() -> None:
    seed = ORACLE["seed002"]
    full = zoo("resnet8x4_cs", classes=100)
    assert sum(len(m.weight) for m in full.modules() if isinstance(m, nn.BatchNorm2d)) == seed["N"]
    assert len(seed["known_cfg"]) == 2
    for row in seed["known_cfg"].values():
        found = counts(zoo("resnet8x4_cs", classes=100, cfg=row["cfg"]), CIFAR)
        assert found.params_with_selection == row["params"] == row["published_prune_txt"]
        assert (found.macs, found.fvcore) == (row["conv_linear_macs"], row["fvcore_total"])
    assert len(seed["nested_feasibility"]) == 4
    for row in seed["nested_feasibility"].values():
        assert sum(row["example"]) == row["kept"]
        found = counts(zoo("resnet8x4_cs", classes=100, cfg=row["example"]), CIFAR)
        assert (found.params_with_selection, found.macs) == (row["example_params"], row["example_macs"])


def test_closed_form_of_the_slimmed_resnet8x4() -> None:
    draw = random.Random(0)
    full = ORACLE["seed002"]["full_cfg"]
    cfgs = [[draw.randint(1, most) for most in full] for _ in range(30)]
    for cfg in [full, [1] * 7, *cfgs]:
        found = counts(zoo("resnet8x4_cs", classes=100, cfg=cfg), CIFAR)
        pairs = zip(cfg[0:6:2], cfg[1:6:2], (32, 64, 128), (64, 128, 256), (32, 16, 8), strict=True)
        params, macs = 864 + 768 + 100 * cfg[6] + 100, 884_736 + 100 * cfg[6]
        for entry, inner, c_in, c_out, side in pairs:
            weights = 9 * entry * inner + 9 * inner * c_out + c_in * c_out
            params += 3 * c_in + 2 * inner + weights
            macs += side**2 * weights
        assert (found.params_with_selection, found.macs) == (params, macs)
        assert found.params == params - (32 + 64 + 128 + 256)


@pytest.mark.parametrize(
    ("name", "changes", "params", "macs", "fvcore", "ptflops"),
    [
        ("resnet44_cs", {}, 2_666_442, 385_534_464, 387_590_656, 388_626_944),
        ("vgg13_bn", {"conv_bias": True}, 9_416_010, 228_267_008, 228_768_768, 229_391_360),
    ],
)
def test_published_networks_beside_the_oracle(
    name: str, changes: dict[str, Any], params: int, macs: int, fvcore: int, ptflops: int
) -> None:
    found = counts(zoo(name, **changes), CIFAR)
    assert (found.params_with_selection, found.macs, found.fvcore, found.ptflops) == (params, macs, fvcore, ptflops)


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_wide_networks_are_as_large_before_and_after_their_activations(depth: int) -> None:
    wide, selected = (counts(zoo(f"resnet{depth}_{kind}"), CIFAR) for kind in ("w", "cs"))
    assert (wide.params, wide.macs, wide.fvcore) == (selected.params, selected.macs, selected.fvcore)
    assert wide.ptflops == wide.fvcore  # its ReLUs are functions


@pytest.mark.parametrize(
    ("name", "params", "macs", "fvcore", "ptflops"),
    [
        ("mobilenet_v2", 3_504_872, 300_774_272, 314_193_216, 320_236_288),
        ("resnet18", 11_689_512, 1_814_073_344, 1_819_065_856, 1_822_176_768),
        ("resnet34", 21_797_672, 3_663_761_408, 3_671_262_720, 3_675_628_032),
    ],
)
def test_torchvisions_networks(name: str, params: int, macs: int, fvcore: int, ptflops: int) -> None:
    found = counts(zoo(name, (3, 224, 224), 1000), (3, 224, 224))
    assert (found.params, found.macs, found.fvcore, found.ptflops) == (params, macs, fvcore, ptflops)


@pytest.mark.slow
def test_every_config_takes_small_grey_images() -> None:
    names = [path.stem for path in sorted((CONF / "model").glob("*.yaml")) if "???" not in path.read_text()]
    assert len(names) >= 30
    for name in names:
        assert zoo(name, (1, 32, 32), 7).eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 7), name


# -- widths ----------------------------------------------------------------------------------------------------


def copy_leading(small: nn.Module, full: nn.Module) -> None:
    """Give the small network the first rows and columns of every tensor of the full one."""
    whole = full.state_dict()
    with torch.no_grad():
        for name, tensor in small.state_dict().items():
            if not name.endswith("indices"):
                tensor.copy_(whole[name][tuple(slice(0, size) for size in tensor.shape)])


def silence(norm: nn.Module, kept: int) -> None:
    """Let a BN give zero in all channels but the first `kept`."""
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight[kept:] = 0
        norm.bias[kept:] = 0


@pytest.mark.parametrize(
    ("name", "changes"), [("resnet20_cs", {}), ("resnet8x4_cs", {"depth": 14}), ("preresnet164", {"depth": 20})]
)
def test_a_list_of_widths_is_the_full_network_with_channels_silenced(name: str, changes: dict[str, Any]) -> None:
    full = livened(zoo(name, **changes)).eval()
    named = {name: module for name, module in full.named_modules() if isinstance(module, nn.BatchNorm2d)}
    norms, entries = list(named.values()), [name == "bn" or name.endswith("bn1") for name in named]
    draw = random.Random(0)
    cfg = [draw.randint(1, norm.num_features) for norm in norms]
    small = zoo(name, cfg=cfg, **changes).eval()
    copy_leading(small, full)
    for norm, kept in zip(norms, cfg, strict=True):
        silence(norm, kept)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(small(images), full(images), atol=1e-5)
    assert [norm.num_features for norm in small.modules() if isinstance(norm, nn.BatchNorm2d)] == [
        norm.num_features if is_entry else kept for norm, is_entry, kept in zip(norms, entries, cfg, strict=True)
    ]


def test_a_full_selection_changes_nothing() -> None:
    selection = ChannelSelection(8)
    x = torch.randn(2, 8, 3, 3)
    assert selection(x) is x
    chosen, plain = zoo("resnet20_cs").eval(), zoo("resnet20_cs", selection=False).eval()
    weights = {name: value for name, value in chosen.state_dict().items() if not name.endswith("indices")}
    plain.load_state_dict(weights)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(chosen(images), plain(images))
    assert not any(isinstance(module, ChannelSelection) for module in plain.modules())


@pytest.mark.parametrize("name", ["resnet20_cs", "preresnet164", "resnet8x4_cs", "vgg16_bn"])
def test_full_widths_may_be_written_out(name: str) -> None:
    model = zoo(name)
    cfg = WIDTHS[16] if name == "vgg16_bn" else widths(model)
    assert shapes(zoo(name, cfg=cfg)) == shapes(model)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def test_the_published_layout_of_widths() -> None:
    assert widths(zoo("resnet56_cs")) == [16, 16, *[64, 16] * 8, 64, 32, *[128, 32] * 8, 128, 64, *[256, 64] * 8, 256]
    assert widths(zoo("resnet8x4_cs")) == ORACLE["seed002"]["full_cfg"]
    assert widths(zoo("preresnet164")) == [
        *[16, 16, 16], *[64, 16, 16] * 17, *[64, 32, 32], *[128, 32, 32] * 17,
        *[128, 64, 64], *[256, 64, 64] * 17, 256,
    ]  # fmt: skip


def widths(model: nn.Module) -> list[int]:
    return [module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("vgg11_bn", {"cfg": [64, "N"]}, r"cfg=\[64,N\]: must be positive whole numbers and M"),
        ("vgg11_bn", {"cfg": [64, 0]}, r"cfg=\[64,0\]: must be positive"),
        ("vgg11_bn", {"cfg": []}, r"cfg=\[\]: must be positive"),
        ("vgg11_bn", {"cfg": ["M"]}, r"cfg=\[M\]: must be positive"),
        ("resnet8x4_cs", {"cfg": [1, 2]}, r"cfg=\[1,2\]: must have 7 widths, has 2"),
        (
            "resnet8x4_cs",
            {"cfg": [33, 2, 38, 126, 51, 256, 256]},
            r"entry 0 is 33; must be a whole number in \[1, 32\]",
        ),
        (
            "resnet8x4_cs",
            {"cfg": [13, 2, 38, 126, 51, 256, 0]},
            r"entry 6 is 0; must be a whole number in \[1, 256\]",
        ),
        ("resnet20_cs", {"cfg": [9] * 19, "selection": False}, "which needs selection=true"),
        ("resnet20_cs", {"depth": 21}, r"depth=21: must be 6n \+ 2, such as 20"),
        ("resnet8x4_cs", {"depth": 9}, r"depth=9: must be 6n \+ 2, such as 8"),
        ("preresnet164", {"depth": 165}, r"depth=165: must be 9n \+ 2, such as 56"),
        ("resnet8x4", {"depth": 10}, r"depth=10: must be 6n \+ 2, such as 8"),
    ],
)
def test_wrong_widths_and_depths_are_told(name: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        zoo(name, **changes)


def test_inner_widths_may_be_narrowed_without_a_selection() -> None:
    cfg = [16, 3, 64, 4, 64, 5, 64, 6, 128, 7, 128, 8, 128, 9, 256, 10, 256, 11, 256]
    assert zoo("resnet20_cs", cfg=cfg, selection=False).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_wide_resnet_has_the_option_of_padded_shortcuts() -> None:
    model = zoo("resnet20_w", shortcut="pad").eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert counts(model, CIFAR).params == 1_110_522 - (16 * 64 + 64 * 128 + 128 * 256)


def test_specs_of_runs_before_there_was_an_expansion_still_build() -> None:
    args = {"depth": 20, "width": 16, "shortcut": "conv"}
    old = ModelSpec("compress.models.resnet_cifar.resnet", args, CIFAR, 10).build()
    assert shapes(old) == shapes(zoo("resnet20"))


def test_first_weights_follow_the_papers() -> None:
    torch.manual_seed(0)
    model = zoo("vgg19_bn", conv_bias=True)
    assert model.get_parameter("classifier.weight").std().item() == pytest.approx(0.01, rel=0.1)
    assert not model.get_parameter("features.0.bias").any()
    for name in ("resnet20_cs", "resnet8x4", "resnet50", "preresnet164"):
        weight = zoo(name).get_parameter("layer3.0.conv2.weight")
        fan_out = weight.shape[0] * weight[0, 0].numel()
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_a_pad_puts_its_zeros_before_and_after() -> None:
    padded = ChannelPad(1, 2)(torch.full((2, 3, 4, 4), 5.0))
    assert padded[:, :, 0, 0].tolist() == [[0, 5, 5, 5, 0, 0]] * 2
