"""Any classifier of timm by name, with pretrained weights where they are on this machine; nothing is downloaded.

timm is not among our dependencies: it is imported where this is chosen.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress.errors import OWN, SettingError, few
from compress.models.torchvision import with_input_channels
from compress.models.weights import load_strictly, read_checkpoint, under_own_names

FILES = ("model.safetensors", "pytorch_model.bin")  # of weights, in a repository of the hub


def classifier(
    *, arch: str, weights: str | None, in_channels: int, num_classes: int, image_size: int | None = None
) -> nn.Module:
    """
    `weights` is a file, or DEFAULT for those of `arch` in the cache of the Hugging Face hub. Without a classifier of
    `num_classes` in them, that layer stays new.

    Raises:
        SettingError: timm is not installed, unknown `arch`, weights that are not on this machine or do not fit.
    """
    timm = _timm()
    known = timm.list_models()
    if arch.partition(".")[0] not in known or ":" in arch or "/" in arch:
        near = difflib.get_close_matches(arch, known, 5) or [
            "resnet18",
            "mobilenetv3_small_100",
            "vit_tiny_patch16_224",
        ]
        raise SettingError(f"{OWN}arch={arch}: not a classifier of timm; such as {', '.join(near)}")
    if weights is None:
        return _made(timm, arch, in_channels, num_classes, image_size)
    # with the channels of the weights, which are then added up
    made = _made(timm, arch, timm.get_pretrained_cfg(arch).input_size[0], num_classes, image_size)
    file = _hub_file(timm, arch) if weights == "DEFAULT" else Path(weights).expanduser()
    _load(made, read_checkpoint(file), f"{OWN}weights={weights}")
    with_input_channels(made, in_channels)
    return made


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise SettingError('this network is of timm, which is not installed; pip install "timm>=1.0"') from None
    return timm


def _made(timm: Any, arch: str, channels: int, classes: int, image_size: int | None) -> nn.Module:
    fixed = getattr(timm.get_pretrained_cfg(arch, allow_unregistered=False), "fixed_input_size", False)
    size = {"img_size": image_size} if fixed and image_size else {}
    model: nn.Module = timm.create_model(arch, pretrained=False, in_chans=channels, num_classes=classes, **size)
    return model


def _load(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Give a network all of these weights but those of a classifier of other classes."""
    own = model.state_dict()
    named = under_own_names(weights, own)
    last = _classifier_names(model)
    kept = {
        name: own[name] if name in last and name in own and value.shape != own[name].shape else value
        for name, value in named.items()
    }
    load_strictly(model, kept, source)


def _classifier_names(model: nn.Module) -> set[str]:
    layers: Any = model.default_cfg["classifier"]  # type: ignore[index]
    prefixes = (layers,) if isinstance(layers, str) else tuple(layers)
    return {name for name in model.state_dict() if name.startswith(tuple(f"{prefix}." for prefix in prefixes))}


def _hub_file(timm: Any, arch: str) -> Path:
    """
    Raises:
        SettingError: the weights of `arch` are not in the cache of the hub.
    """
    cfg = timm.get_pretrained_cfg(arch)
    repository = cfg.hf_hub_id if cfg is not None else None
    if not repository:
        raise SettingError(f"{OWN}weights=DEFAULT: timm has no weights of {arch}; give a file, {OWN}weights=<file>")
    from huggingface_hub import try_to_load_from_cache

    for name in FILES:
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    raise SettingError(
        f"{OWN}weights=DEFAULT: those of {repository} are not on this machine; fetch {few(FILES[:1])} by "
        f"`hf download {repository} {FILES[0]}` where there is a network, or give {OWN}weights=<file>"
    )
