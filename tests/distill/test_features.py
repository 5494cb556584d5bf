"""Losses on feature maps against the oracle and their laws; where maps are read; what brings them to one shape."""

from typing import Any

import pytest
import torch
from conftest import CONF, zoo
from test_losses import ORACLE
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from compress.distill import adapters
from compress.distill.adapters import Shape
from compress.distill.distill import Distill
from compress.distill.feature_term import FeatureTerm
from compress.distill.features import at, at_doubts, hcl, hint, reviewkd, sp
from compress.distill.taps import shapes_of, stage_ends
from compress.errors import InputError, placed
from compress.models.resnet_cifar import resnet
from compress.train.objective import tapped


def oracle_maps() -> tuple[Tensor, Tensor]:
    """(4, 3, 8, 8), the student's and the teacher's."""
    n, c, h, w = torch.meshgrid(*(torch.arange(k, dtype=torch.float64) for k in (4, 3, 8, 8)), indexing="ij")
    phase = 0.7 * n + 1.3 * c + 0.4 * h + 0.25 * w
    return 1 + torch.sin(phase), 1 + torch.sin(phase + 0.5 * torch.cos(n + h))


STUDENT, TEACHER = oracle_maps()
LOSSES = {"at": at, "sp": sp, "hint": hint, "reviewkd": reviewkd}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- losses ----------------------------------------------------------------------------------------------------


def test_every_loss_is_the_oracles_and_in_float32_too() -> None:
    values = ORACLE["feature_losses"]
    for value, key in (
        (at([STUDENT[:, :2]], [TEACHER]), "at_p2_single_stage"),
        (hint([STUDENT], [TEACHER]), "hint_mse"),
        (sp([STUDENT], [TEACHER]), "sp"),
        (hcl(STUDENT, TEACHER), "hcl_one_stage_8x8"),
    ):
        assert value.item() == pytest.approx(values[key], abs=1e-10), key
    small = STUDENT.float(), TEACHER.float()
    assert hcl(*small).item() == pytest.approx(values["hcl_one_stage_8x8"], rel=1e-5)
    assert sp([small[0]], [small[1]]).item() == pytest.approx(values["sp"], rel=1e-5)


@pytest.mark.parametrize("name", ["at", "sp", "hint"])
def test_maps_are_summed_and_equal_maps_are_no_distance(name: str) -> None:
    loss = LOSSES[name]
    both = loss([STUDENT, 2 * TEACHER], [TEACHER, STUDENT])
    parts = loss([STUDENT], [TEACHER]) + loss([2 * TEACHER], [STUDENT])
    assert both.item() == pytest.approx(parts.item(), rel=1e-12)
    assert loss([STUDENT], [STUDENT]).item() == 0


def test_attention_and_similarities_know_no_scale_and_no_order_of_channels() -> None:
    for loss in (at, sp):
        value = loss([STUDENT], [TEACHER]).item()
        assert loss([3 * STUDENT], [TEACHER / 7]).item() == pytest.approx(value, rel=1e-10)
        assert loss([STUDENT[:, [2, 0, 1]]], [TEACHER]).item() == pytest.approx(value, rel=1e-10)
        assert hint([3 * STUDENT], [TEACHER]).item() != pytest.approx(hint([STUDENT], [TEACHER]).item(), rel=0.1)


def test_of_two_sizes_the_larger_is_averaged_down() -> None:
    pooled = F.avg_pool2d(TEACHER, 2)
    assert at([pooled[:, :1]], [TEACHER]).item() == at([pooled[:, :1]], [pooled]).item()
    assert at([TEACHER], [pooled[:, :1]]).item() == at([pooled], [pooled[:, :1]]).item()
    assert at([TEACHER[..., :4]], [TEACHER[:, :, :4]]).isfinite()  # one is wider, the other higher
    assert sp([pooled], [TEACHER]).isfinite()


def test_hcl_by_hand() -> None:
    """A difference of 1 in the left half of an 8 x 8 map, of -1 in the right half."""
    teacher = drawn(2, 3, 8, 8)
    sign = torch.ones(8, dtype=torch.float64)
    sign[4:] = -1
    assert hcl(teacher + sign, teacher).item() == pytest.approx((1 + 1 / 2 + 1 / 4 + 0) / 1.875)
    of_two = hcl(teacher[..., :2, :2] + sign[3:5], teacher[..., :2, :2])  # the 1 x 1 grid only
    assert of_two.item() == pytest.approx((1 + 0) / 1.5)
    assert hcl(teacher[..., :1, :1] + 1, teacher[..., :1, :1]).item() == pytest.approx(1)
    review = reviewkd([teacher + sign, teacher.mean((2, 3), keepdim=True) + 3], [teacher])
    assert review.item() == pytest.approx(1.75 / 1.875 + 9)


@pytest.mark.parametrize("name", ["at", "sp"])
def test_a_dead_map_and_a_single_image_are_finite_and_so_are_the_gradients(name: str) -> None:
    for maps in (torch.zeros(2, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.full((2, 3, 4, 4), 1e4)):
        student = maps.clone().requires_grad_()
        value = LOSSES[name]([student], [drawn(len(maps), 5, 4, 4).float().relu()])
        value.backward()
        assert value.isfinite()
        assert student.grad is not None
        assert student.grad.isfinite().all()


# -- where they are read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("resnet8x4", {"layer1": (64, 32, 32), "layer2": (128, 16, 16), "layer3": (256, 8, 8)}),
        (
            "vgg16_bn",
            {
                "features.5": (64, 32, 32),
                "features.12": (128, 16, 16),
                "features.22": (256, 8, 8),
                "features.32": (512, 4, 4),
                "features": (512, 2, 2),
            },
        ),
        (
            "mobilenetv1",
            {
                "features.1": (64, 16, 16),
                "features.3": (128, 8, 8),
                "features.5": (256, 4, 4),
                "features.11": (512, 2, 2),
                "features": (1024, 1, 1),
            },
        ),
    ],
)
def test_the_ends_of_stages_and_what_they_give(name: str, ends: dict[str, Any]) -> None:
    network = zoo(name)
    found = stage_ends(network, (3, 32, 32))
    assert dict(zip(found, shapes_of(network, found, (3, 32, 32)), strict=True)) == ends


ALL = sorted({path.stem for path in (CONF / "model").glob("*.yaml")} - {"custom", "timm", "torchvision"})
FAMILIES = ["resnet20", "resnet32x4", "resnet8x4_cs", "resnet18", "resnet50", "vgg11_bn", "mobilenetv2"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAMILIES else pytest.mark.slow) for name in ALL]
)
def test_every_network_of_the_zoo_has_its_stages(name: str) -> None:
    """Also of bottlenecks, whose first convolution still has the size of the stage before."""
    network = zoo(name).train()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    ends = stage_ends(network, (3, 32, 32))
    if ends[0].startswith("layer"):
        assert ends == [f"layer{n + 1}" for n in range(4 if name in ("resnet18", "resnet34", "resnet50") else 3)]
    else:
        assert len(ends) == 5
        assert ends[-1] == "features"
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in network.modules())


def test_a_network_without_chains_gives_its_children_and_a_pooling_is_no_stage() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
            self.d, self.e = nn.AdaptiveAvgPool2d(1), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.e(self.d(self.c(self.b(self.a(x)))).flatten(1))  # type: ignore[no-any-return]

    assert stage_ends(Flat(), (1, 8, 8)) == ["b"]
    chain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Conv2d(2, 2, 2, 2), nn.ReLU()), nn.MaxPool2d(2))
    assert stage_ends(chain, (1, 8, 8)) == ["0", "1"]


def test_a_chain_with_a_forward_of_its_own_is_a_block() -> None:
    class Twice(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(super().forward(x))  # type: ignore[no-any-return]

    network = nn.Sequential(nn.Sequential(Twice(nn.Conv2d(1, 1, 3, 2, 1)), nn.ReLU()), nn.Conv2d(1, 2, 1))
    assert stage_ends(network, (1, 8, 8)) == ["1"]  # its inner 4 x 4 is not seen


def test_features_are_as_they_were_at_the_tap_in_a_network_that_works_in_place() -> None:
    """torchvision's resnet18: bn1 of a block is followed by an in-place ReLU, and so is the sum."""
    torch.manual_seed(0)
    network = models.resnet18(num_classes=4).eval()
    images = torch.randn(2, 3, 32, 32)
    ends = tuple(stage_ends(network, (3, 32, 32)))
    assert ends == ("layer1", "layer2", "layer3", "layer4")
    with torch.no_grad(), tapped(network, (*ends, "layer2.0.bn1", "bn1")) as seen:
        network(images)
        stem = network.bn1(network.conv1(images))
        first = network.layer1(network.maxpool(stem.relu()))
    assert torch.equal(seen["bn1"], stem)
    assert torch.equal(seen["layer1"], first)
    assert seen["layer2.0.bn1"].min() < 0
    assert all(seen[end].min() >= 0 for end in ends)


def test_taps_that_give_no_map_are_refused() -> None:
    network = resnet(depth=8, width=4, shortcut="conv", in_channels=1, num_classes=3)
    network.spare = nn.Conv2d(1, 1, 1)
    for tap, told in (
        ("layer9", "layer9: no module of this network; did you mean layer"),
        ("linear", r"linear: returns \(2, 3\); must be a map \(B, C, H, W\)"),
        ("spare", "spare: is not called by this network"),
    ):
        with pytest.raises(InputError, match=f"^{told}"):
            shapes_of(network, [tap], (1, 8, 8))


def test_the_weight_of_attention_is_doubted_where_maps_are_small() -> None:
    for weight, pixels in ((1000, [1024, 256, 64]), (62.5, [64, 16, 4]), (1000, [3136, 784, 196, 49])):
        assert at_doubts(weight, pixels) == []
    (told,) = at_doubts(1000, [64, 16, 4, 1])
    assert placed(told) == (
        "weight=1000: of maps of 64, 16, 4, 1 pixels this loss is 16 times that of 1024, 256 and 64 pixels, for "
        "which 1000 was published; that is 62.5 here"
    )
    assert at_doubts(1000, [1]) == []  # constant
    with torch.no_grad():
        pooled = [F.interpolate(maps, scale_factor=4) for maps in (STUDENT, TEACHER)]
    assert at([pooled[0]], [pooled[1]]).item() == pytest.approx(at([STUDENT], [TEACHER]).item() / 16)


# -- adapters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "kind", "weight"),
    [
        ((3, 8, 8), nn.Conv2d, (5, 3, 1, 1)),
        ((3, 16, 16), nn.Conv2d, (5, 3, 3, 3)),
        ((3, 15, 16), nn.Conv2d, (5, 3, 3, 3)),
        ((3, 4, 4), nn.ConvTranspose2d, (3, 5, 4, 4)),
    ],
)
def test_a_regressor_brings_the_same_twice_and_half_the_size(student: Any, kind: Any, weight: Any) -> None:
    adapter = adapters.hint([Shape(*student)], [Shape(5, 8, 8)])
    (answer,) = adapter([torch.randn(2, *student)])
    conv, norm, relu = adapter[0]
    assert answer.shape == (2, 5, 8, 8)
    assert answer.min() == 0
    assert (type(conv), tuple(conv.weight.shape), len(conv.bias)) == (kind, weight, 5)
    assert (type(norm), type(relu)) == (nn.BatchNorm2d, nn.ReLU)


def test_sizes_that_no_regressor_brings_together_are_refused() -> None:
    with pytest.raises(InputError, match="not 3 x 8 x 8 to the teacher's 5 x 3 x 3"):
        adapters.hint([Shape(3, 8, 8)], [Shape(5, 3, 3)])


def test_the_review_gives_the_teachers_shapes_from_the_deepest_down() -> None:
    torch.manual_seed(0)
    student, teacher = [Shape(6, 8, 8), Shape(7, 4, 4)], [Shape(16, 8, 8), Shape(32, 2, 2)]
    review = adapters.reviewkd(student, teacher)
    maps = [torch.randn(2, *shape) for shape in student]
    assert [tuple(m.shape[1:]) for m in review(maps)] == [(16, 8, 8), (32, 2, 2), (32, 1, 1)]
    assert [level.gate is None for level in review.levels] == [False, False, True]
    assert {level.enter[0].out_channels for level in review.levels} == {7}  # the width of the student's deepest map
    assert adapters.reviewkd([Shape(600, 1, 1)], [Shape(4, 1, 1)]).levels[0].enter[0].out_channels == 512
    shallow, deep = review.eval()(maps), review([maps[0], maps[1] + 1])
    assert not torch.equal(shallow[0], deep[0])  # what is deeper reaches what is shallower
    other = review([maps[0] + 1, maps[1]])
    assert torch.equal(other[1], shallow[1])
    assert not torch.equal(other[0], shallow[0])


def test_a_level_by_hand() -> None:
    """With a gate that gives the student's own map 1/4 and the deeper one 3/4; the convolutions change nothing."""
    level = adapters.Level(Shape(1, 2, 2), Shape(1, 4, 4), 1, is_deepest=False).eval()
    with torch.no_grad():
        level.enter[0].weight.fill_(1)
        level.leave[0].weight.zero_()[..., 1, 1] = 1
        assert level.gate is not None
        level.gate.weight.zero_()
        level.gate.bias.copy_(torch.tensor([1 / 4, 3 / 4]).logit())
        own, deeper = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.full((1, 1, 1, 1), 8.0)
        answer, fused = level(own, deeper)
    wanted = (own / 4 + 6).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(fused, wanted, atol=1e-4)
    assert torch.allclose(answer, wanted, atol=1e-3)  # batch norms add 1e-5 to a variance of 1


# -- pairs -----------------------------------------------------------------------------------------------------


def term(loss: Any = at, **settings: Any) -> FeatureTerm:
    return FeatureTerm(**{"weight": 1.0, "loss": loss, **settings})


def test_stages_are_matched_from_the_deepest() -> None:
    torch.manual_seed(0)
    student, teacher = zoo("resnet20"), zoo("resnet18")
    image = (3, 32, 32)
    assert term().pair(student, teacher, image).teacher == ("layer2", "layer3", "layer4")
    assert term(ends=[-1]).pair(student, teacher, image).student == ("layer3",)
    fitted = term(hint, ends=[-2], adapter=adapters.hint, student=["layer2"], teacher=["layer1"])
    pairing = fitted.pair(student, teacher, image)
    assert (pairing.student, pairing.teacher) == (("layer2",), ("layer1",))
    with pytest.raises(InputError, match="^adapter: brings maps to the same, twice or half"):
        term(hint, ends=[-2], adapter=adapters.hint).pair(student, teacher, image)
    with pytest.raises(
        InputError, match=r"^ends=\[-5\]: the student has the ends of stages \[layer1, layer2, layer3\]"
    ):
        term(ends=[-5]).pair(student, teacher, image)
    with pytest.raises(InputError, match=r"^ends=null: the student has the ends of stages \[\]"):
        term().pair(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), teacher, image)


def test_what_is_given_for_one_network_must_be_given_for_the_other() -> None:
    image = (3, 32, 32)
    for wrong, told in (
        ({"student": ["layer1"]}, r"student=\[layer1\]: needs terms.a.teacher too"),
        (
            {"student": ["a", "b"], "teacher": ["a"]},
            r"teacher=\[a\]: must be as many modules as terms.a.student, \[a, b",
        ),
        ({"ends": []}, r"ends=\[\]: must name at least one"),
    ):
        with pytest.raises(InputError, match=rf"^terms\.a\.{told}"):
            Distill(stages=["finetune"], ce_weight=1.0, terms={"a": term(**wrong)})
    for name in ("a.b", "keys", "half"):
        with pytest.raises(InputError, match=rf"^terms\.{name}: cannot name a term on features"):
            Distill(stages=["finetune"], ce_weight=1.0, terms={name: term()})
    misspelt = term(student=["layer1"], teacher=["layr1"])
    with pytest.raises(
        InputError, match=r"^teacher=\[layr1\]: layr1: no module of this network; did you mean layer1"
    ):
        misspelt.pair(zoo("resnet20"), zoo("resnet20"), image)


def test_a_loss_of_ones_own_is_tried_before_a_run() -> None:
    def each(students: Any, teachers: Any) -> Any:
        return [s - t for s, t in zip(students, teachers, strict=True)]

    with pytest.raises(InputError, match=r"^terms\.own: must be a scalar tensor, not a list"):
        Distill(stages=["finetune"], ce_weight=1.0, terms={"own": term(each)}).check(10)
    with pytest.raises(InputError, match=r"^terms\.own: cannot be computed \(TypeError: "):
        Distill(stages=["finetune"], ce_weight=1.0, terms={"own": term(adapter=nn.Conv2d)}).check(10)
    assert all(term(loss, **given).check_value().isfinite() for loss, given in ((at, {}), (sp, {"ends": [-1]})))
    state = torch.get_rng_state()
    for name in ("hint", "reviewkd"):
        made = term(LOSSES[name], adapter=getattr(adapters, name))
        assert made.check_value().isfinite()
    assert torch.equal(torch.get_rng_state(), state)
