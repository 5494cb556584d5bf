"""A network as an ONNX file, for runtimes that know no torch. Needs the extra: `pip install "compress-lab[onnx]"`."""

import copy
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.settings import InputError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx(asked_by: str) -> None:
    """
    Raises:
        InputError: the extra's packages are not installed; names them.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(f'{asked_by}: needs {", ".join(missing)}; pip install "compress-lab[onnx]"')


def export_onnx(model: nn.Module, path: Path, shape: tuple[int, int, int]) -> float:
    """Write `path`: input "images" (B, C, H, W), output "logits" (B, classes), any batch size, in eval mode.

    Returns:
        The largest difference between onnxruntime's logits and torch's, relative to the largest logit, in float32.

    Raises:
        InputError: the extra is not installed.
    """
    require_onnx("onnx")
    network = copy.deepcopy(model).float().cpu().eval()
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    for speaks in ("torch.onnx", "onnxscript", "onnx_ir"):  # of every pass over the graph
        logging.getLogger(speaks).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch itself uses
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
    with torch.no_grad():
        return _apart(path, images, network(images))


def _apart(path: Path, images: Tensor, logits: Tensor) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    return float((got - logits).abs().max() / logits.abs().max().clamp_min(1e-12))
