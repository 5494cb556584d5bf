"""How a network is named, built, saved and rebuilt.

A network on disk is its spec (a function of this package and its arguments) + a plan + weights: nothing is
pickled, and only functions of `compress.models` are ever called when a file is read.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor, nn

from compress.errors import InputError, first_line
from compress.io.files import JSON, digest_of
from compress.models.on_paper import OnPaper
from compress.models.weights import load_strictly, misfits, read_checkpoint, under_own_names
from compress.schema.bounds import Classes, Side
from compress.schema.check import check_settings, check_value, find_target, parameters_of, shown

OURS = "compress.models."
# All that a file may call. conf/model/*.yaml names the same functions.
BUILDERS = (
    "compress.models.metapruning.mobilenetv2",
    "compress.models.metapruning.resnet50",
    "compress.models.mobilenetv1.mobilenetv1",
    "compress.models.preresnet.preresnet",
    "compress.models.preresnet.resnet_cs",
    "compress.models.preresnet.resnet_x4_cs",
    "compress.models.resnet_cifar.resnet",
    "compress.models.resnet_x4.resnet_x4",
    "compress.models.torchvision.classifier",
    "compress.models.vgg.vgg",
)
FETCHING: Mapping[str, bool | None] = {"weights": None, "download": False}  # arguments, and what fetches nothing
GIVEN = ("in_channels", "num_classes", "image_size")  # by the images
IMAGENET_CLASSES = 1000  # of torchvision's pretrained weights
MOST_PARAMETERS = 1_000_000_000  # the largest classifiers of torchvision have 0.65
MOST_INPUTS = 2**24  # numbers in one image


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
        self._check_size()
        try:
            network: nn.Module = self._make()
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

    def _make(self) -> Any:
        make = find_target(self.target)
        given = dict(zip(GIVEN, (self.shape[0], self.classes, self.shape[1]), strict=True))
        takes = inspect.signature(make).parameters
        return make(**{key: given[key] for key in given if key in takes} | dict(self.args))

    def on_paper(self) -> nn.Module:
        """The network without memory for its weights: names and shapes alone. For builders of `compress.models`."""
        with torch.device("meta"), OnPaper():
            network: nn.Module = self.without_pretrained()._make()
        return network

    def load_checkpoint(self, network: nn.Module) -> None:
        """Give a network of this spec the weights of its checkpoint.

        Raises:
            InputError: no such file, or weights of another network; says which setting they would fit.
        """
        assert self.checkpoint is not None
        weights, source = read_checkpoint(Path(self.checkpoint)), f"model.checkpoint={self.checkpoint}"
        try:
            load_strictly(network, weights, source)
        except InputError as error:
            raise InputError(f"{error}{self._setting_that_fits(weights)}") from None

    def _setting_that_fits(self, weights: Mapping[str, Tensor]) -> str:
        """Of the settings with few choices: one that makes a network of these names and shapes, in words."""
        if self.target not in BUILDERS:
            return ""
        for key, rule in parameters_of(find_target(self.target)).items():
            choices = (False, True) if rule is bool else get_args(rule) if get_origin(rule) is Literal else ()
            for choice in choices:
                other = replace(self, args={**self.args, key: choice})
                try:
                    own = other.on_paper().state_dict()
                except (InputError, NotImplementedError):  # not with the other settings; not without numbers
                    continue
                if not misfits(under_own_names(weights, own), own):
                    return f"; it fits with model.{key}={str(choice).lower()}"
        return ""

    def _check_size(self) -> None:
        """
        Raises:
            InputError: a network of ours that no memory can be meant to hold.
        """
        if not self.is_ours:
            return
        try:
            count = sum(parameter.numel() for parameter in self.on_paper().parameters())
        except NotImplementedError:  # torchvision's RegNets compute their widths with tensors; they are of one size
            return
        if count > MOST_PARAMETERS:
            raise InputError(f"model: {self.describe()} has {count:,} parameters; must be <= {MOST_PARAMETERS:,}")

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
        fetching = {key: value for key, value in FETCHING.items() if key in self.args}
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
        return {"target": self.target, "args": dict(args), "shape": list(self.shape), "classes": self.classes}


def spec_from_json(content: Any) -> ModelSpec:
    """What a file says of its network, with nothing in it that would fetch weights.

    Raises:
        InputError: not one of `BUILDERS`, which is all that a file may call, or not as it takes its arguments.
    """
    if not isinstance(content, dict) or content.keys() != {"target", "args", "shape", "classes"}:
        raise InputError("model: must be a target with its args, shape and classes")
    target, args = content["target"], content["args"]
    if target not in BUILDERS:
        raise InputError(
            f"{shown(target)}: only functions of {OURS}* are called for a file, those that build a network; "
            "for a network of your own use compress.load(..., model=YourNetwork())"
        )
    if not isinstance(args, dict):
        raise InputError(f"args={shown(args)}: must be settings by name")
    args = {key: FETCHING.get(key, value) for key, value in args.items()}
    problems = check_settings("args", args, find_target(target), GIVEN) + check_images(content)
    if problems:
        raise InputError(*problems)
    return ModelSpec(target, args, tuple(content["shape"]), content["classes"])


def check_images(content: Mapping[str, Any]) -> list[str]:
    """Problems of the images that a file says its network is for."""
    shape, classes = content.get("shape"), content.get("classes")
    problems = check_value("shape", shape, list[Side]) + check_value("classes", classes, Classes)
    if not problems and isinstance(shape, list) and (len(shape) != 3 or prod(shape) > MOST_INPUTS):
        problems.append(
            f"shape={shown(shape)}: must be channels, height and width, together <= {MOST_INPUTS:,} numbers"
        )
    return problems
