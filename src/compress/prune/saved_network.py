"""A network in one safetensors file: weights and masks; in the header the model's settings, its pruning plan, and how
the images were normalised that it was trained on."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.data.base import Normalisation, check_normalisation
from compress.errors import InputError, first_line
from compress.graph.build import channel_graph
from compress.graph.plan import Plan, plan_from_json
from compress.io.files import JSON
from compress.io.tensors import read_weights, write_weights
from compress.models.masks import apply_masks, is_masked, mask_name, masked_weight, packed, set_masks, unpacked
from compress.models.spec import ModelSpec, check_images, spec_from_json
from compress.models.weights import load_strictly
from compress.prune.surgery import cut
from compress.schema.check import check_settings, shown


def save_network(
    path: Path, model: nn.Module, spec: ModelSpec, plan: Plan, normalisation: Normalisation | None = None
) -> None:
    """Masks are stored as packed bits, under their names in the state dict; the header lists the masked layers."""
    weights = dict(model.state_dict())
    header: JSON = {"model": spec.to_json(), "plan": plan.to_json()}
    if normalisation is not None:
        header["normalisation"] = asdict(normalisation)
    # A layer used under two names is in the state dict under both.
    masked = [name for name, layer in model.named_modules(remove_duplicate=False) if is_masked(layer)]
    if masked:
        weights |= {mask_name(name): packed(weights[mask_name(name)]) for name in masked}
        header["masks"] = masked
    write_weights(path, weights, header)


def load_network(path: Path, fresh: Callable[[], nn.Module] | None = None) -> tuple[nn.Module, Plan]:
    """Load a file of `save_network`: the network in eval mode, and its plan.

    `fresh` builds the uncut network; without it the header must name a function of `compress.models`, which is
    called. No other code that a file names is run.

    Raises:
        InputError: not such a file, a network that only `fresh` can build, or weights or masks that do not fit.
    """
    weights, header = read_weights(path)
    try:
        return _rebuilt(weights, header, fresh, str(path))
    except InputError as error:
        lines = [line.removeprefix(f"{path}: ") for line in error.problems]
        raise InputError(*(f"{path}: {shown(line, 1000)}" for line in lines)) from error
    except Exception as error:  # a foreign header or network can fail in any way
        raise InputError(f"{path}: cannot be rebuilt ({type(error).__name__}: {shown(first_line(error))})") from error


def saved_normalisation(header: JSON) -> Normalisation | None:
    """How the images of a saved network were normalised, by its header; None: it does not say, as those of older
    versions.

    Raises:
        InputError: not numbers for every channel of its images.
    """
    content = header.get("normalisation")
    if content is None:
        return None
    if not isinstance(content, dict):
        raise InputError(f"normalisation={shown(content)}: must be a mean and an std")
    problems = check_settings("normalisation", content, Normalisation)  # reads no `_target_`: a file is data
    shape = header["model"].get("shape") if isinstance(header["model"], dict) else None
    if not problems and isinstance(shape, list) and shape:
        try:
            check_normalisation(content["mean"], content["std"], shape[0])
        except InputError as error:
            problems = list(error.problems)
    if problems:
        raise InputError(*problems)
    return Normalisation(**content)


def _rebuilt(
    weights: Mapping[str, Tensor], header: JSON, fresh: Callable[[], nn.Module] | None, source: str
) -> tuple[nn.Module, Plan]:
    spec = None if fresh is not None else spec_from_json(header["model"])
    if problems := check_images(header["model"]):
        raise InputError(*problems)
    with torch.random.fork_rng(devices=[]):  # the weights are overwritten; drawing them leaves the RNG state
        model = fresh() if fresh is not None else spec.build(check_forward=False) if spec is not None else nn.Module()
    plan = plan_from_json(header["plan"])
    if plan.kept:
        model = cut(model, channel_graph(model, tuple(header["model"]["shape"])), plan)
    if "masks" in header:
        weights = _with_masks(model, weights, header["masks"], source)
    load_strictly(model, weights, source)
    apply_masks(model)
    return model.eval(), plan


def _with_masks(model: nn.Module, weights: Mapping[str, Tensor], names: Any, source: str) -> dict[str, Tensor]:
    """The weights of a file with its masks unpacked; also registers mask buffers in the network to load them into.

    Raises:
        InputError: the header lists layers that the network does not have, or masks are missing or of wrong length.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{source}: its header must list the names of the masked layers; got {names}")
    masks = {}
    for name in names:
        if mask_name(name) not in weights:
            raise InputError(f"{source}: its header names a mask of {name}, and it holds none")
        try:
            masks[name] = unpacked(weights[mask_name(name)], masked_weight(model, name).shape)
        except InputError as error:
            raise InputError(f"{source}: does not fit the network ({mask_name(name)}: {error})") from None
    set_masks(model, masks)
    return {**weights, **{mask_name(name): mask for name, mask in masks.items()}}
