"""Export to ONNX, for runtimes without torch. Needs the extra: `pip install "compress-lab[onnx]"`."""

import copy
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.errors import InputError, first_line
from compress.io.extras import require_extra

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx(asked_by: str) -> None:
    """
    Raises:
        InputError: packages of the extra are missing; names them, and `asked_by`, the setting that needs them.
    """
    require_extra("onnx", PACKAGES, asked_by)


def export_onnx(model: nn.Module, path: Path, shape: tuple[int, int, int]) -> float:
    """Write a network in eval mode, float32, to `path`: input "images" (B, C, H, W), output "logits" (B, classes),
    any B.

    Returns:
        The largest difference between onnxruntime's logits and torch's, relative to the largest logit, in float32.

    Raises:
        InputError: the extra is not installed, the folder of `path` does not exist, or the network cannot run on
        images of `shape` (C, H, W).
    """
    require_onnx("onnx")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    network = copy.deepcopy(model).float().cpu().eval()
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            logits = network(images)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        size = "x".join(map(str, shape))
        raise InputError(f"{type(model).__name__}: cannot run on {size} images ({first_line(error)})") from error
    if not isinstance(logits, Tensor):
        raise InputError(f"{type(model).__name__}: must give one tensor to be exported, not {type(logits).__name__}")
    for talkative in ("torch.onnx", "onnxscript", "onnx_ir"):  # they log every pass over the graph
        logging.getLogger(talkative).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch itself
        torch.onnx.export(
            network,
            (images,),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return _relative_difference(path, images, logits)


def _relative_difference(path: Path, images: Tensor, logits: Tensor) -> float:
    """Largest difference of onnxruntime's logits from torch's, over the largest logit."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    return float((got - logits).abs().max() / logits.abs().max().clamp_min(1e-12))
