"""How a network is named, built, saved and rebuilt.

A network on disk is its spec (a function of this package and its arguments) + a plan + weights: nothing is
pickled, and only functions of `compress.models` are ever called when a file is read.
"""

import importlib
import inspect
import json
import re
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from compress.files import JSON, digest_of
from compress.models.masks import MASK
from compress.settings import InputError, first_line

OURS = "compress.models."
IMAGENET_CLASSES = 1000  # of torchvision's pretrained weights
# Under these keys published checkpoints keep their state dict.
WRAPPERS = ("state_dict", "model", "net")


@dataclass(frozen=True)
class ModelSpec:
    """A network before it exists: which function makes it, with which arguments, for which images."""

    target: str
    args: Mapping[str, Any]
    shape: tuple[int, int, int]  # C, H, W
    classes: int
    checkpoint: str | None = None

    def build(self, tried: bool = True) -> nn.Module:
        """The network with fresh weights (or the pretrained ones that its arguments name), `tried` on one image.

        Raises:
            InputError: the arguments do not go together, or the network cannot take such images.
        """
        module, _, name = self.target.rpartition(".")
        make = getattr(importlib.import_module(module), name)
        given = {"in_channels": self.shape[0], "num_classes": self.classes, "image_size": self.shape[1]}
        takes = inspect.signature(make).parameters
        args = {key: given[key] for key in given if key in takes} | dict(self.args)
        try:
            network: nn.Module = make(**args)
        except Exception as error:
            if self.is_ours:
                raise
            raise InputError(f"model._target_={self.target}: raises {type(error).__name__}: {error}") from error
        if not isinstance(network, nn.Module):
            raise InputError(f"model._target_={self.target}: must return an nn.Module, not {type(network).__name__}")
        if next(network.parameters(), None) is None:
            raise InputError(f"model._target_={self.target}: has no parameters to train")
        if tried:
            self._try(network)
        return network

    @property
    def is_ours(self) -> bool:
        return self.target.startswith(OURS)

    def _try(self, network: nn.Module) -> None:
        was_training = network.training
        foreseen = (RuntimeError, ValueError, AssertionError) if self.is_ours else Exception
        try:
            with torch.no_grad():
                logits = network.eval()(torch.zeros(1, *self.shape))
        except foreseen as error:
            size = "x".join(map(str, self.shape))
            raise InputError(
                f"model: cannot take {size} images ({first_line(error)}); "
                "try another dataset.image_size, such as 32 or 224"
            ) from None
        finally:
            network.train(was_training)
        gives = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if gives != (1, self.classes):
            raise InputError(f"model: gives {gives} for one image, not (1, {self.classes})")

    @property
    def is_pretrained(self) -> bool:
        """Whether `build` gives a network that already knows these classes."""
        return self.args.get("weights") is not None and self.classes == IMAGENET_CLASSES

    @property
    def comes_trained(self) -> bool:
        """Whether there is nothing to train: it has a checkpoint, or pretrained weights."""
        return self.checkpoint is not None or self.is_pretrained

    def without_pretrained(self) -> "ModelSpec":
        """The same architecture, with no argument that would fetch weights."""
        fetching = {key: value for key, value in {"weights": None, "download": False}.items() if key in self.args}
        return replace(self, args={**self.args, **fetching}, checkpoint=None)

    def describe(self) -> str:
        """resnet(depth=56, width=16, ...), for people."""
        settings = ", ".join(f"{key}={value}" for key, value in self.args.items())
        return f"{self.target.rpartition('.')[2]}({settings})"

    def checkpoint_digest(self) -> str:
        assert self.checkpoint is not None
        return digest_of(Path(self.checkpoint))

    def to_json(self) -> JSON:
        args = self.without_pretrained().args
        return {"target": self.target, "args": dict(args), "shape": self.shape, "classes": self.classes}


def spec_from_json(content: JSON) -> ModelSpec:
    """
    Raises:
        InputError: the function is not one of `compress.models`, which is all that a file may call.
    """
    if not str(content["target"]).startswith(OURS):
        raise InputError(
            f"{content['target']}: only functions of {OURS}* are called for a file; "
            "for a network of your own use compress.load(..., model=YourNetwork())"
        )
    return ModelSpec(content["target"], content["args"], tuple(content["shape"]), content["classes"])


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """A state dict from a .pt/.pth/.th/.safetensors file, out of its usual wrappers and without `module.`.

    Raises:
        InputError: missing, not loadable as plain tensors, or without a state dict.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise InputError(f"model.checkpoint={path}: {what}; give a state dict, or null to train")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
            _refuse_a_cut_network(path)
            content = {name: tensor for name, tensor in content.items() if not name.endswith(f".{MASK}")}
        else:
            with torch.serialization.safe_globals(_beside_weights()), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old pickle protocols
                content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # torch and safetensors raise many kinds; none of them is ours
        # torch's own words advise to load such a file all the same; we do not
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"holds an object of {foreign[1]}" if foreign else f"cannot be read ({type(error).__name__})"
        raise InputError(
            f"model.checkpoint={path}: {what}; only plain tensors are loaded: save model.state_dict() alone"
        ) from None
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"model.checkpoint={path}: holds no state dict (looked under {', '.join(WRAPPERS)} too)")
    return {_current_name(name): tensor for name, tensor in content.items()}


def _refuse_a_cut_network(path: Path) -> None:
    """
    Raises:
        InputError: the network of a run that lost channels, whose weights fit no network of the zoo.
    """
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get("compress", "{}"))
    if header.get("plan"):
        raise InputError(
            f"model.checkpoint={path}: is a network that a run has cut; compress.load reads it, and its uncut one is "
            "what the run's stage pretrain left in the cache"
        )


def _current_name(name: str) -> str:
    """A parameter's name without data parallelism, and as torchvision calls it since its DenseNets were renamed."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", name.removeprefix("module."))


def _beside_weights() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What published files hold beside tensors: command lines and numpy numbers. Reading these runs no code."""
    number = np.float64(0).__reduce__()[0]
    assert callable(number)
    names = ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"]  # before and from numpy 2
    dtypes = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"]
    return [Namespace, np.dtype, *dtypes, *((number, name) for name in names)]


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """
    Raises:
        InputError: names or shapes differ; the message lists which.
    """
    own = model.state_dict()
    # Files older than BatchNorm's batch counter lack it; it plays no part in eval nor with a momentum.
    missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    extra = [name for name in weights if name not in own]
    shapes = [
        f"{name} {tuple(weights[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    parts = [("missing", missing), ("unknown", extra), ("other shape", shapes)]
    differ = "; ".join(f"{what}: {_few(names)}" for what, names in parts if names)
    if differ:
        raise InputError(f"{source}: does not fit the network ({differ})")
    odd = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if odd:
        raise InputError(f"{source}: holds numbers that are not finite ({_few(odd)})")
    model.load_state_dict({**own, **weights})


def _few(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
