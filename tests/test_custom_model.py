"""A network of somebody's own, from the command line: trained, cut, saved, exported, and told what is wrong."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose_config, run_command

import compress
from compress.config.built_jobs import problems_of
from compress.config.diagnose import diagnose
from compress.errors import InputError
from compress.io.code_digest import source_digest
from compress.io.files import read_json

HELPER = "from torch import nn\n\nACTIVATION = nn.ReLU\n"
CODE = """
from helper import ACTIVATION
from torch import nn


class SmallNet(nn.Module):
    def __init__(self, num_classes, in_channels, width=16):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1), nn.GroupNorm(4, width), ACTIVATION(),
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


class Dynamic(SmallNet):
    def forward(self, x):
        if x.mean() > 0:
            x = 2 * x
        return super().forward(x)


def wide(**settings):
    return SmallNet(in_channels=1, width=8, **settings)


def bare(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def none(num_classes):
    return "a net"


def broken(num_classes):
    raise KeyError("width")
"""
QUICK = ("experiment=quick", "device=cpu", "plots=false", "tensorboard=false")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_nets.py").write_text(CODE)
    (folder / "helper.py").write_text(HELPER)
    return folder


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_command(folder, "model=custom", *arguments, PYTHONPATH=".")


@pytest.mark.slow
def test_it_is_trained_cut_saved_and_exported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    own = ("model._target_=my_nets.SmallNet", "+model.width=24", "preserve_ratio=0.5", "eval.onnx=true", *QUICK)
    done = run(folder, *own, "hydra.run.dir=out")
    assert (done.returncode, done.stderr) == (0, "")
    summary = read_json(folder / "out" / "summary.json")
    assert 0.3 < summary["budget"]["achieved"]["preserve_ratio"] <= 0.5
    assert summary["stages"]["eval"]["onnx_difference"] < 1e-4
    assert {"macs", "fvcore", "ptflops", "metapruning"} <= set(summary["results"]["dense"])
    plan = read_json(folder / "out" / "plan.json")
    assert plan["layers"]["features.0"]["kept_width"] % 4 == 0  # four norm groups
    assert {name: layer["width"] for name, layer in plan["layers"].items()} == {
        "features.0": 24, "features.3": 48, "head": 10,
    }  # fmt: skip

    with pytest.raises(InputError, match=r"only functions of compress\.models\.\* are called for a file"):
        compress.load(folder / "out")
    monkeypatch.syspath_prepend(str(folder))
    from my_nets import SmallNet  # type: ignore[import-not-found]

    model: Any = compress.load(folder / "out", model=SmallNet(10, 1, 24))
    assert model.features[0].out_channels == plan["layers"]["features.0"]["kept_width"]
    import onnxruntime

    images = torch.randn(3, 1, 8, 8)
    (logits,) = onnxruntime.InferenceSession(folder / "out" / "model.onnx").run(None, {"images": images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), model(images), atol=1e-4)

    as_teacher = run_command(folder, *QUICK, "teacher=run", "teacher.run=out", "distill=kd", PYTHONPATH=".")
    assert as_teacher.returncode == 2
    assert as_teacher.stderr == (
        "compress: teacher.run=out: is my_nets.SmallNet, a network of your own, which a file may not call; "
        "use teacher=zoo model@teacher.model=custom teacher.model._target_=my_nets.SmallNet\n"
    )


def test_edited_code_is_other_code_wherever_it_lies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    seen = [source_digest("my_nets.SmallNet")]
    (folder / "my_nets.py").write_text(CODE.replace("3, 2, 1)", "3, 1, 1)"))
    seen.append(source_digest("my_nets.SmallNet"))
    (folder / "my_nets.py").write_text(CODE)
    (folder / "helper.py").write_text(HELPER.replace("ReLU", "Sigmoid"))
    seen.append(source_digest("my_nets.SmallNet"))
    (folder / "helper.py").write_text(HELPER)
    assert len(set(seen)) == 3
    assert None not in seen
    assert source_digest("my_nets.SmallNet") == seen[0]
    assert source_digest("compress.models.vgg.vgg") is None
    assert source_digest("torchvision.models.resnet18") is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "model._target_: must be given, the dotted path of your function or class"),
        (["model._target_=my_nets.Nope"], "model._target_=my_nets.Nope: cannot be imported"),
        (["model._target_=my_nets.SmallNet", "+model.widht=3"], "unknown key model.widht; did you mean width?"),
        (["model._target_=my_nets.SmallNet", "model.width=3"], "of your own is added: +model.width=3"),
        (["model._target_=my_nets.bare"], "model._target_=my_nets.bare: has no parameters to train"),
        (["model._target_=my_nets.Dynamic"], "my_nets.py:21: if x.mean() > 0: "),
        (["model._target_=my_nets.none"], "model._target_=my_nets.none: must return an nn.Module, not str"),
        (["model._target_=my_nets.broken"], "model._target_=my_nets.broken: raises KeyError: 'width'"),
        (["model._target_=my_nets.SmallNet", "+model.width=7"], "must be divisible by num_groups"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    if any(argument.startswith("model.width") for argument in arguments):  # refused before there is a config
        problems = diagnose(["model=custom", *arguments], problems_of)
    else:
        problems = problems_of(compose_config("model=custom", "device=cpu", *arguments))
    assert len(problems) == 1
    assert told in problems[0]


def test_the_command_tells_it_too(folder: Path) -> None:
    bad = run(folder, "model._target_=my_nets.Dynamic", "hydra.run.dir=bad")
    assert bad.returncode == 2
    assert len(bad.stderr.splitlines()) == 1
    assert not (folder / "bad").exists()


def test_a_function_of_any_settings_takes_what_it_is_given(folder: Path) -> None:
    done = run(folder, "model._target_=my_nets.wide", "+model.num_classes=10", *QUICK, "stages=[pretrain]")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_code_of_this_package_is_no_part_of_a_key() -> None:
    for ours in ("compress.models.resnet_cifar.resnet", "compress.data.digits.digits", "torch.nn.ReLU"):
        assert source_digest(ours) is None, ours
