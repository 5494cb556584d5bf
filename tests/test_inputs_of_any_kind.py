"""Networks of other things than one image, and inside wrappers: groups, the law, prices, messages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from lawful import Runs
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import compress
from compress.errors import InputError
from compress.models.inputs import Inputs, tensors_in


@dataclass
class Answer:
    logits: Tensor
    more: Any = None


def two_images(s: Any, left: Tensor, right: Tensor) -> Tensor:
    return s.head((s.a(left) + s.b(right)).mean((2, 3)))  # type: ignore[no-any-return]


def of_words(s: Any, tokens: Tensor, mask: Tensor) -> Answer:
    x = s.words(tokens) * mask[..., None]
    states, _ = s.layer(x)
    return Answer(s.head(states[:, -1]), {"states": [s.side(states)]})


def of_a_list(s: Any, images: list[Tensor], extra: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{"out": s.head(s.a(image[None]).mean((2, 3)) * s.b(extra["scale"]))} for image in images]


def volumes(s: Any, x: Tensor) -> tuple[Tensor, None]:
    return s.head(s.b(s.a(x).relu()).mean((2, 3, 4))), None


TOKENS = torch.tensor([[1, 5, 2, 0], [3, 3, 1, 4]])
# widths of the groups; the network; what it is called with
KINDS: dict[str, tuple[dict[str, int], nn.Module, Any]] = {
    "vectors": (
        {"a": 8, "b": 6},
        Runs(lambda s, x: s.head(s.b(s.a(x).relu()).relu()), a=nn.Linear(5, 8), b=nn.Linear(8, 6),
             head=nn.Linear(6, 3)),
        torch.randn(4, 5),
    ),
    "sequences": (
        {"a": 8, "b": 6},
        Runs(lambda s, x: s.head(s.b(s.a(x))[0][:, -1]), a=nn.Linear(5, 8), b=nn.GRU(8, 6, batch_first=True),
             head=nn.Linear(6, 3)),
        torch.randn(4, 7, 5),
    ),
    "places by their numbers": (
        {"a": 8}, Runs(lambda s, x, at: s.head(s.a(x)[:, at].mean(1)), a=nn.Linear(5, 8), head=nn.Linear(8, 3)),
        (torch.randn(2, 7, 5), torch.tensor([0, 3])),
    ),
    "volumes": (
        {"a": 8, "b": 6}, Runs(volumes, a=nn.Conv3d(2, 8, 3), b=nn.Conv3d(8, 6, 1), head=nn.Linear(6, 3)),
        torch.randn(2, 2, 4, 4, 4),
    ),
    "sound": (
        {"a": 8}, Runs(lambda s, x: s.head(s.a(x).mean(2)), a=nn.Conv1d(2, 8, 3), head=nn.Linear(8, 3)),
        torch.randn(2, 2, 16),
    ),
    "two images": (
        {"a": 8}, Runs(two_images, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(1, 8, 1), head=nn.Linear(8, 3)),
        (torch.randn(2, 3, 4, 4), torch.randn(2, 1, 4, 4)),
    ),
    "two images by their names": (
        {"a": 8}, Runs(two_images, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(1, 8, 1), head=nn.Linear(8, 3)),
        {"right": torch.randn(2, 1, 4, 4), "left": torch.randn(2, 3, 4, 4)},
    ),
    "words": (
        {"words": 8, "layer": 6},
        Runs(of_words, words=nn.Embedding(10, 8), layer=nn.LSTM(8, 6, batch_first=True), head=nn.Linear(6, 3),
             side=nn.Linear(6, 2)),
        {"tokens": TOKENS, "mask": TOKENS > 0},
    ),
    "lists of images and a dictionary": (
        {"a": 8}, Runs(of_a_list, a=nn.Conv2d(3, 8, 1), b=nn.Linear(4, 8), head=nn.Linear(8, 3)),
        ([torch.randn(3, 4, 4), torch.randn(3, 6, 4)], {"scale": torch.randn(1, 4)}),
    ),
}  # fmt: skip


def called(model: nn.Module, example: Any) -> list[Tensor]:
    args, kwargs = (example, {}) if isinstance(example, tuple) else ((), example)
    return list(tensors_in(model(*args, **kwargs) if isinstance(example, tuple | dict) else model(example)))


def in_float64(example: Any) -> Any:
    given = Inputs((example,)).with_each(lambda t: t.double() if t.is_floating_point() else t)
    return given.args[0]


def one_of(example: Any) -> Any:
    return example[:1] if isinstance(example, Tensor) else example


def flops(model: nn.Module, example: Any) -> int:
    """By torch's own counter, on the meta device, where no kernel is fused."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        called(model.to("meta"), Inputs((one_of(example),)).with_each(lambda t: t.to("meta")).args[0])
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("kind", KINDS)
def test_groups_the_law_and_prices(kind: str) -> None:
    expected, model, example = KINDS[kind]
    torch.manual_seed(0)
    model, example = model.double().eval(), in_float64(example)
    groups = compress.channel_groups(model, example)
    assert {group.name: group.width for group in groups} == expected
    cost = compress.cost(model, example)
    plan = compress.Plan({name: sorted(torch.randperm(width)[:3].tolist()) for name, width in expected.items()})
    small = compress.cut(model, plan)
    with torch.no_grad(), compress.masked(model, plan):
        wide = called(model, example)
    with torch.no_grad():
        narrow = called(small, example)
    assert len(wide) == len(narrow)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(wide, narrow, strict=True))
    assert compress.counts(small, example).macs == cost.macs(plan)
    assert sum(p.numel() for p in small.parameters()) == cost.params(plan)
    assert compress.uniform_plan(model, example, preserve_ratio=0.7, round_to=1).kept.keys() == expected.keys()
    assert cost.macs(plan) == flops(small, example)


@pytest.mark.parametrize("wrapped", [torch.compile, nn.DataParallel, lambda m: nn.DataParallel(torch.compile(m))])
def test_a_wrapped_network_is_looked_at_inside(wrapped: Callable[[nn.Module], nn.Module]) -> None:
    expected, model, example = KINDS["vectors"]
    model, example = model.double().eval(), example.double()
    outer = wrapped(model)
    groups = compress.channel_groups(outer, example)
    assert {group.name: group.width for group in groups} == expected
    plan = compress.Plan({"a": [1, 2, 5], "b": [0, 3]})
    small = compress.cut(outer, plan)
    assert type(small) is Runs
    with torch.no_grad(), compress.masked(outer, plan):
        assert torch.allclose(outer(example), small(example), atol=1e-12)
    assert compress.cost(outer, example).macs(plan) == compress.counts(small, example).macs
    assert compress.counts(outer, example) == compress.counts(model, example)


def test_parts_that_are_wrapped_are_looked_at_inside() -> None:
    inside = nn.Sequential(nn.Linear(5, 8), nn.ReLU())
    model = nn.Sequential(torch.compile(inside), nn.DataParallel(nn.Linear(8, 7)), nn.Linear(7, 3)).eval()
    before = [dict(vars(module)) for module in model.modules()]
    images = torch.randn(2, 5)
    groups = compress.channel_groups(model, images)
    assert {group.name: group.width for group in groups} == {"0._orig_mod.0": 8, "1.module": 7}
    plan = compress.Plan({group.name: [1, 4] for group in groups})
    small: Any = compress.cut(model, plan)
    with torch.no_grad(), compress.masked(model, plan):
        masked = model(images)
    narrow = nn.Sequential(small[0]._orig_mod, small[1].module, small[2])
    assert torch.allclose(narrow(images), masked, atol=1e-6)
    assert compress.cost(model, images).macs(plan) == compress.counts(narrow, images).macs
    assert [dict(vars(module)) for module in model.modules()] == before


def test_whole_numbers_are_data_and_kept() -> None:
    _, model, example = KINDS["words"]
    with pytest.raises(InputError, match=r"Runs: cannot run on inputs of 2x4, 2x4 \(index out of range"):
        compress.counts(model, {**example, "tokens": TOKENS + 9})


def test_a_network_of_which_nothing_can_be_cut_says_why() -> None:
    for model, why in (
        (Runs(lambda s, x: s.a(x), a=nn.Linear(5, 8)), "all that its layers write is its output"),
        (Runs(lambda s, x: x * 2), "it has no layers"),
        (
            Runs(lambda s, x: s.b(s.a(x), s.a(x)), a=nn.Linear(5, 8), b=nn.Bilinear(8, 8, 3)),
            "b is a Bilinear that the channel graph does not know; a passes through 'b'",
        ),
        (
            Runs(lambda s, x: s.b(s.a(x).softmax(1)), a=nn.Linear(5, 8), b=nn.Linear(8, 3)),
            "a passes through 'softmax'",
        ),
    ):
        with pytest.raises(InputError, match=r"Runs: no channel of this network can be cut \(") as error:
            compress.uniform_plan(model, torch.randn(2, 5), preserve_ratio=0.5)
        assert why in str(error.value)


@pytest.mark.parametrize(
    "idle",
    [nn.Conv1d(2, 3, 1), nn.ConvTranspose2d(2, 3, 1), nn.LSTM(2, 3), nn.GRUCell(2, 3), nn.Embedding(4, 3),
     nn.Bilinear(2, 2, 3), nn.MultiheadAttention(4, 2), nn.Linear(2, 3)],
)  # fmt: skip
def test_a_layer_that_is_never_run_is_named(idle: nn.Module) -> None:
    model = Runs(lambda s, x: s.b(s.a(x)), a=nn.Linear(5, 8), b=nn.Linear(8, 3), idle=idle)
    groups = compress.channel_groups(model, torch.randn(2, 5))
    assert groups.frozen["idle"] == "is never run"
    assert len(groups) == 1


def test_an_embedding_that_is_read_by_the_unknown_is_named() -> None:
    model = Runs(lambda s, x: s.head(torch.cummax(s.words(x), -1)[0].mean(1)),
                 words=nn.Embedding(10, 8), head=nn.Linear(8, 3))  # fmt: skip
    groups = compress.channel_groups(model, TOKENS)
    assert len(groups) == 0
    assert "passes through 'cummax'" in groups.frozen["words"]
