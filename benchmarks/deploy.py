"""Top-1 of a run's networks as they are deployed: in float32, and in int8 by onnxruntime and by torchao.

    compress dataset=cifar10 dataset.root=DATA experiment=public_resnet model.checkpoint=resnet20-12fca82f.th \
        method=filter_magnitude criterion=osscar method.scope=global method.refit_images=1000 preserve_ratio=0.5 \
        'stages=[pretrain,prune,eval]' hydra.run.dir=RUN
    python benchmarks/deploy.py RUN

The scales of activations are set by training images (`--calibration`, 500), which are not augmented; top-1 is on the
test images. Networks are the dense one and the last one of the run. Needs the extra `onnx`; rows of torchao where it
is installed.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor, nn

import compress
from compress.config.build import make
from compress.data.base import Data
from compress.io.files import read_json
from compress.io.paths import MODEL, SUMMARY

Network = Callable[[Tensor], Tensor]  # images (B, C, H, W) to logits (B, classes)
BATCH = 100


def session(path: Path) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    ran = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(ran.run(["logits"], {"images": images.numpy()})[0])


def by_onnxruntime(model: nn.Module, images: list[Tensor], folder: Path) -> tuple[Network, int]:
    """Static int8, weights by channel; and the bytes of its file."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Calibration(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, object] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    compress.export_onnx(model, folder / "float.onnx", images[0])
    quantize_static(folder / "float.onnx", folder / "int8.onnx", Calibration(), per_channel=True)
    return session(folder / "int8.onnx"), (folder / "int8.onnx").stat().st_size


def by_torchao(model: nn.Module, images: list[Tensor]) -> Network:
    """Static int8, weights by channel, as torch.compile runs it on x86; here by the same arithmetic without it."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    dynamic = ({0: torch.export.Dim("batch")},)
    prepared = prepare_pt2e(torch.export.export(model, (images[0],), dynamic_shapes=dynamic).module(), quantizer)
    for batch in images:
        prepared(batch)
    network: Network = convert_pt2e(prepared)
    return network


@torch.no_grad()
def top1(network: Network, data: Data, count: int) -> float:
    right = seen = 0
    for images, labels in data.ordered("test", BATCH, torch.device("cpu")):
        right += int((network(images).argmax(1) == labels).sum())
        seen += len(labels)
        if seen >= count:
            break
    return 100 * right / seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--calibration", type=int, default=500, help="training images")
    parser.add_argument("--images", type=int, default=10**9, help="at most so many test images")
    options = parser.parse_args()
    summary = read_json(options.run / SUMMARY)
    data: Data = make(summary["config"]["dataset"], "dataset")
    drawn = data.drawn("train", options.calibration, BATCH, 0, torch.device("cpu"))
    calibration = [images.contiguous() for images, _ in drawn]
    networks = {
        "dense": compress.load(Path(summary["stages"]["pretrain"]["folder"]) / MODEL),
        list(summary["results"])[-1]: compress.load(options.run),
    }
    rows = []
    for name, model in networks.items():
        with tempfile.TemporaryDirectory() as folder:
            int8, size = by_onnxruntime(model, calibration, Path(folder))
            rows.append((name, "float32", top1(session(Path(folder) / "float.onnx"), data, options.images),
                         (Path(folder) / "float.onnx").stat().st_size // 1024))  # fmt: skip
            rows.append((name, "int8, onnxruntime", top1(int8, data, options.images), size // 1024))
        if find_spec("torchao"):
            rows.append((name, "int8, torchao", top1(by_torchao(model, calibration), data, options.images), None))
        print(tabulate(rows, ["network", "", "top-1", "file, KiB"], floatfmt=".2f"), flush=True)


if __name__ == "__main__":
    main()
