"""Checkpoints of unknown origin: read as plain tensors, renamed to the network's parameters, checked before use.

Published files hold a state dict in many forms: inside a wrapper dict, under the prefixes of torch.compile, data
parallelism or Lightning, with counters beside it. Tensors that are no weights (integer, complex, sparse, not finite)
are refused.
"""

import logging
import re
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from compress.errors import OWN, InputError, SettingError, few
from compress.io.files import refuse_compressed_archive
from compress.io.tensors import read_weights
from compress.models.masks import MASK
from compress.schema.check import shown

log = logging.getLogger(__name__)

# Keys under which published checkpoints keep their state dict.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params")
PREFIXES = ("_orig_mod.", "module.", "model.", "net.", "network.", "backbone.")  # possibly several in a row
MOST_FORMS = 30  # combinations of prefixes that are tried; published files need fewer than 5
COUNTERS = ("total_ops", "total_params", "n_averaged")  # buffers of thop and of AveragedModel
WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in a .pt/.pth/.th/.safetensors file, taken out of the usual wrapper dicts.

    Raises:
        SettingError: missing, not loadable as plain tensors, or without a state dict.
    """
    source = f"{OWN}checkpoint={path}"
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise SettingError(f"{source}: {what}; give a state dict, or null to train")
    try:
        content = _tensors_of(path)
    except InputError as error:  # which begins with the path
        raise SettingError(f"{OWN}checkpoint={error}") from None
    except Exception as error:  # torch and safetensors raise many types
        # torch's message suggests to load such a file with weights_only=False; ours does not.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"holds an object of {foreign[1]}" if foreign else f"cannot be read ({type(error).__name__})"
        raise SettingError(
            f"{source}: {what}; only plain tensors are loaded: save model.state_dict() alone"
        ) from None
    while isinstance(content, dict):  # wrappers may be nested
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise SettingError(f"{source}: holds no state dict (looked under {', '.join(WRAPPERS)} too)")
    odd = next((name for name in content if not isinstance(name, str)), None)
    if odd is not None:
        raise SettingError(f"{source}: holds a tensor under the name {shown(odd)}; names of parameters are text")
    return {_current_name(name): tensor for name, tensor in content.items()}


def _tensors_of(path: Path) -> Any:
    """
    Raises:
        InputError: a network that a run has cut, or a compressed archive.
        Exception: of many types, from torch and safetensors; not a file of plain tensors.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        if not _is_of_a_run(path):
            return load_file(path)
        weights, header = read_weights(path)
        if header["plan"]:
            raise InputError(
                f"{path}: is a network that a run has cut; compress.load reads it, and its uncut "
                "one is what the run's stage pretrain left in the cache"
            )
        return {name: tensor for name, tensor in weights.items() if not name.endswith(f".{MASK}")}
    refuse_compressed_archive(path)
    with torch.serialization.safe_globals(_harmless_types()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old pickle protocols
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_of_a_run(path: Path) -> bool:
    """Whether a run of compress wrote a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return "compress" in (file.metadata() or {})


def _current_name(name: str) -> str:
    """A parameter's name in today's torchvision; its DenseNets were renamed."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", name)


def _harmless_types() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Types besides tensors that published files hold, parsed arguments and numpy scalars. Unpickling them runs no
    foreign code."""
    scalar = np.float64(0).__reduce__()[0]
    assert callable(scalar)
    names = ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"]  # of numpy 1 and 2
    dtypes = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"]
    return [Namespace, np.dtype, *dtypes, *((scalar, name) for name in names)]


def under_own_names(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the prefixes and counters that the network does not have. `own` is its state dict.

    The network's own names decide: one with an attribute `module` keeps that prefix.
    """
    found = {
        name: tensor
        for name, tensor in weights.items()
        if name in own or name.rpartition(".")[2] not in COUNTERS or _stripped(name) in own
    }
    forms = [found]
    for form in islice(forms, MOST_FORMS):  # grows while it is read: a prefix may follow another
        for prefix in PREFIXES:
            inner = {name.removeprefix(prefix): form[name] for name in form if name.startswith(prefix)}
            forms += [inner] if inner else []
    # A prefix that only some names have drops the others (such as a Lightning module's loss): only if the network is
    # whole.
    whole = [form for form in forms if len(form) == len(found) or not _missing(form, own)]
    best = max(whole, key=lambda form: len(form.keys() & own.keys()))  # ties: the fewest prefixes removed
    if len(best) < len(found):
        log.info("%d tensors beside the network are left out", len(found) - len(best))
    return best


def _stripped(name: str) -> str:
    while prefix := next((p for p in PREFIXES if name.startswith(p)), ""):
        name = name.removeprefix(prefix)
    return name


def _missing(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    # `num_batches_tracked` is missing in old files; it is unused in eval mode, and in training with a momentum.
    return [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]


def misfits(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """How names and shapes differ from those of a network's state dict `own`, for an error message; "" if they
    fit."""
    missing = _missing(weights, own)
    extra = [name for name in weights if name not in own]
    shapes = [
        f"{name} {tuple(weights[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    parts = [("missing", missing), ("unknown", extra), ("other shape", shapes)]
    return "; ".join(f"{what}: {_listed(names)}" for what, names in parts if names)


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights that fit the network exactly, after `under_own_names`. `source` names the file in messages.

    Raises:
        SettingError: names, shapes or dtypes differ, or values are not finite or below 0 where they cannot be; lists
        which.
    """
    own = model.state_dict()
    weights = under_own_names(weights, own)
    if special := [f"{name} ({what})" for name, tensor in weights.items() if (what := _special(tensor))]:
        raise SettingError(f"{source}: holds no weights ({_listed(special)})")
    if differ := misfits(weights, own):
        raise SettingError(f"{source}: does not fit the network ({differ})")
    wrong = [f"{name} ({what})" for name, tensor in weights.items() if (what := _unlike(tensor, own[name]))]
    if wrong:
        raise SettingError(f"{source}: holds no weights ({_listed(wrong)})")
    odd = [name for name, tensor in weights.items() if not tensor.to(own[name].dtype).isfinite().all()]
    if odd:
        raise SettingError(f"{source}: holds numbers that are not finite ({_listed(odd)})")
    never_negative = ("running_var", "num_batches_tracked")
    negative = [name for name, t in weights.items() if name.endswith(never_negative) and bool((t < 0).any())]
    if negative:
        raise SettingError(f"{source}: holds variances or counts below 0 ({_listed(negative)})")
    model.load_state_dict({**own, **weights})


def _special(tensor: Tensor) -> str:
    """Why a tensor is not a dense one with values in memory; "" if it is."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized:
        return "nested, sparse or quantized"
    return "on the meta device, without numbers" if tensor.device.type == "meta" else ""


def _unlike(tensor: Tensor, own: Tensor) -> str:
    """What is wrong with the dtype of a tensor that is to replace `own`; "" if nothing."""
    if own.is_floating_point():
        return "" if tensor.dtype in WEIGHT_DTYPES else str(tensor.dtype)
    return "" if tensor.dtype == own.dtype else f"{tensor.dtype} for {own.dtype}"


def _listed(names: Iterable[str]) -> str:
    return few(map(shown, names), 6)
