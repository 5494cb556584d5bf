"""`ModelSpec`: how a network is described, built, saved and rebuilt.

A network on disk is its spec (a function of this package and its arguments), a plan and weights. Nothing is pickled,
and reading a file calls only the functions in `BUILDERS`.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor, nn

from compress.errors import OWN, InputError, SettingError, first_line
from compress.io.files import JSON, digest_of
from compress.models.meta_kernels import MetaKernels
from compress.models.weights import load_strictly, misfits, read_checkpoint, under_own_names
from compress.schema.bounds import Classes, Side
from compress.schema.check import check_settings, check_value, find_target, parameters_of, shown

OURS = "compress.models."
# The only functions that reading a file may call. conf/model/*.yaml names the same ones.
BUILDERS = (
    "compress.models.metapruning.mobilenetv2",
    "compress.models.metapruning.resnet50",
    "compress.models.mobilenetv1.mobilenetv1",
    "compress.models.preresnet.preresnet",
    "compress.models.preresnet.resnet_cs",
    "compress.models.preresnet.resnet_x4_cs",
    "compress.models.resnet_cifar.resnet",
    "compress.models.resnet_x4.resnet_x4",
    "compress.models.timm.classifier",
    "compress.models.torchvision.classifier",
    "compress.models.vgg.vgg",
)
FETCHING: Mapping[str, bool | None] = {
    "weights": None,
    "download": False,
}  # arguments with values that load nothing
GIVEN = ("in_channels", "num_classes", "image_size")  # arguments that follow from the images, not from the config
IMAGENET_CLASSES = 1000  # classes of torchvision's pretrained weights
MOST_PARAMETERS = 1_000_000_000  # the largest classifiers of torchvision have 0.65
MOST_INPUTS = 2**24  # C * H * W of one image


class WrongImagesError(InputError):
    """A network cannot take images of the size that it is to be for."""


@dataclass(frozen=True)
class ModelSpec:
    """A network that is not built yet: the function that makes it, its arguments, and the images it is for."""

    target: str  # dotted path of the function
    args: Mapping[str, Any]  # without those of `GIVEN`
    shape: tuple[int, int, int]  # C, H, W
    classes: int
    checkpoint: str | None = None  # path of a file of weights to start from

    def build(self, check_forward: bool = True) -> nn.Module:
        """The network with fresh weights, or the pretrained ones that its arguments name; not those of `checkpoint`.

        `check_forward` runs it on one image and checks the shape of its output.

        Raises:
            SettingError: the arguments contradict each other, or the function is a user's and fails or returns no
            module with parameters.
            WrongImagesError: it cannot take images of `shape`.
            InputError: it is too large, or its output has another shape.
        """
        self._check_size()
        try:
            network: nn.Module = self._make()
        except Exception as error:
            if self.is_ours:
                raise
            raise self._refused(f"raises {type(error).__name__}: {error}") from error
        if not isinstance(network, nn.Module):
            raise self._refused(f"must return an nn.Module, not {type(network).__name__}")
        if next(network.parameters(), None) is None:
            raise self._refused("has no parameters to train")
        if check_forward:
            self._check_forward(network)
        return network

    def _refused(self, why: str) -> SettingError:
        return SettingError(f"{OWN}_target_={self.target}: {why}")

    def _make(self) -> Any:
        make = find_target(self.target)
        given = dict(zip(GIVEN, (self.shape[0], self.classes, self.shape[1]), strict=True))
        takes = inspect.signature(make).parameters
        return make(**{key: given[key] for key in given if key in takes} | dict(self.args))

    def on_meta_device(self) -> nn.Module:
        """The network with parameters on torch's meta device: names, shapes and dtypes without memory or values. For
        functions of `compress.models` only.

        Raises:
            SettingError: the arguments contradict each other.
            NotImplementedError: building it needs the values of tensors.
        """
        with torch.device("meta"), MetaKernels():
            network: nn.Module = self.without_pretrained()._make()
        return network

    def load_checkpoint(self, network: nn.Module) -> None:
        """Give a network of this spec the weights of its checkpoint.

        Raises:
            SettingError: no such file, or weights of another network; says which setting they would fit.
        """
        assert self.checkpoint is not None
        weights, source = read_checkpoint(Path(self.checkpoint)), f"{OWN}checkpoint={self.checkpoint}"
        try:
            load_strictly(network, weights, source)
        except SettingError as error:
            hint = self._setting_that_fits(weights)
            raise SettingError(*(f"{line}{hint}" for line in error.lines)) from None

    def _setting_that_fits(self, weights: Mapping[str, Tensor]) -> str:
        """For an error message: a setting of bool or Literal type with a value for which the weights would fit, or
        ""."""
        if self.target not in BUILDERS:
            return ""
        for key, rule in parameters_of(find_target(self.target)).items():
            choices = (False, True) if rule is bool else get_args(rule) if get_origin(rule) is Literal else ()
            for choice in choices:
                other = replace(self, args={**self.args, key: choice})
                try:
                    own = other.on_meta_device().state_dict()
                except (InputError, NotImplementedError):  # a value that the other settings exclude; no meta device
                    continue
                if not misfits(under_own_names(weights, own), own):
                    return f"; it fits with {OWN}{key}={str(choice).lower()}"
        return ""

    def _check_size(self) -> None:
        """
        Raises:
            InputError: a network of this package with more than `MOST_PARAMETERS`.
        """
        if not self.is_ours:
            return
        try:
            count = sum(parameter.numel() for parameter in self.on_meta_device().parameters())
        except NotImplementedError:  # torchvision's RegNets compute widths with tensors; their size is fixed
            return
        if count > MOST_PARAMETERS:
            raise InputError(f"{self.describe()} has {count:,} parameters; must be <= {MOST_PARAMETERS:,}")

    @property
    def is_ours(self) -> bool:
        return self.target.startswith(OURS)

    def _check_forward(self, network: nn.Module) -> None:
        was_training = network.training
        foreseen = (RuntimeError, ValueError, AssertionError) if self.is_ours else Exception
        try:
            with torch.no_grad():
                logits = network.eval()(torch.zeros(1, *self.shape))
        except foreseen as error:
            size = "x".join(map(str, self.shape))
            raise WrongImagesError(f"the network cannot take {size} images ({first_line(error)})") from None
        finally:
            network.train(was_training)
        gives = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if gives != (1, self.classes):
            raise InputError(f"the network gives {gives} for one image, not (1, {self.classes})")

    @property
    def is_pretrained(self) -> bool:
        """Whether `build` returns a network whose classifier is trained too: pretrained weights of as many
        classes."""
        return self.args.get("weights") is not None and self.classes == IMAGENET_CLASSES

    @property
    def comes_trained(self) -> bool:
        """Whether the network needs no training: it has a checkpoint, or pretrained weights."""
        return self.checkpoint is not None or self.is_pretrained

    def without_pretrained(self) -> "ModelSpec":
        """The same architecture, without checkpoint and with no argument that would load or download weights."""
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
    """The spec in the header of a file (`to_json`), with no argument that would load or download weights.

    Raises:
        InputError: not a spec, a target that is not in `BUILDERS`, or arguments that it does not take.
    """
    if not isinstance(content, dict) or content.keys() != {"target", "args", "shape", "classes"}:
        raise InputError("its model must be a target with its args, shape and classes")
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
    """Problems, one line each, of the `shape` and `classes` in the header of a file."""
    shape, classes = content.get("shape"), content.get("classes")
    problems = check_value("shape", shape, list[Side]) + check_value("classes", classes, Classes)
    if not problems and isinstance(shape, list) and (len(shape) != 3 or prod(shape) > MOST_INPUTS):
        problems.append(
            f"shape={shown(shape)}: must be channels, height and width, together <= {MOST_INPUTS:,} numbers"
        )
    return problems
