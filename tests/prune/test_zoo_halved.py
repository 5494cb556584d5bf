"""Every network of the zoo, by its YAML: half of it is exact, saved, read in a fresh process, and run elsewhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import livened, random_plan
from torch import nn

from compress.config.zoo import zoo_names, zoo_spec
from compress.graph.build import channel_graph
from compress.measure.macs import count_macs, count_params
from compress.models.onnx import export_onnx
from compress.prune.cost import cost_model
from compress.prune.saved_network import load_network, save_network
from compress.prune.surgery import cut, difference

NAMES = [name for name in zoo_names() if name not in ("custom", "timm", "torchvision")]
SHAPE = (3, 32, 32)
FAST = ("resnet8x4_cs", "mobilenetv2")  # in the fast suite; surgery has tests of its own


def test_every_network_of_the_zoo_is_listed() -> None:
    assert len(NAMES) == 29
    assert set(FAST) <= set(NAMES)


def half(name: str, path: Path) -> nn.Module:
    """The network cut to half of its channels, in `path`, the laws of surgery checked."""
    torch.manual_seed(0)
    spec = zoo_spec(name, SHAPE, 10)
    model = livened(spec.build())
    graph = channel_graph(model, SHAPE)
    cost, plan = cost_model(model, graph, SHAPE), random_plan(graph, 0.5)
    small = cut(model, graph, plan)
    assert difference(model, small, graph, plan, torch.randn(2, *SHAPE)) < 1e-10
    assert cost.macs(plan) == count_macs(small, SHAPE) < 0.6 * cost.full_macs
    assert cost.params(plan) == count_params(small)
    save_network(path, small, spec, plan)
    return small.eval()


READ = """
import json, sys, torch, compress
torch.set_num_threads(1)
images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    print(json.dumps([compress.load(path)(images).tolist() for path in sys.argv[1:]]))
"""


@pytest.mark.parametrize(
    "names",
    [[*FAST], pytest.param([n for n in NAMES if n not in FAST], marks=pytest.mark.slow)],
    ids=["fast", "rest"],
)
def test_half_of_every_network_is_exact_and_read_in_a_fresh_process(names: list[str], tmp_path: Path) -> None:
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    paths = {name: tmp_path / f"{name}.safetensors" for name in names}
    with torch.no_grad():
        expected = {name: half(name, path)(images) for name, path in paths.items()}
    read = subprocess.run([sys.executable, "-c", READ, *map(str, paths.values())], capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    for name, logits in zip(names, json.loads(read.stdout), strict=True):
        assert torch.equal(torch.tensor(logits), expected[name]), name


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_half_of_every_network_gives_the_same_logits_in_onnxruntime(name: str, tmp_path: Path) -> None:
    half(name, tmp_path / "small.safetensors")
    small, _ = load_network(tmp_path / "small.safetensors")
    assert export_onnx(small, tmp_path / "small.onnx", SHAPE) < 1e-4
