"""A pruned network is rebuilt from its file alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import livened, random_plan
from torch import Tensor, nn

from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.io.tensors import read_weights, write_weights
from compress.models.masks import MASK, masked_layers, set_masks
from compress.models.spec import ModelSpec
from compress.prune.saved_network import load_network, save_network
from compress.prune.surgery import cut
from compress.prune.weight_masks import sparsity_report, weight_masks

SPEC = ModelSpec(
    "compress.models.resnet_cifar.resnet", {"depth": 8, "width": 8, "shortcut": "pad"}, (3, 16, 16), 10
)  # fmt: skip


def save(path: Path) -> torch.nn.Module:
    model = livened(SPEC.build())
    graph = channel_graph(model, SPEC.shape)
    plan = random_plan(graph, 0.5)
    small = cut(model, graph, plan)
    save_network(path, small, SPEC, plan)
    return small.eval()


def test_saved_and_loaded_give_the_same_logits(tmp_path: Path) -> None:
    small = save(tmp_path / "model.safetensors")
    state = torch.get_rng_state()
    loaded, _ = load_network(tmp_path / "model.safetensors")
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(loaded(x), small(x))
    assert not loaded.training
    torch.set_rng_state(state)


def test_files_that_are_not_ours_or_not_whole_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_network(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="has no header of compress"):
        load_network(path)


def save_masked(path: Path) -> nn.Module:
    """Half of the channels cut, then half of the weights masked; a kept weight is exactly zero."""
    small = save(path)
    masked = weight_masks(
        small,
        0.5,
        objects=["conv", "fc"],
        scope="global",
        criterion="percentile",
        on_empty="keep_max",
        min_weights=1,
    )
    set_masks(small, masked.masks)
    small.get_parameter("linear.weight").data.view(-1)[masked.masks["linear"].flatten().nonzero()[0]] = 0
    graph = channel_graph(SPEC.build(), SPEC.shape)
    save_network(path, small, SPEC, random_plan(graph, 0.5))
    return small


def rewrite(path: Path, masks: Any, **tensors: Tensor | None) -> None:
    weights, header = read_weights(path)
    changed: dict[str, Tensor | None] = {**weights, **tensors}
    write_weights(path, {n: t for n, t in changed.items() if t is not None}, {**header, "masks": masks})


def test_masks_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    small = save_masked(path)
    loaded, _ = load_network(path)
    assert list(masked_layers(loaded)) == list(masked_layers(small))
    assert len(masked_layers(loaded)) == 8
    for name, tensor in small.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    linear = sparsity_report(loaded)["layers"]["linear"]
    assert linear["kept"] == linear["nonzero"] + 1  # the mask is not w != 0


def test_a_mask_takes_a_bit_per_weight_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    small = save_masked(path)
    weights, header = read_weights(path)
    assert header["masks"] == list(masked_layers(small))
    for name, layer in masked_layers(small).items():
        assert weights[f"{name}.{MASK}"].shape == (-(-layer.get_parameter("weight").numel() // 8),)
    save(path)
    assert "masks" not in read_weights(path)[1]


def test_a_layer_under_two_names_has_one_mask(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = nn.Conv2d(3, 3, 1)
            self.linear = nn.Linear(3, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.second(self.first(x)).mean((2, 3)))

    model = Twice()
    mask = torch.rand(3, 3, 1, 1) > 0.5
    set_masks(model, {"first": mask})
    save_network(tmp_path / "m", model, SPEC, Plan())
    weights, header = read_weights(tmp_path / "m")
    assert header["masks"] == ["first", "second"]
    assert weights[f"first.{MASK}"].shape == weights[f"second.{MASK}"].shape == (2,)
    loaded, _ = load_network(tmp_path / "m", Twice)
    assert torch.equal(loaded.get_buffer(f"second.{MASK}"), mask)
    assert list(masked_layers(loaded)) == ["first"]


def test_masked_weights_are_zero_whatever_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    small = save_masked(path)
    weights, header = read_weights(path)
    rewrite(path, header["masks"], **{"linear.weight": weights["linear.weight"] + 1})
    mask = small.get_buffer(f"linear.{MASK}")
    assert not load_network(path)[0].get_parameter("linear.weight")[~mask].any()


BITS = torch.zeros(3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("masks", "tensors", "told"),
    [
        (["away"], {f"away.{MASK}": BITS}, "away: the network has no layer of that name"),
        (["bn1"], {f"bn1.{MASK}": BITS}, "bn1: is a BatchNorm2d"),
        (["linear"], {f"linear.{MASK}": BITS}, "for 160 weights it is 20 bytes"),
        (["linear"], {f"linear.{MASK}": torch.zeros(160)}, "float32"),
        (["linear"], {f"linear.{MASK}": None}, "names a mask of linear, and it holds none"),
        ([], {}, "unknown: conv1.weight_mask"),
        (3, {}, "must list the names"),
        ([["conv1"]], {}, "must list the names"),
    ],
)
def test_masks_that_do_not_fit_are_told_in_one_line(
    tmp_path: Path, masks: Any, tensors: dict[str, Tensor | None], told: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_masked(path)
    rewrite(path, masks, **tensors)
    with pytest.raises(InputError) as error:
        load_network(path)
    assert told in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
