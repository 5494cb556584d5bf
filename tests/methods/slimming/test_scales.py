"""Which batch norms scale which channels, and what they say of them."""

from collections import Counter

import pytest
import torch
from conftest import livened, random_plan, zoo
from torch import Tensor, nn

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.methods.slimming.scales import cfg_of, kept_of_norms, scores
from compress.models.layers import ChannelSelection
from compress.models.preresnet import preresnet
from compress.prune.scales import norms_of, scales_of
from compress.prune.scores import Coupled, producers
from compress.prune.surgery import cut

SHAPE = (3, 32, 32)
POOLS = {"vgg19_bn": 5504, "vgg16_bn": 4224, "resnet20_cs": 1696, "resnet56_cs": 5056, "resnet8x4_cs": 928}
COUPLED: tuple[Coupled, ...] = ("sum", "mean", "max")


def look(name: str, **changes: object) -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    model = livened(zoo(name, SHAPE, **changes))
    for norm in norms_of(model, linear=True).values():
        norm.weight.data *= torch.randn(len(norm.weight)).sign()  # type: ignore[union-attr]
    return model, channel_graph(model, SHAPE)


def gamma(model: nn.Module, norm: str) -> Tensor:
    return model.get_parameter(f"{norm}.weight").detach().abs()


@pytest.mark.parametrize("name", POOLS)
def test_the_pool_is_every_entry_of_every_batch_norm(name: str) -> None:
    model, graph = look(name)
    scales = scales_of(model, graph)
    assert sum(len(norm.weight) for norm in norms_of(model).values()) == POOLS[name]
    assert sum(len(score) for score in scores(model, graph, scales).values()) == POOLS[name]
    assert [len(parts) for parts in scales.values()] == [1] * len(graph)


@pytest.mark.parametrize("name", [*POOLS, "resnet20", "resnet8x4", "mobilenetv2", "densenet121"])
def test_every_entry_is_counted_once(name: str) -> None:
    model, graph = look("torchvision", arch=name) if name == "densenet121" else look(name)
    seen = Counter(
        (scale.norm, place)
        for parts in scales_of(model, graph).values()
        for scale in parts
        for place in scale.places.flatten().tolist()
    )
    assert seen == Counter((name, i) for name, norm in norms_of(model).items() for i in range(len(norm.weight)))


@pytest.mark.parametrize("coupled", [*COUPLED, "keep"])
def test_in_a_chain_the_scores_are_the_scales_to_the_bit(coupled: Coupled) -> None:
    model, graph = look("vgg11_bn")
    found = scores(model, graph, scales_of(model, graph), coupled)
    for group, norm in zip(graph, norms_of(model), strict=True):
        assert torch.equal(found[group.name], gamma(model, norm))


def test_scores_do_not_depend_on_signs_and_hold_no_gradient() -> None:
    model, graph = look("vgg11_bn")
    scales = scales_of(model, graph)
    before = scores(model, graph, scales)
    for norm in norms_of(model).values():
        norm.weight.data.neg_()
    after = scores(model, graph, scales)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(score.requires_grad for score in after.values())


@pytest.mark.parametrize("name", ["resnet20_cs", "resnet8x4_cs", "preresnet"])
def test_a_selection_reads_the_batch_norm_before_it(name: str) -> None:
    if name == "preresnet":
        model: nn.Module = livened(preresnet(depth=20, selection=True, cfg=None, in_channels=3, num_classes=10))
        graph = channel_graph(model, SHAPE)
    else:
        model, graph = look(name)
    found = scores(model, graph, scales_of(model, graph))
    selections = [name for name, module in model.named_modules() if isinstance(module, ChannelSelection)]
    for at in selections:
        norm = "bn" if at == "select" else at.replace("select", "bn1")
        assert torch.equal(found[at], gamma(model, norm))
    for group in graph:
        if group.name not in selections:
            block, _, conv = group.name.rpartition(".")
            assert torch.equal(found[group.name], gamma(model, f"{block}.bn{int(conv[-1]) + 1}"))


def test_a_selection_that_is_narrow_already_reads_what_is_left() -> None:
    model, graph = look("resnet20_cs")
    plan = random_plan(graph, 0.4, seed=3)
    small = cut(model, graph, plan)
    again = channel_graph(small, SHAPE)
    scales = scales_of(small, again)
    found = scores(small, again, scales)
    for name in ("layer1.0.select", "layer2.1.select", "layer3.2.select", "select"):
        kept = torch.tensor(plan.kept[name])
        norm = "bn" if name == "select" else name.replace("select", "bn1")
        assert len(gamma(small, norm)) == graph[[g.name for g in graph].index(name)].width  # the stream's
        assert torch.equal(found[name], gamma(model, norm)[kept])
    assert torch.equal(found["layer2.1.conv1"], gamma(small, "layer2.1.bn2"))
    # and counts what it reads, not what it holds
    kept_now = kept_of_norms(small, again, scales, [group.width for group in again], linear=False)
    assert list(kept_now.values()) == graph.widths(plan)


def members(model: nn.Module, graph: ChannelGraph, name: str) -> tuple[list[str], Tensor]:
    """The batch norms of a group by hand, and their |gamma|: (width, norms)."""
    group = next(group for group in graph if group.name == name)
    norms = [
        axis.tensor.removesuffix(".weight")
        for axis in group.positions
        if isinstance(model.get_submodule(axis.tensor.rpartition(".")[0]), nn.BatchNorm2d)
        and axis.tensor.endswith(".weight")
    ]
    return norms, torch.stack([gamma(model, norm) for norm in norms], 1)


def check_by_hand(model: nn.Module, graph: ChannelGraph, name: str, gammas: Tensor, counted: int) -> None:
    """With `sum` the mean counts `counted` times; `keep` leaves out what several layers make."""
    expected = {"sum": counted * gammas.mean(1), "mean": gammas.mean(1), "max": gammas.max(1).values}
    scales = scales_of(model, graph)
    for coupled in COUPLED:
        assert torch.allclose(scores(model, graph, scales, coupled)[name], expected[coupled], rtol=1e-6), coupled
    assert (name in scores(model, graph, scales, "keep")) == (counted == 1)


def test_a_residual_stream_behind_activations() -> None:
    model, graph = look("resnet20")
    blocks = ["layer1.0.bn2", "layer1.1.bn2", "layer1.2.bn2"]
    gammas = torch.stack([gamma(model, norm) for norm in ("bn1", *blocks)], 1)
    assert sorted(members(model, graph, "conv1")[0]) == sorted(("bn1", *blocks))
    check_by_hand(model, graph, "conv1", gammas, counted=4)
    assert torch.allclose(scores(model, graph, scales_of(model, graph))["conv1"], gammas.sum(1), rtol=1e-6)
    # in stages two and three the shortcut is a bare convolution: three norms
    stage = torch.stack([gamma(model, f"layer3.{i}.bn2") for i in range(3)], 1)
    name = next(group.name for group in graph if group.width == 64 and producers(graph, group) > 1)
    check_by_hand(model, graph, name, stage, counted=3)
    check_by_hand(model, graph, "layer2.1.conv1", gamma(model, "layer2.1.bn1")[:, None], counted=1)
    assert len(scores(model, graph, scales_of(model, graph), "keep")) == len(graph) - 3


def test_a_depthwise_convolution_passes_channels_on_and_an_inverted_residual_adds_them() -> None:
    model, graph = look("mobilenetv2")
    norms, gammas = members(model, graph, "features.2.conv.0.0")
    assert norms == ["features.2.conv.0.1", "features.2.conv.1.1"]  # of the expansion, of the depthwise one
    check_by_hand(model, graph, "features.2.conv.0.0", gammas, counted=1)
    norms, gammas = members(model, graph, "features.2.conv.2")
    assert norms == ["features.2.conv.3", "features.3.conv.3"]
    check_by_hand(model, graph, "features.2.conv.2", gammas, counted=2)


def test_a_dense_block_scales_a_channel_wherever_it_is_read() -> None:
    model, graph = look("torchvision", arch="densenet121")
    # what the second layer of the last block adds is scaled by all norms behind it; it comes after 512 + 32 channels
    name = "features.denseblock4.denselayer2.conv2"
    norms = [*(f"features.denseblock4.denselayer{i}.norm1" for i in range(3, 17)), "features.norm5"]
    gammas = torch.stack([gamma(model, norm)[544:576] for norm in norms], 1)
    check_by_hand(model, graph, name, gammas, counted=1)
    inner = gamma(model, "features.denseblock4.denselayer2.norm2")[:, None]
    check_by_hand(model, graph, "features.denseblock4.denselayer2.conv1", inner, counted=1)


def test_cfg_has_what_stays_in_module_order_and_m_at_each_pooling() -> None:
    model, graph = look("vgg11_bn")
    scales = scales_of(model, graph)
    full = [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512]
    assert cfg_of(model, kept_of_norms(model, graph, scales, [group.width for group in graph], linear=False)) == full
    widths = [1, 2, 3, 4, 5, 6, 7, 8]
    assert cfg_of(model, kept_of_norms(model, graph, scales, widths, linear=False)) == [
        1,
        "M",
        2,
        "M",
        3,
        4,
        "M",
        5,
        6,
        "M",
        7,
        8,
    ]
    model, graph = look("resnet8x4_cs")
    kept = kept_of_norms(model, graph, scales_of(model, graph), [13, 2, 38, 126, 51, 256, 256], linear=False)
    assert cfg_of(model, kept) == [13, 2, 38, 126, 51, 256, 256]
    assert kept == dict(zip(norms_of(model), [13, 2, 38, 126, 51, 256, 256], strict=True))


def test_coupled_norms_keep_what_their_groups_keep() -> None:
    model, graph = look("resnet20")
    scales, plan = scales_of(model, graph), Plan({"conv1": [0, 3], "layer1.1.conv1": [5]})
    kept = kept_of_norms(model, graph, scales, graph.widths(plan), linear=False)
    assert [kept[f"layer1.{i}.bn2"] for i in range(3)] == [2, 2, 2]
    assert (kept["bn1"], kept["layer1.1.bn1"], kept["layer1.0.bn1"]) == (2, 1, 16)


class WithLinearNorm(nn.Module):
    """conv -> BN2d -> flatten of 2x2 -> linear -> BN1d -> linear; the first linear one reads each channel 4 times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.plain = nn.BatchNorm2d(6, affine=False)
        self.flat, self.a, self.bn1d, self.b = (
            nn.BatchNorm1d(24),
            nn.Linear(24, 5),
            nn.BatchNorm1d(5),
            nn.Linear(5, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.bn(self.conv(x))).relu()
        x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.b(self.bn1d(self.a(self.flat(x))).relu())  # type: ignore[no-any-return]


def test_batch_norms_behind_linear_layers_count_only_if_asked() -> None:
    model = WithLinearNorm()
    for norm in (model.bn, model.flat, model.bn1d):
        nn.init.normal_(norm.weight)
    graph = channel_graph(model, (3, 4, 4))
    assert [group.name for group in graph] == ["conv", "a"]
    assert list(norms_of(model)) == ["bn"]  # one without a scale is none
    assert list(norms_of(model, linear=True)) == ["bn", "flat", "bn1d"]
    scales = scales_of(model, graph)
    assert {name: [part.norm for part in parts] for name, parts in scales.items()} == {"conv": ["bn"]}
    found = scores(model, graph, scales_of(model, graph, linear=True))
    assert torch.equal(found["a"], model.bn1d.weight.detach().abs())
    flat = model.flat.weight.detach().abs().view(6, 4)
    # one layer makes the channel, so the mean of its five scales counts once
    assert torch.allclose(found["conv"], (model.bn.weight.detach().abs() + flat.sum(1)) / 5)
    largest = scores(model, graph, scales_of(model, graph, linear=True), "max")["conv"]
    assert torch.equal(largest, torch.cat([model.bn.weight.detach().abs()[:, None], flat], 1).amax(1))
    kept = kept_of_norms(model, graph, scales_of(model, graph, linear=True), [3, 2], linear=True)
    assert kept == {"bn": 3, "flat": 12, "bn1d": 2}
