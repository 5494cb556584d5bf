"""Files of tensors: states (torch.save) and weights (safetensors with a JSON header and a digest).

Reading either runs no code: states are loaded with `weights_only=True`.
"""

import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from compress.errors import InputError
from compress.io.files import (
    JSON,
    atomic,
    checksum,
    parse_json,
    printable,
    refuse_compressed_archive,
)


def write_state(path: Path, state: JSON) -> None:
    """Write tensors, numbers, strings, and dicts and lists of them, atomically."""
    whole = io.BytesIO()  # torch.save to a full disk raises RuntimeError; this way it is an OSError
    torch.save(state, whole)
    with atomic(path) as part:
        part.write_bytes(whole.getbuffer())


def read_state(path: Path, device: torch.device | str = "cpu") -> JSON:
    """Read what `write_state` wrote. Takes at most about twice as much memory as the file has bytes.

    Raises:
        Exception: of many types, from torch; not such a file.
    """
    refuse_compressed_archive(path)
    state: JSON = torch.load(path, map_location=device, weights_only=True)
    return state


def write_weights(path: Path, weights: Mapping[str, Tensor], header: JSON) -> None:
    """Write a safetensors file; `header` (JSON) says how to rebuild the network of the weights.

    A digest of the header and the weights is added to the header: a flipped bit would silently be another network.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    whole = save(tensors, metadata={"compress": json.dumps({**header, "digest": _digest(tensors, header)})})
    with atomic(path) as part:
        part.write_bytes(whole)


def read_header(path: Path) -> JSON:
    """The header of a file of `write_weights`: `model`, `plan`, and possibly `masks`, `normalisation` and `digest`.
    Its values are not checked.

    Raises:
        InputError: the file is missing, truncated, or not written by a run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get("compress")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({printable(str(error))})") from None
    try:
        content = parse_json(written or "")
    except ValueError:
        content = None
    parts = content.keys() if isinstance(content, dict) else set()
    if not {"model", "plan"} <= parts <= {"model", "plan", "masks", "normalisation", "digest"}:
        raise InputError(f"{path}: has no header of compress; only files that a run wrote can be rebuilt")
    return content  # type: ignore[no-any-return]


def read_weights(path: Path) -> tuple[dict[str, Tensor], JSON]:
    """The weights and the header (without `digest`) of a file of `write_weights`.

    Raises:
        InputError: the file is missing, truncated, damaged, or not written by a run.
    """
    header = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({printable(str(error))})") from None
    digest = header.pop("digest", None)  # files of older versions have none
    if digest is not None and digest != _digest(weights, header):
        raise InputError(f"{path}: is damaged: its content is not what was written")
    return weights, header


def _digest(weights: Mapping[str, Tensor], header: JSON) -> str:
    """SHA-256 of the header and of names, dtypes, shapes and checksums of the weights."""
    facts = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in sorted(weights.items())]
    whole = hashlib.sha256(json.dumps([facts, header], sort_keys=True).encode())
    for _, tensor in sorted(weights.items()):
        whole.update(checksum(tensor.contiguous().view(-1).view(torch.uint8).numpy().data).encode())
    return whole.hexdigest()


def state_digest(content: Any) -> str:
    """A hash of tensors, numbers, strings, and dicts and lists of them; independent of the order of keys."""
    if isinstance(content, Tensor):
        facts = f"{content.dtype} {tuple(content.shape)}"
        return facts + checksum(content.contiguous().view(-1).view(torch.uint8).numpy().data)
    if isinstance(content, dict):
        content = sorted([repr(key), state_digest(value)] for key, value in content.items())
    elif isinstance(content, list | tuple):
        content = [state_digest(value) for value in content]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def has_missing_or_nonfinite(content: Any, most: int = 1_000_000) -> bool:
    """Whether a state contains None, a tensor without elements, or a value that is not finite; or more than `most`
    parts.

    A tensor larger than its storage counts too: an expanded one poses as a matrix of any size.
    """
    waiting, seen = [content], 0
    while waiting:
        value, seen = waiting.pop(), seen + 1
        if seen > most:
            return True
        if isinstance(value, Tensor):
            if not _is_whole(value) or not bool(value.isfinite().all()):
                return True
        elif isinstance(value, dict | list | tuple):
            waiting += value.values() if isinstance(value, dict) else value
        elif value is None or (isinstance(value, float) and not math.isfinite(value)):
            return True
    return False


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is dense, not empty, and has memory for each of its elements."""
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        return False
    return 0 < tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
