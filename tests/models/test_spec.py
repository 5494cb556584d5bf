"""The zoo by published counts, and files that fit, or say why not."""

import re
from argparse import Namespace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from torch import nn

from compress.errors import InputError
from compress.measure.counts import counts
from compress.measure.macs import count_macs, count_params
from compress.models.mobilenetv1 import mobilenetv1
from compress.models.resnet_cifar import resnet
from compress.models.resnet_x4 import resnet_x4
from compress.models.spec import ModelSpec, spec_from_json
from compress.models.weights import load_strictly, read_checkpoint

RESNET = "compress.models.resnet_cifar.resnet"


@pytest.mark.parametrize(
    ("depth", "shortcut", "params", "macs"),
    [
        (20, "conv", 272_282, 40_813_184),
        (56, "conv", 855_578, 125_747_840),
        (110, "conv", 1_730_522, 253_149_824),
        (20, "pad", 269_722, 40_551_040),
        (32, "pad", 464_154, 68_862_592),
        (44, "pad", 658_586, 97_174_144),
        (56, "pad", 853_018, 125_485_696),
        (110, "pad", 1_727_962, 252_887_680),
    ],
)
def test_resnets_have_the_published_sizes(depth: int, shortcut: Any, params: int, macs: int) -> None:
    model = resnet(depth=depth, width=16, shortcut=shortcut, in_channels=3, num_classes=10)
    assert count_params(model) == params
    assert count_macs(model, (3, 32, 32)) == macs


def test_mobilenetv1_has_the_published_size() -> None:
    model = mobilenetv1(width=1.0, stem_stride=2, in_channels=3, num_classes=1000)
    assert count_params(model) == 4_231_976
    assert count_macs(model, (3, 224, 224)) == 568_740_352
    assert counts(model, (3, 224, 224)).amc == 568_741_352
    small = mobilenetv1(width=1.0, stem_stride=2, in_channels=3, num_classes=10)
    assert count_macs(small, (3, 32, 32)) == 11_596_298 - 10  # the published figure counts the classifier's bias


def spec(**changes: Any) -> ModelSpec:
    args = {"depth": 20, "width": 16, "shortcut": "pad"}
    return ModelSpec(RESNET, args, (3, 32, 32), 10, **changes)


def public_file(path: Path, **more: Any) -> dict[str, torch.Tensor]:
    """A checkpoint laid out as the public ones are: wrapped, `module.` before every name."""
    weights = spec().build().state_dict()
    old = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in old.items()}, "best_prec1": 91.0, **more}, path
    )
    return weights


@pytest.mark.parametrize("suffix", [".th", ".pt", ".safetensors"])
def test_public_checkpoints_load(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        weights = spec().build().state_dict()
        save_file(weights, path)
    else:
        weights = public_file(path)
    model = spec().build()
    load_strictly(model, read_checkpoint(path), str(path))
    assert torch.equal(model.get_parameter("layer3.2.conv2.weight"), weights["layer3.2.conv2.weight"])


def test_a_checkpoint_of_another_network_lists_what_differs(tmp_path: Path) -> None:
    public_file(tmp_path / "a.th")
    other = resnet(depth=20, width=8, shortcut="conv", in_channels=3, num_classes=10)
    with pytest.raises(
        InputError, match=r"missing: layer2.0.shortcut.weight.*other shape: conv1.weight \(16, 3, 3, 3\)"
    ):
        load_strictly(other, read_checkpoint(tmp_path / "a.th"), "a.th")


class Evil:
    def __reduce__(self) -> Any:
        return print, ("code of a foreign file ran",)


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Evil()}, tmp_path / "evil.th")
    (tmp_path / "cut.th").write_bytes((tmp_path / "evil.th").read_bytes()[:100])
    (tmp_path / "empty.th").write_bytes(b"")
    for name in ("evil.th", "cut.th", "empty.th"):
        with pytest.raises(InputError, match="only plain tensors are loaded"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(InputError, match="is a folder; give a state dict"):
        read_checkpoint(tmp_path)
    assert capsys.readouterr().out == ""


def crd_file(path: Path, key: str, **more: Any) -> dict[str, torch.Tensor]:
    """As the authors of resnet8x4 and resnet32x4 save: the weights, their command line and numpy numbers."""
    weights = resnet_x4(depth=8, in_channels=3, num_classes=100).state_dict()
    wrapped = {f"module.{name}": value for name, value in weights.items()}
    beside = {
        "opt": Namespace(lr=0.05, milestones=[150, 180, 210]),
        "best_acc": np.float64(72.5),
        "epoch": np.int64(1),
    }
    torch.save({**beside, key: wrapped, **more}, path)
    return weights


@pytest.mark.parametrize("key", ["model", "net", "state_dict"])
def test_checkpoints_with_a_command_line_beside_the_weights_load(tmp_path: Path, key: str) -> None:
    weights = crd_file(tmp_path / "net.pth", key)
    assert {"conv1.weight", "bn1.weight", "layer1.0.downsample.0.weight", "layer3.0.downsample.1.running_var"} < set(
        weights
    )
    assert {"layer2.0.conv2.weight", "layer2.0.bn2.bias", "fc.weight", "fc.bias"} < set(weights)
    model = resnet_x4(depth=8, in_channels=3, num_classes=100)
    load_strictly(model, read_checkpoint(tmp_path / "net.pth"), "net.pth")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    deeper = resnet_x4(depth=14, in_channels=3, num_classes=100)
    with pytest.raises(InputError, match=r"net.pth: does not fit the network \(missing: layer1.1.conv1.weight"):
        load_strictly(deeper, read_checkpoint(tmp_path / "net.pth"), "net.pth")


def test_a_wrong_name_in_a_checkpoint_is_listed(tmp_path: Path) -> None:
    weights = crd_file(tmp_path / "net.pth", "model")
    weights["layer9.0.conv1.weight"] = weights.pop("layer1.0.conv1.weight")
    model = resnet_x4(depth=8, in_channels=3, num_classes=100)
    with pytest.raises(InputError, match=r"missing: layer1.0.conv1.weight; unknown: layer9.0.conv1.weight"):
        load_strictly(model, weights, "net.pth")


def test_numbers_of_an_older_numpy_load(tmp_path: Path) -> None:
    crd_file(tmp_path / "new.pth", "model")
    with ZipFile(tmp_path / "new.pth") as new, ZipFile(tmp_path / "old.pth", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            for module in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
                content = content.replace(module, b"numpy.core.multiarray")
            old.writestr(name, content)
    assert read_checkpoint(tmp_path / "old.pth").keys() == read_checkpoint(tmp_path / "new.pth").keys()


@pytest.mark.parametrize("foreign", [Evil(), Namespace(hidden=Evil()), Path("x")])
def test_nothing_else_is_unpickled_beside_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], foreign: Any
) -> None:
    crd_file(tmp_path / "net.pth", "model", foreign=foreign)
    with pytest.raises(InputError, match="only plain tensors are loaded"):
        read_checkpoint(tmp_path / "net.pth")
    assert capsys.readouterr().out == ""


def test_a_spec_survives_json_and_calls_only_our_functions() -> None:
    content = spec().to_json()
    assert spec_from_json(content).build().state_dict().keys() == spec().build().state_dict().keys()
    with pytest.raises(InputError, match="only functions of"):
        spec_from_json({**content, "target": "os.system"})


def test_images_that_are_too_small_are_told() -> None:
    vgg = ModelSpec(
        "compress.models.torchvision.classifier",
        {"arch": "vgg11", "weights": None, "download": False}, (1, 8, 8), 10,
    )  # fmt: skip
    with pytest.raises(InputError, match="^the network cannot take 1x8x8 images "):
        vgg.build()


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2", "squeezenet1_1", "googlenet"])
def test_torchvision_takes_channels_and_classes_from_the_data(arch: str) -> None:
    args = {"arch": arch, "weights": None, "download": False}
    model = ModelSpec("compress.models.torchvision.classifier", args, (1, 64, 64), 7).build()
    assert model.eval()(torch.zeros(2, 1, 64, 64)).shape == (2, 7)


def test_pretrained_weights_that_are_not_there_say_where_to_put_them() -> None:
    args = {"arch": "resnet18", "weights": "IMAGENET1K_V1", "download": False}
    with pytest.raises(InputError, match=r"resnet18-.*\.pth is not on this machine; put it at"):
        ModelSpec("compress.models.torchvision.classifier", args, (3, 64, 64), 1000).build()
    wrong = {**args, "weights": "V9"}
    with pytest.raises(InputError, match="^weights=V9: resnet18 has IMAGENET1K_V1"):
        ModelSpec("compress.models.torchvision.classifier", wrong, (3, 64, 64), 1000).build()


def test_first_layers_and_classifiers_are_exchanged() -> None:
    from compress.models.torchvision import with_classes, with_input_channels

    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(4, 1000))
    before = model.get_parameter("0.weight").detach().clone()
    with_input_channels(model, 1)
    assert torch.allclose(model.get_parameter("0.weight")[:, 0], before.sum(1))  # grey = the three channels alike
    with_classes(model, 1000, 10)
    assert model.get_parameter("2.weight").shape == (10, 4)


def test_pretrained_weights_that_are_there_are_used_and_may_hold_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchvision import models

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = tmp_path / "checkpoints" / Path(models.ResNet18_Weights.IMAGENET1K_V1.url).name
    file.parent.mkdir()
    source = models.resnet18(weights=None)
    torch.save(source.state_dict(), file)
    args = {"arch": "resnet18", "weights": "IMAGENET1K_V1", "download": False}
    spec = ModelSpec("compress.models.torchvision.classifier", args, (3, 64, 64), 1000)
    assert spec.is_pretrained
    assert torch.equal(spec.build().get_parameter("fc.weight"), source.get_parameter("fc.weight"))
    grey = ModelSpec("compress.models.torchvision.classifier", args, (1, 64, 64), 10)
    assert not grey.is_pretrained  # a new classifier has to be trained
    assert torch.equal(
        grey.build().get_parameter("layer1.0.conv1.weight"), source.get_parameter("layer1.0.conv1.weight")
    )
    assert spec.without_pretrained().args["weights"] is None

    torch.save({"fc.weight": Evil()}, file)
    with pytest.raises(InputError, match="cannot load resnet18-"):
        spec.build()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("aux_heads", [False, True])
@pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
def test_networks_with_training_heads_are_rebuilt_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, aux_heads: bool
) -> None:
    from torchvision import models

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = tmp_path / "checkpoints" / Path(models.get_model_weights(arch).IMAGENET1K_V1.url).name
    file.parent.mkdir()
    torch.save(models.get_model(arch, weights=None, init_weights=False).state_dict(), file)
    args = {"arch": arch, "weights": "IMAGENET1K_V1", "download": False, "aux_heads": aux_heads}
    spec = ModelSpec("compress.models.torchvision.classifier", args, (3, 96, 96), 10)
    model = spec.build().eval()
    heads = [name for name in ("aux1", "aux2", "AuxLogits") if getattr(model, name, None) is not None]
    assert len(heads) == ({"googlenet": 2, "inception_v3": 1}[arch] if aux_heads else 0)
    again = spec.without_pretrained().build().eval()
    load_strictly(again, model.state_dict(), "itself")
    images = torch.randn(1, 3, 96, 96)
    assert torch.equal(model(images), again(images))
    assert ModelSpec(spec.target, args, (1, 96, 96), 10).build().eval()(images[:, :1]).shape == (1, 10)


def test_densenets_of_torchvisions_own_files_have_their_old_names_and_load(tmp_path: Path) -> None:
    args = {"arch": "densenet121", "weights": None, "download": False}
    make = ModelSpec("compress.models.torchvision.classifier", args, (3, 32, 32), 1000).build
    weights = make().state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): value for name, value in weights.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet121.pth")
    model = make()
    load_strictly(model, read_checkpoint(tmp_path / "densenet121.pth"), "densenet121.pth")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_numbers_that_are_none_and_objects_of_others_are_named(tmp_path: Path) -> None:
    weights = spec().build().state_dict()
    weights["conv1.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"a.th: holds numbers that are not finite \(conv1.weight\)"):
        load_strictly(spec().build(), weights, "a.th")
    torch.save({"model": {}, "args": Evil}, tmp_path / "evil.th")
    with pytest.raises(InputError, match=r"holds an object of .*Evil; only plain tensors are loaded: save model"):
        read_checkpoint(tmp_path / "evil.th")


def test_heads_that_a_network_does_not_have_cannot_be_kept() -> None:
    args = {"arch": "resnet18", "weights": None, "download": False, "aux_heads": True}
    with pytest.raises(InputError, match="^aux_heads=true: only googlenet and inception_v3"):
        ModelSpec("compress.models.torchvision.classifier", args, (3, 32, 32), 10).build()
