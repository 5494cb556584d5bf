"""The paths of docs/deploy.md as they stand there, of a cut network that a run might have left."""

import importlib
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import livened, random_plan
from test_docs import snippets

from compress.config.zoo import zoo_spec
from compress.graph.build import channel_graph
from compress.io.paths import MODEL
from compress.prune.saved_network import save_network
from compress.prune.surgery import cut

SHAPE = (3, 32, 32)
NEAR, ROUNDED = 1e-5, 0.1  # of the largest logit: float noise; 8 bits of a network that was not trained


@pytest.fixture(params=["resnet20", "resnet20_cs"])
def names(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the first snippet leaves; the working folder holds the run, of a network of depth 8."""
    monkeypatch.chdir(tmp_path)
    spec = zoo_spec(request.param, SHAPE, 10, depth=8)
    torch.manual_seed(0)
    model = livened(spec.build())
    plan = random_plan(channel_graph(model, SHAPE), 0.6)
    (tmp_path / "outputs" / "run").mkdir(parents=True)
    save_network(tmp_path / "outputs" / "run" / MODEL, cut(model, channel_graph(model, SHAPE), plan), spec, plan)
    found: dict[str, Any] = {}
    exec(snippets("docs/deploy.md")[0], found)
    return found


def run(names: dict[str, Any], *words: str) -> None:
    """The snippets with these words in them; packages' own warnings aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for word in words:
            (snippet,) = [text for text in snippets("docs/deploy.md") if word in text]
            exec(snippet, names)


def difference(names: dict[str, Any], logits: torch.Tensor) -> float:
    """From the network's logits of as many images, as a share of the largest."""
    with torch.no_grad():
        wanted = names["network"](names["images"][: len(logits)])
    return float((logits.detach() - wanted).abs().max() / wanted.abs().max())


def by_onnxruntime(file: str, images: torch.Tensor) -> torch.Tensor:
    onnxruntime = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def test_there_is_a_path_to_each() -> None:
    assert len(snippets("docs/deploy.md")) == 6


@pytest.mark.slow  # tracing takes long
def test_to_torch_export(names: dict[str, Any]) -> None:
    run(names, "torch.export.save")
    assert difference(names, names["logits"]) < NEAR


def test_to_torchscript(names: dict[str, Any]) -> None:
    run(names, "torch.jit.trace")
    assert difference(names, names["logits"]) < NEAR


@pytest.mark.slow  # tracing takes long
@pytest.mark.skipif(not find_spec("onnxruntime"), reason="the extra onnx is not installed")
def test_to_onnx_and_its_int8(names: dict[str, Any]) -> None:
    run(names, "compress.export_onnx", "quantize_static")
    assert difference(names, by_onnxruntime("small.onnx", names["images"][:3])) < NEAR
    assert NEAR < difference(names, by_onnxruntime("small-int8.onnx", names["images"][:3])) < ROUNDED


@pytest.mark.slow  # tracing takes long
@pytest.mark.skipif(not find_spec("torchao"), reason="torchao is not installed")
def test_to_int8_by_torchao(names: dict[str, Any]) -> None:
    run(names, "torch.export.save", "convert_pt2e")
    assert NEAR < difference(names, names["logits"]) < ROUNDED
