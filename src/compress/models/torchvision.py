"""Any classifier of torchvision by name, with pretrained weights from torch.hub's cache or, if allowed,
downloaded."""

import difflib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn
from torchvision import models

from compress.errors import OWN, SettingError, first_line

HEADS = {"aux1", "aux2", "AuxLogits"}  # auxiliary classifiers of googlenet and inception_v3, used in training only


def _names() -> list[str]:
    return models.list_models(module=models)  # type: ignore[no-any-return]


def _last(model: nn.Module, kinds: tuple[type[nn.Module], ...], width: int) -> str | None:
    """Name of the last layer of these types with `width` outputs."""
    named = [
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        and width in (getattr(module, "out_features", 0), getattr(module, "out_channels", 0))
    ]
    return named[-1] if named else None


def with_input_channels(model: nn.Module, channels: int) -> None:
    """Replace the first convolution by one of `channels` inputs, in place: each gets the sum of the old weights over
    input channels divided by `channels`, so that grey images in any number of channels give the same outputs."""
    name, old = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if old.in_channels == channels:
        return
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    with torch.no_grad():
        new.weight.copy_(old.weight.sum(1, keepdim=True).expand_as(new.weight) / channels)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    model.set_submodule(name, new)


def with_classes(model: nn.Module, had: int, wanted: int) -> None:
    """Replace the last layer, of `had` outputs, by a fresh one of `wanted`, in place; nothing if they are equal."""
    if had == wanted:
        return
    name = _last(model, (nn.Linear, nn.Conv2d), had)
    assert name is not None
    old = model.get_submodule(name)
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, wanted)
    else:
        assert isinstance(old, nn.Conv2d)
        new = nn.Conv2d(old.in_channels, wanted, old.kernel_size)  # type: ignore[arg-type]
    model.set_submodule(name, new)


def classifier(
    *,
    arch: str,
    weights: str | None,
    download: bool,
    aux_heads: bool = False,
    in_channels: int,
    num_classes: int,
) -> nn.Module:
    """
    `aux_heads` keeps the auxiliary classifiers of googlenet and inception_v3, which train mode uses; they need images
    of about the network's published size.

    Raises:
        SettingError: unknown `arch` or `weights`, or weights that are not on this machine and `download` is False.
    """
    if arch not in _names():
        near = difflib.get_close_matches(arch, _names(), 5) or ["resnet18", "mobilenet_v2", "vgg16_bn"]
        raise SettingError(f"{OWN}arch={arch}: not a classifier of torchvision; such as {', '.join(near)}")
    # These two have auxiliary classifiers, and with pretrained weights rescale their input (`transform_input`).
    inception = arch in ("googlenet", "inception_v3")
    if aux_heads and not inception:
        raise SettingError(f"{OWN}aux_heads=true: only googlenet and inception_v3 have such heads, not {arch}")
    if weights is None:
        own = {"aux_logits": aux_heads, "init_weights": True, "transform_input": in_channels == 3}
        options = own if inception else {}
        model = models.get_model(arch, weights=None, num_classes=num_classes, **options)
    else:
        asked = {"aux_logits": True} if aux_heads and arch == "googlenet" else {}
        with _plain_tensors_only(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "auxiliary heads in the pretrained googlenet")  # they are trained by us
            model = models.get_model(arch, weights=_available(arch, weights, download), **asked)
        if inception:
            model.aux_logits, model.transform_input = aux_heads, in_channels == 3
            for head in HEADS & dict(model.named_children()).keys():
                if aux_heads:
                    with_classes(model.get_submodule(head), 1000, num_classes)
                else:
                    setattr(model, head, None)
        with_classes(model, 1000, num_classes)
    with_input_channels(model, in_channels)
    return model  # type: ignore[no-any-return]


@contextmanager
def _plain_tensors_only() -> Iterator[None]:
    """torchvision loads its files with `weights_only=False`; the environment variable makes torch refuse code in
    them."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def _available(arch: str, weights: str, download: bool) -> Any:
    """The entry of torchvision's weights enum, its file being on this machine or downloaded now.

    Raises:
        SettingError: no such entry, no file and `download` is False, or a damaged file.
    """
    choices = models.get_model_weights(arch)
    if weights not in choices.__members__:
        raise SettingError(f"{OWN}weights={weights}: {arch} has {', '.join(choices.__members__)}")
    entry = choices[weights]
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    if not file.is_file() and not download:
        raise SettingError(
            f"{OWN}weights={weights}: {file.name} is not on this machine; put it at {file}, or give "
            f"{OWN}download=true on a machine with a network, or {OWN}checkpoint=<file>"
        )
    try:
        entry.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, UnpicklingError) as error:
        reason = type(error).__name__ if isinstance(error, UnpicklingError) else first_line(error)
        raise SettingError(f"{OWN}weights={weights}: cannot load {file.name} of {entry.url} ({reason})") from None
    return entry
