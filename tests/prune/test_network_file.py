"""A pruned network is rebuilt from its file alone."""

from pathlib import Path

import pytest
import torch
from conftest import livened, random_plan

from compress.models.spec import ModelSpec
from compress.prune.groups import channel_graph
from compress.prune.network import load_network, save_network
from compress.prune.surgery import cut
from compress.settings import InputError

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
