"""What `import compress` offers, used as the documentation shows it."""

import gc
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import compress
from compress.errors import InputError


class Own(nn.Module):
    """Somebody's network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.body(x)).mean((2, 3)))


IMAGES = torch.randn(2, 3, 8, 8)


def test_groups_plan_cut_mask_and_cost() -> None:
    model = Own().eval()
    groups = compress.channel_groups(model, IMAGES)
    assert [(group.name, group.width) for group in groups] == [("stem", 16)]
    plan = compress.Plan({groups[0].name: [0, 3, 4, 9]})
    small = compress.cut(model, plan)
    assert small is not model
    assert small.stem.out_channels == 4
    assert model.stem.out_channels == 16
    with torch.no_grad(), compress.masked(model, plan) as wide:
        assert wide is model
        assert torch.allclose(wide(IMAGES), small(IMAGES), atol=1e-5)
    assert not torch.allclose(model(IMAGES), small(IMAGES), atol=1e-3)
    cost = compress.cost(model, IMAGES)
    assert cost.macs(plan) == 64 * 9 * (3 * 4 + 4 * 4) + 4 * 4 == compress.counts(small, IMAGES).macs
    assert cost.params(plan) == sum(p.numel() for p in small.parameters())
    assert cost.macs([[16], [4]]).tolist() == [cost.full_macs, cost.macs(plan)]


def test_plans_take_whatever_lists_whole_numbers() -> None:
    expected = compress.Plan({"stem": (0, 1, 2)})
    for given in ([0, 1, 2], range(3), torch.arange(3), torch.arange(3).numpy()):
        assert compress.Plan({"stem": given}) == expected
    for wrong in ([1, 0], [0, 0], [0.5], torch.tensor([True, False])):
        with pytest.raises(ValueError, match="plan for stem"):
            compress.Plan({"stem": wrong})


def test_a_network_never_seen_needs_an_example() -> None:
    model, plan = Own(), compress.Plan({"stem": range(4)})
    with pytest.raises(InputError, match=r"Own: its channels are not known yet; call compress\.channel_groups"):
        compress.cut(model, plan)
    assert compress.cut(model, plan, example=(3, 8, 8)).stem.out_channels == 4
    small = compress.cut(model, plan)
    assert compress.channel_groups(small, IMAGES)[0].width == 4
    with pytest.raises(InputError, match=r"example: must be images \(B, C, H, W\) or the shape"):
        compress.channel_groups(model, [IMAGES])
    with pytest.raises(
        ValueError, match="plan empties group 'stem', which runs through head, a Linear; .* emptied: none"
    ):
        compress.cut(model, compress.Plan({"stem": []}))
    with pytest.raises(ValueError, match="plan names group 'stemm'; there are stem"):
        compress.cost(model, IMAGES).macs(compress.Plan({"stemm": [0]}))


def test_a_network_that_changed_is_looked_at_again() -> None:
    model = Own()
    assert compress.channel_groups(model, IMAGES)[0].width == 16
    model.stem, model.body, model.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Linear(6, 4)
    assert compress.channel_groups(model, IMAGES)[0].width == 6


def test_looking_at_a_network_does_not_keep_it_alive() -> None:
    def look() -> "weakref.ref[Own]":
        model = Own()
        plan = compress.Plan({compress.channel_groups(model, IMAGES)[0].name: range(4)})
        with compress.masked(model, plan):
            pass
        return weakref.ref(model)

    seen = look()
    gc.collect()
    assert seen() is None


def test_uniform_plans_meet_the_ratio() -> None:
    model = Own()
    cost = compress.cost(model, IMAGES)
    for ratio in (0.3, 0.5, 0.9, 1.0):
        plan = compress.uniform_plan(model, IMAGES, preserve_ratio=ratio, round_to=2)
        assert len(plan.kept["stem"]) % 2 == 0
        assert cost.macs(plan) <= ratio * cost.full_macs
    with pytest.raises(InputError, match="out of reach; the narrowest allowed widths have"):
        compress.uniform_plan(model, IMAGES, preserve_ratio=0.01)
    with pytest.raises(InputError, match=r"preserve_ratio=1.5: must be in \(0, 1\]"):
        compress.uniform_plan(model, IMAGES, preserve_ratio=1.5)


def test_control_flow_on_values_is_told_with_its_line() -> None:
    class Dynamic(Own):
        def forward(self, x: Tensor) -> Tensor:
            if x.mean() > 0:
                x = 2 * x
            return super().forward(x)

    with pytest.raises(InputError, match=r"test_api\.py:\d+: if x\.mean\(\) > 0: .* move what depends on values"):
        compress.channel_groups(Dynamic(), IMAGES)


def test_importing_compress_does_not_load_torch() -> None:
    code = "import sys, compress; assert 'torch' not in sys.modules; compress.Plan; assert 'torch' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'prunne'; it has Plan, channel_groups"):
        _ = compress.prunne


def test_every_public_name_is_there_and_documented() -> None:
    assert len(compress.__all__) >= 9
    for name in compress.__all__:
        assert getattr(compress, name).__doc__, name


def test_onnx_files_give_the_same_logits(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = Own()
    compress.channel_groups(model, IMAGES)
    small = compress.cut(model, compress.Plan({"stem": [1, 5, 7]}))
    assert compress.export_onnx(small, tmp_path / "small.onnx", IMAGES) < 1e-4
    assert small.training  # as it was
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    for batch in (1, 5):
        images = torch.randn(batch, 3, 8, 8)
        (logits,) = session.run(None, {"images": images.numpy()})
        assert torch.allclose(torch.from_numpy(logits), small.eval()(images), atol=1e-5)


def test_the_zoo_by_name() -> None:
    counted = compress.counts(compress.zoo("resnet20_cs"), (3, 32, 32))
    assert (counted.macs, counted.params_with_selection) == (159_042_048, 1_111_882)
    with_bias = compress.zoo("vgg11_bn", (1, 32, 32), 4, conv_bias=True)
    assert with_bias(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    with pytest.raises(InputError, match=r"resnet21: not a network of the zoo; did you mean resnet"):
        compress.zoo("resnet21")
    with pytest.raises(InputError, match="unknown key widht; did you mean width"):
        compress.zoo("resnet20", widht=3)


def test_masks_do_not_nest_and_survive_inference_mode() -> None:
    model = Own().eval()
    compress.channel_groups(model, IMAGES)
    plan, other = compress.Plan({"stem": [0, 3]}), compress.Plan({"stem": [1, 2, 5]})
    before = model(IMAGES)
    with torch.inference_mode(), compress.masked(model, plan):
        with pytest.raises(InputError, match="Own: is masked already"), compress.masked(model, other):
            pass
        model(IMAGES)
    with torch.no_grad(), compress.masked(model, other):
        masked = model(IMAGES)
    assert torch.allclose(masked, compress.cut(model, other)(IMAGES), atol=1e-5)
    assert torch.equal(model(IMAGES), before)


def test_a_network_is_looked_at_anew_where_an_example_is_given() -> None:
    model = Own()
    assert len(compress.channel_groups(model, IMAGES)) == 1
    model.body[1] = nn.Softmax(1)  # of the same shapes, and it mixes channels
    assert len(compress.channel_groups(model, IMAGES)) == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_misuse_is_told_in_one_line() -> None:
    model = Own()
    compress.channel_groups(model, IMAGES)
    cost = compress.cost(model, IMAGES)
    for wrong, told in (
        (lambda: compress.cut(model, {"stem": [0]}), "plan: must be a compress.Plan, not dict"),
        (lambda: compress.Plan([1]), "a plan must map names of groups to the channels that stay"),
        (lambda: compress.Plan({"stem": 4}), "plan for stem must be a list of whole numbers"),
        (lambda: cost.macs(compress.Plan({"stem": [99]})), r"plan for stem: channels must be in \[0, 16\)"),
        (lambda: cost.macs([[1, 2, 3]]), "widths of 3 groups given; there are 1"),
        (lambda: compress.channel_groups(model, 8), "example: must be images"),
        (lambda: compress.channel_groups(model, (3, 8)), r"got \(3, 8\)"),
        (lambda: compress.channel_groups(model, IMAGES[0]), "cannot run stem on such images"),
        (lambda: compress.channel_groups(model, {"x": 3}), "got {'x': 3}"),
        (lambda: compress.channel_groups(model, {"y": IMAGES}), "unexpected keyword argument 'y'"),
        (lambda: compress.channel_groups(model, IMAGES[:0]), "a batch with at least one element"),
        (lambda: compress.channel_groups(torch.jit.script(nn.ReLU()), IMAGES), "an nn.Module that is not scripted"),
        (
            lambda: compress.uniform_plan(model, IMAGES, preserve_ratio=0.5, round_to=8.0),
            "round_to=8.0: must be a whole",
        ),
        (lambda: compress.zoo("resnet20", classes=-1), "classes=-1: must be >= 1"),
        (lambda: compress.export_onnx(model, "/nope/a.onnx", IMAGES), "there is no folder /nope"),
        (lambda: compress.counts(model, (1, 8, 8)), "Own: cannot run on 1x8x8 images"),
    ):
        with pytest.raises(ValueError, match=told) as error:
            wrong()
        assert "\n" not in str(error.value)


def test_groups_print_in_a_line() -> None:
    groups = compress.channel_groups(Own(), IMAGES)
    assert repr(groups) == "1 groups of 3 layers, 0 of them frozen"
    assert (
        repr(groups[0]) == "ChannelGroup(name='stem', width=16, consumers=('body.2', 'head'), outputs_per_channel=1)"
    )
    assert set(dir(compress)) == set(compress.__all__)


class Compared(nn.Module):
    """Features by their distances to prototypes, for which no formula counts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.near, self.head = nn.Conv2d(3, 16, 3, padding=1), Near(), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.near(self.stem(x).mean((2, 3)))))


class Near(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(5, 16))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.prototypes)


@pytest.mark.parametrize(
    "call",
    [compress.cost, compress.counts, lambda model, images: compress.uniform_plan(model, images, preserve_ratio=1)],
)
def test_what_no_formula_counts_is_warned_of_once_with_its_layer(call: Callable[..., object]) -> None:
    with pytest.warns(UserWarning, match="Compared") as told:
        call(Compared(), IMAGES)
    assert [str(warning.message) for warning in told] == [
        "Compared: its MACs leave out what has no formula (near runs cdist)"
    ]
    if call in (compress.cost, compress.counts):
        assert told[0].filename == __file__  # the line of whoever asks
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(Own(), IMAGES)


def test_a_price_holds_what_it_leaves_out() -> None:
    with pytest.warns(UserWarning, match="near runs cdist"):
        cost = compress.cost(Compared(), IMAGES)
    assert cost.uncounted == {"near": ("cdist",)}
    assert cost.full_macs == 64 * 9 * 3 * 16 + 5 * 4
