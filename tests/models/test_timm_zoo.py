"""`model=timm`: the classes and channels of the images, weights that are on this machine, and nothing fetched."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from compress.errors import InputError
from compress.models.spec import ModelSpec, spec_from_json
from compress.models.timm import classifier

pytest.importorskip("timm")
ARCH = "test_resnet"


def test_it_takes_the_images_and_tells_their_classes() -> None:
    spec = ModelSpec("compress.models.timm.classifier", {"arch": ARCH, "weights": None}, (1, 64, 64), 7)
    assert spec.build()(torch.zeros(2, 1, 64, 64)).shape == (2, 7)
    assert spec_from_json(spec.to_json()).build().state_dict().keys() == spec.build().state_dict().keys()


def test_weights_of_a_file_are_taken_but_for_a_classifier_of_other_classes(tmp_path: Path) -> None:
    dense = classifier(arch=ARCH, weights=None, in_channels=3, num_classes=5)
    save_file(dense.state_dict(), tmp_path / "dense.safetensors")
    file = str(tmp_path / "dense.safetensors")
    other = classifier(arch=ARCH, weights=file, in_channels=3, num_classes=2)
    same = classifier(arch=ARCH, weights=file, in_channels=3, num_classes=5)
    grey = classifier(arch=ARCH, weights=file, in_channels=1, num_classes=5)
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    for name, value in dense.state_dict().items():
        assert torch.equal(same.state_dict()[name], value)
        assert name.startswith("fc.") or torch.equal(other.state_dict()[name], value)
    assert other.get_parameter("fc.weight").shape[0] == 2
    torch.testing.assert_close(grey.eval()(images), same.eval()(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "weights", "told"),
    [
        ("resnet19", None, "not a classifier of timm; such as resnet18"),
        ("hf-hub:timm/resnet18", None, "not a classifier of timm"),
        (ARCH, "nowhere.pth", "nowhere.pth"),
        (ARCH, "DEFAULT", "are not on this machine; fetch model.safetensors"),
    ],
)
def test_what_is_not_there_is_told_and_not_fetched(
    arch: str, weights: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=told):
        classifier(arch=arch, weights=weights, in_channels=3, num_classes=2)
