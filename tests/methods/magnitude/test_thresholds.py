"""Thresholds and counts by the rule, masks that only shrink, and layers that would keep nothing."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import compose_config
from torch import Tensor, nn

from compress.config.build import make
from compress.errors import InputError
from compress.methods.magnitude.magnitude import Magnitude
from compress.models.masks import apply_masks, set_masks
from compress.prune.method import Decision
from compress.prune.weight_masks import (
    Masked,
    pools,
    random_masks,
    share_masked,
    sparsity_report,
    uniform_masks,
    weight_masks,
)
from compress.schema.settings import Budget

MAGNITUDE: Magnitude = make(compose_config("method=magnitude")["method"])


def masks_of(model: nn.Module, percent: float, **changes: Any) -> Masked:
    settings: dict[str, Any] = {
        "objects": ["conv", "fc"],
        "scope": "global",
        "criterion": "percentile",
        "on_empty": "keep_max",
        "min_weights": 1,
    }
    return weight_masks(model, percent, **(settings | changes))


def plan_of(model: nn.Module, percent: float, **changes: Any) -> Decision:
    problem: Any = SimpleNamespace(model=model, budget=Budget("percent", percent))
    return replace(MAGNITUDE, **changes).plan(problem, None)


def net() -> nn.Sequential:
    """Three convolutions (dense, depthwise, 1x1) of 216 + 72 + 64 weights and a linear layer of 40."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)
    )
    for name in "0234":  # of one size, so that no layer is emptied early
        nn.init.normal_(model.get_parameter(f"{name}.weight"))
    return model


def linear(*rows: list[float]) -> nn.Sequential:
    """Linear layers with these weights, one row each."""
    layers = [nn.Linear(len(row), 1, bias=False) for row in rows]
    for layer, row in zip(layers, rows, strict=True):
        layer.weight.data = torch.tensor([row], dtype=torch.float32)
    return nn.Sequential(*layers)


def kept(masks: dict[str, Tensor]) -> dict[str, list[bool]]:
    return {name: mask.flatten().tolist() for name, mask in masks.items()}


def within(inner: dict[str, Tensor], outer: dict[str, Tensor]) -> bool:
    return all(not (mask & ~outer[name]).any() for name, mask in inner.items())


def test_the_pools_are_the_convolutions_and_the_linear_layers() -> None:
    model = net()
    found = pools(model, ["fc", "conv"])
    assert {pool: list(weights) for pool, weights in found.items()} == {"conv": ["0", "2", "3"], "fc": ["4"]}
    assert sum(weight.numel() for weight in found["conv"].values()) == 216 + 72 + 64
    assert list(pools(model, ["fc"])) == ["fc"]
    assert list(masks_of(model, 0.5, objects=["fc"]).masks) == ["4"]


def test_a_shared_weight_counts_once_and_a_computed_one_not_at_all() -> None:
    model = linear([1, 2], [3, 4], [5, 6])
    model[1].weight = model[0].weight
    nn.utils.parametrizations.weight_norm(model[2])
    assert list(pools(model, ["fc"])["fc"]) == ["0"]
    assert sparsity_report(model)["prunable"]["total"] == 2


@pytest.mark.parametrize("criterion", ["percentile", "std"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_of_n_weights_the_product_and_one_more_go(criterion: str, scope: str) -> None:
    model = net()
    sizes = {
        name: weight.numel() for weights in pools(model, ["conv", "fc"]).values() for name, weight in weights.items()
    }
    parts = [["0", "2", "3"], ["4"]] if scope == "global" else [[name] for name in sizes]
    for percent in (0.05, 0.1, 0.15, 0.2, 0.25, 0.29, 0.3, 0.5, 0.58, 0.6, 0.7, 0.75, 0.8, 0.9):
        masked = masks_of(model, percent, criterion=criterion, scope=scope)
        assert not masked.refilled
        for part in parts:
            gone = sum(int((~masked.masks[name]).sum()) for name in part)
            assert gone == int(sum(sizes[name] for name in part) * percent) + 1


def test_the_share_is_a_product_of_floats_as_in_the_published_tables() -> None:
    model = linear([float(i) for i in range(1, 101)])
    masked = masks_of(model, 0.29)
    assert masked.levels == {"fc": 29.0}  # 100 * 0.29 is 28.999...; the weight at index 28 is 29
    assert int(masked.masks["0"].sum()) == 71


def test_a_weight_that_equals_the_threshold_goes() -> None:
    masked = masks_of(linear([-1, 2, -2, 2, 3, -4]), 1 / 6)
    assert masked.levels == {"fc": 2.0}
    assert masked.thresholds == {"0": 2.0}
    assert kept(masked.masks) == {"0": [False, False, False, False, True, True]}


def test_thresholds_are_float32_as_stored() -> None:
    model = net()
    weights = torch.cat([weight.detach().flatten() for weight in pools(model, ["conv"])["conv"].values()])
    masked = masks_of(model, 0.4)
    level = weights.abs().sort().values[int(len(weights) * 0.4)]
    assert masked.levels["conv"] == level.item()
    assert {masked.thresholds[name] for name in "023"} == {level.item()}
    for name in "023":
        assert torch.equal(masked.masks[name], model.get_parameter(f"{name}.weight").abs() > level)


def test_nothing_asked_for_prunes_nothing() -> None:
    model = linear([1, 2, 3], [4, 5, 6])
    masked = masks_of(model, 0.0, on_empty="error")
    assert masked.levels == {"fc": 0.0}
    assert masked.thresholds == {"0": 0.0, "1": 0.0}
    assert all(bool(mask.all()) for mask in masked.masks.values())


def test_a_threshold_per_layer_takes_the_same_share_of_each() -> None:
    model = linear([1, 2, 3, 4], [10, 20, 30, 40])
    masked = masks_of(model, 0.25, scope="layer")
    assert masked.levels == masked.thresholds == {"0": 2.0, "1": 20.0}
    assert kept(masked.masks) == {"0": [False, False, True, True], "1": [False, False, True, True]}
    assert kept(uniform_masks(model, 0.25, ["fc"]).masks) == kept(masked.masks)


def test_std_by_hand() -> None:
    """Deviations 5 and 130, so |w| / std is .2 .2 1.4 1.4 and .538 .538 1.308 1.308; index 2 is .538."""
    model = linear([1, -1, 7, -7], [70, -70, 170, -170])
    masked = masks_of(model, 0.25, criterion="std")
    q = 70 / 130
    assert masked.levels == pytest.approx({"fc": q})
    assert masked.thresholds == pytest.approx({"0": 5 * q, "1": 130 * q})
    assert kept(masked.masks) == {"0": [False, False, True, True], "1": [False, False, True, True]}
    assert kept(masks_of(model, 0.25).masks)["1"] == [True] * 4  # |w| itself would take all from the other


def test_std_of_a_layer_of_equal_weights_is_finite() -> None:
    masked = masks_of(linear([1, 1], [0, 0], [1, 2, 3, 5]), 0.9, criterion="std")
    assert json.loads(json.dumps(masked.levels | masked.thresholds, allow_nan=False))
    assert masked.refilled == ["0", "1", "2"]


@pytest.mark.parametrize("criterion", ["percentile", "std"])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("least", [1, 7])
def test_masks_are_nested_though_the_weights_move(criterion: str, scope: str, least: int) -> None:
    model = net()
    random = torch.Generator().manual_seed(1)
    last = masks_of(model, 0.0).masks
    for percent in (0.2, 0.5, 0.7, 0.9, 0.95, 0.99):
        masked = masks_of(model, percent, criterion=criterion, scope=scope, min_weights=least)
        assert within(masked.masks, last)
        if percent < 0.9:  # a share of all weights: those that went before are counted
            gone = sum(int((~masked.masks[name]).sum()) for name in "023")
            assert gone == int(352 * percent) + 1 or scope == "layer"
        assert all(int(mask.sum()) >= least for mask in masked.masks.values())
        set_masks(model, masked.masks)
        last = masked.masks
        with torch.no_grad():  # pruned ones too, and far: masks, not zeros, say what is pruned
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=random))


def test_of_the_same_weights_more_is_nested_in_less_also_where_layers_are_refilled() -> None:
    model = net()
    model[2].weight.data *= 0.01
    last = masks_of(model, 0.0, min_weights=20).masks
    for percent in (0.1, 0.15, 0.19, 0.2, 0.21, 0.25, 0.5, 0.9, 0.99):
        masks = masks_of(model, percent, min_weights=20).masks
        assert within(masks, last)
        last = masks
    assert int(last["2"].sum()) == 20


def test_a_kept_weight_that_is_zero_is_not_masked() -> None:
    model = linear([0, 1, 2, 3])
    set_masks(model, {"0": torch.tensor([[True, False, True, True]])})
    masks = masks_of(model, 0.0).masks
    assert kept(masks) == {"0": [True, False, True, True]}
    masks["0"].fill_(False)  # the model's own is another
    assert kept(masks_of(model, 0.0).masks) == {"0": [True, False, True, True]}


def test_an_empty_layer_keeps_its_largest() -> None:
    model = linear([0.1, -0.3, 0.2, 0.3], [1, 2, 3, 4])
    masked = masks_of(model, 0.5)  # the threshold is 1
    assert kept(masked.masks) == {"0": [False, True, False, False], "1": [False, True, True, True]}
    assert masked.refilled == ["0"]
    assert masked.thresholds == {"0": 1.0, "1": 1.0}
    masked = masks_of(model, 0.5, min_weights=2)
    assert kept(masked.masks)["0"] == [False, True, False, True]
    assert masked.refilled == ["0"]
    masked = masks_of(model, 0.5, min_weights=9)
    assert kept(masked.masks)["0"] == [True] * 4
    assert masked.refilled == []  # lost nothing


def test_a_layer_below_the_least_is_told_as_it_is() -> None:
    model = linear([0.1, -0.3, 0.2, 0.3], [1, 2, 3, 4, 5, 6])
    for least, told in (
        (1, ["1 layers would lose all of their weights, 0 first; the 1 largest of each stay"]),
        (2, ["1 layers would keep fewer than 2 weights, 0 first; the 2 largest of each stay"]),
        (4, []),  # keeps all it has
    ):
        assert plan_of(model, 0.4, min_weights=least).warnings == told


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_standard_deviations_are_no_thresholds(scope: str) -> None:
    """They have a name of their own, in the plan and so in tables."""
    model = linear([0.1, -0.3, 0.2, 0.3], [1, 2, 3, 4, 5, 6])
    parts = ["fc"] if scope == "global" else ["0", "1"]
    masked = masks_of(model, 0.4, criterion="std", scope=scope)
    own = plan_of(model, 0.4, criterion="std", scope=scope).own
    assert own["thresholds"] == {f"{part} std": masked.levels[part] for part in parts}
    assert own["layer_thresholds"] == masked.thresholds  # of |w|
    assert list(plan_of(model, 0.4, scope=scope).own["thresholds"]) == parts


def test_a_refilled_layer_takes_none_back() -> None:
    model = linear([5, 0, 0, 6], [1, 2, 3, 4])
    set_masks(model, {"0": torch.tensor([[False, True, True, False]])})
    model[0].weight.data[0, 0] = 7  # came back
    assert kept(masks_of(model, 0.6).masks)["0"] == [False, True, False, False]
    assert kept(masks_of(model, 0.6, min_weights=3).masks)["0"] == [False, True, True, False]


def test_an_empty_layer_may_be_an_error_that_says_how_far_one_can_go() -> None:
    model = linear([0.1, 0.2, 0.3, 0.35], [1, 2, 3, 4], [5, 6])
    with pytest.raises(InputError) as told:
        masks_of(model, 0.5, on_empty="error")
    assert str(told.value) == (
        "percent=0.5: leaves layer 0 no weight (threshold 2, its largest |w| 0.35); "
        "every fc layer keeps some with percent below 0.3, or choose on_empty=keep_max"
    )


@pytest.mark.parametrize("criterion", ["percentile", "std"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_strictly_below_the_limit_no_layer_is_empty_and_at_it_one_is(criterion: str, scope: str) -> None:
    model = net()
    model[3].weight.data *= 0.2
    asked: dict[str, Any] = {"criterion": criterion, "scope": scope, "objects": ["conv"]}
    limit = masks_of(model, 0.0, **asked).limits["conv"]
    assert 0.2 < limit < 1
    assert masks_of(model, 0.7, **asked).limits == {"conv": limit}
    assert not masks_of(model, limit - 1e-9, on_empty="error", **asked).refilled
    with pytest.raises(InputError, match="leaves layer"):
        masks_of(model, limit + 1e-9, on_empty="error", **asked)


def test_with_ties_the_limit_is_that_of_the_first_of_them() -> None:
    model = linear([1, 1, 1], [1, 2, 3])
    assert masks_of(model, 0.0).limits == {"fc": 0.0}
    assert masks_of(linear([1, 2, 2], [2, 2, 3]), 0.0).limits == {"fc": 1 / 6}


def test_there_must_be_something_to_prune() -> None:
    model = linear([1, 2])
    with pytest.raises(InputError, match=r"objects=\[conv\]: the network has no such layers"):
        masks_of(model, 0.5, objects=["conv"])
    assert set(masks_of(model, 0.5).levels) == {"fc"}


def test_a_share_masked_is_of_all_layers_together() -> None:
    masks = {"a": torch.tensor([[True, True], [True, False]]), "b": torch.tensor([True, *[False] * 5])}
    assert share_masked(masks) == pytest.approx(0.6)


def test_random_masks_keep_as_many_elsewhere() -> None:
    model = net()
    masks = masks_of(model, 0.6).masks
    drawn = random_masks(model, masks, seed=3)
    for name, mask in masks.items():
        assert drawn[name].shape == mask.shape
        assert int(drawn[name].sum()) == int(mask.sum())
        assert not torch.equal(drawn[name], mask)
    assert all(torch.equal(mask, drawn[name]) for name, mask in random_masks(model, masks, seed=3).items())
    assert any(not torch.equal(mask, drawn[name]) for name, mask in random_masks(model, masks, seed=4).items())


def test_random_masks_of_one_seed_are_nested() -> None:
    model = net()
    less, more = (random_masks(model, masks_of(model, percent).masks, seed=3) for percent in (0.4, 0.8))
    assert within(more, less)


def test_the_report_adds_up() -> None:
    model = net()
    masked = masks_of(model, 0.5)
    set_masks(model, {name: masked.masks[name] for name in "024"})
    first = model[0].weight.data
    first.view(-1)[masked.masks["0"].flatten().nonzero()[0]] = 0  # a kept weight that is zero
    report = sparsity_report(model)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert list(report["layers"]) == ["0", "2", "4"]
    layer = report["layers"]["0"]
    assert layer["shape"] == [8, 3, 3, 3]
    assert layer["total"] == 216
    assert layer["kept"] == int(masked.masks["0"].sum())
    assert layer["nonzero"] == layer["kept"] - 1
    assert layer["share_zero"] == pytest.approx(1 - layer["nonzero"] / 216)
    conv, fc = report["pools"]["conv"], report["pools"]["fc"]
    assert (conv["total"], fc["total"]) == (352, 40)
    assert conv["nonzero"] == sum(report["layers"][name]["nonzero"] for name in "02") + 64  # "3" has no mask
    assert fc["nonzero"] == report["layers"]["4"]["nonzero"] == 40 - 21
    for key in ("total", "nonzero"):
        assert report["prunable"][key] == conv[key] + fc[key]
    assert report["prunable"]["compression"] == pytest.approx(392 / (conv["nonzero"] + 19))
    parameters = list(model.parameters())
    assert report["parameters"]["total"] == sum(p.numel() for p in parameters)
    assert report["parameters"]["nonzero"] == sum(int((p != 0).sum()) for p in parameters)


def test_realised_sparsity_is_that_of_the_masks() -> None:
    model = net()
    set_masks(model, masks_of(model, 0.7).masks)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    apply_masks(model)
    report = sparsity_report(model)
    assert report["pools"]["conv"]["nonzero"] == 352 - int(352 * 0.7) - 1
    assert report["pools"]["fc"]["nonzero"] == 40 - 29
    assert all(layer["nonzero"] == layer["kept"] for layer in report["layers"].values())


def test_random_masks_revive_nothing() -> None:
    model = net()
    before = masks_of(model, 0.5).masks
    set_masks(model, before)
    drawn = random_masks(model, masks_of(model, 0.8).masks, seed=3)
    for name, mask in drawn.items():
        assert not bool((mask & ~before[name]).any())
        assert int(mask.sum()) > 0
