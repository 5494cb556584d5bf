"""Milliseconds of a training step, images per second: our loop beside a bare one and one in the style of airbench.

    python benchmarks/gpu_speed.py --out speed.json --seconds 120
    python benchmarks/gpu_speed.py --out speed.json --device cpu --images 8 --batch 64 --steps 4 --networks resnet20

bare             what one would write first: images on the device, cropped and flipped per batch (by our `data`),
                 float32, channels_last, cross entropy, SGD; nothing is logged, scored or saved
airbench-style   what one writes for speed: the images of an epoch augmented at once in bf16, weights in bf16 but for
                 batch norms, fused SGD, no value asked of the device. Own code after Jordan 2024, arXiv:2404.00498
eager, graph     whole epochs of `compress.train.loop.train`: rows of metrics, check for NaN and saving included,
                 without held-out scores. As a graph only where recipes have the key `graphs`, on a GPU
A network with "<- teacher" is trained by KD (temperature 4, 0.1 CE + 0.9 KD), the teacher asked at every step.

An epoch of --steps batches is not counted, then the median of --epochs ones. Each figure is written to --out at once;
run again, the command goes on from there. Over --seconds nothing more is begun, and the exit code is 3.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_results import card, read_or, write
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.nn import functional as F

from compress.config.compose import plain
from compress.config.resolvers import register_resolvers
from compress.config.zoo import zoo_spec
from compress.data.memory import MemoryData, Pixels
from compress.distill.distill import Distill, WeightedTerm
from compress.distill.losses import kd
from compress.errors import first_line
from compress.io.paths import CONF
from compress.io.stage_folder import StageFolder
from compress.schema.settings import Recipe
from compress.train.loop import Hooks, Training, train
from compress.train.objective import Objective, cross_entropy

NETWORKS = ("resnet56", "resnet20", "resnet8x4", "resnet8x4 <- resnet32x4", "vgg16_bn", "mobilenetv1")
CLASSES, TEMPERATURE, CE_WEIGHT = 10, 4.0, 0.1
NHWC = torch.channels_last
OUT_OF_TIME = 3  # exit code

Epoch = Callable[[], object]


def recipe_of(batch: int, epochs: int, **changes: Any) -> Recipe:
    """The recipe `pretrain` of conf/, but for what is given."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = plain(compose("config", []))["pretrain"]
    return Recipe(**{**settings, "batch_size": batch, "epochs": epochs, "lr": 0.01, **changes})


def our_ways(device: torch.device) -> dict[str, dict[str, Any]]:
    """The changes of the recipe, by the name of the column."""
    if "graphs" not in Recipe.__dataclass_fields__ or device.type != "cuda":
        return {"eager": {}, "eager + bf16": {"amp": "bf16"}}
    return {
        "eager": {"graphs": "off"},
        "graph": {"graphs": "on"},
        "graph + bf16": {"graphs": "on", "amp": "bf16"},
    }


def noise(side: int, images: int) -> MemoryData:
    """`images` training images of three channels, of no meaning; one more of each class is held out."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images + CLASSES, 3, side, side), generator=random, dtype=torch.uint8)
    labels = torch.arange(len(pixels)) % CLASSES
    return MemoryData(
        "noise", lambda: Pixels(pixels, labels, pixels[:10], labels[:10]), classes=CLASSES, shape=(3, side, side),
        image_size=None, mean=[0.5] * 3, std=[0.25] * 3, pad=4 if side >= 32 else 1, flip=True,
        held_out=CLASSES / len(pixels), split_seed=0,
    )  # fmt: skip


def network_of(name: str, side: int, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    stem = {"stem_stride": 1} if name == "mobilenetv1" else {}
    model = zoo_spec(name, (3, side, side), CLASSES, **stem).build(check_forward=False)
    return model.to(device, memory_format=NHWC)  # type: ignore[call-overload, no-any-return]


def loss_of(logits: Tensor, labels: Tensor, answer: Tensor | None) -> Tensor:
    ce = F.cross_entropy(logits, labels)
    if answer is None:
        return ce
    soft = [F.log_softmax(x.float() / TEMPERATURE, 1) for x in (logits, answer)]
    return CE_WEIGHT * ce + (1 - CE_WEIGHT) * TEMPERATURE**2 * F.kl_div(*soft, reduction="batchmean", log_target=True)


def sgd(model: nn.Module, **more: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, nesterov=True, **more)


def step(model: nn.Module, teacher: nn.Module | None, optimizer: Any, images: Tensor, labels: Tensor) -> None:
    with torch.no_grad():
        answer = None if teacher is None else teacher(images)
    optimizer.zero_grad(set_to_none=True)
    loss_of(model(images), labels, answer).backward()
    optimizer.step()


# -- an epoch of each loop ----------------------------------------------------------------------------------------


def bare(model: nn.Module, teacher: nn.Module | None, data: MemoryData, batch: int, device: torch.device) -> Epoch:
    optimizer = sgd(model.train())

    def epoch() -> None:
        for images, labels in data.shuffled(batch, 0, device):
            step(model, teacher, optimizer, images.contiguous(memory_format=NHWC), labels)

    return epoch


def half(model: nn.Module) -> nn.Module:
    """In bf16, but for batch norms: theirs are few weights and sums of many values."""
    for module in model.to(torch.bfloat16).modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    return model


def augmented(x: Tensor, pad: int) -> Tensor:
    """Each image mirrored or not and shifted: (N, C, H, W), normalised, the same shape; all of an epoch at once."""
    count, _, height, width = x.shape
    x = torch.where(torch.rand(count, 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)
    padded = F.pad(x, (pad,) * 4, mode="reflect")
    down, right = torch.randint(2 * pad + 1, (2, count, 1), device=x.device)
    rows, columns = down + torch.arange(height, device=x.device), right + torch.arange(width, device=x.device)
    image = torch.arange(count, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)  # NHWC in memory


def airbench_style(
    model: nn.Module, teacher: nn.Module | None, data: MemoryData, batch: int, device: torch.device
) -> Epoch:
    parts = list(data.ordered("train", 2048, device))
    x, y = torch.cat([images for images, _ in parts]).bfloat16(), torch.cat([labels for _, labels in parts])
    model, taught = half(model.train()), None if teacher is None else half(teacher)
    optimizer, pad = sgd(model, fused=True), 4 if x.shape[-1] >= 32 else 1

    def epoch() -> None:
        views, order = augmented(x, pad), torch.randperm(len(x), device=device)
        for index in order.split(batch):
            step(model, taught, optimizer, views[index], y[index])

    return epoch


def timed(epoch: Epoch, epochs: int, device: torch.device) -> list[float]:
    """Seconds of each epoch but a first one."""
    taken = []
    for _ in range(1 + epochs):
        began = time.perf_counter()
        epoch()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return taken[1:]


def ours(
    model: nn.Module, data: MemoryData, recipe: Recipe, objective: Objective, device: torch.device
) -> list[float]:
    """Seconds of each epoch but the first, as its rows of metrics tell."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work, hooks = (
            StageFolder(Path(folder), lambda row: rows.append(dict(row))),
            Hooks(score=lambda _: None, keep_best=False),
        )
        train(
            Training(
                model=model, data=data, recipe=recipe, objective=objective, work=work, stage="speed", seed=0,
                device=device, hooks=hooks,
            )
        )  # fmt: skip
    return [row["seconds"] for row in rows][1:]


# -- the command --------------------------------------------------------------------------------------------------


def measured(options: argparse.Namespace) -> Iterator[tuple[str, str, Callable[[], list[float]]]]:
    """Network, way, and what measures the seconds of epochs of `--steps` steps."""
    device, side, batch = torch.device(options.device), options.images, options.batch
    data = noise(side, options.steps * batch)
    for name in options.networks:
        student, _, teacher_name = name.partition(" <- ")
        new = partial(network_of, student, side, device)

        def teacher(of: str = teacher_name) -> nn.Module | None:
            return network_of(of, side, device).eval().requires_grad_(False) if of else None

        for way, loop in (("bare", bare), ("airbench-style", airbench_style)):

            def by_loop(loop: Any = loop, new: Any = new, teacher: Any = teacher) -> list[float]:
                return timed(loop(new(), teacher(), data, batch, device), options.epochs, device)

            yield name, way, by_loop
        for way, changes in our_ways(device).items():

            def by_ours(changes: Any = changes, new: Any = new, teacher: Any = teacher) -> list[float]:
                recipe, taught, model = recipe_of(batch, 1 + options.epochs, **changes), teacher(), new()
                kept: Objective = cross_entropy(recipe)
                if taught is not None:
                    terms = {"kd": WeightedTerm(weight=1 - CE_WEIGHT, loss=partial(kd, temperature=TEMPERATURE))}
                    distill = Distill(stages=["finetune"], ce_weight=CE_WEIGHT, terms=terms)
                    kept = distill.objective(recipe, taught, model, data.shape)
                return ours(model, data, recipe, kept, device)

            yield name, way, by_ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=32, help="side in pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=3, help="that are measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    deadline = time.monotonic() + options.seconds
    kept, failed = read_or(options.out, {}), False
    for name, way, measure in measured(options):
        if f"{name}, {way}" in kept:
            continue
        if time.monotonic() > deadline:
            raise SystemExit(OUT_OF_TIME)
        try:
            seconds = statistics.median(measure()) / options.steps
        except (RuntimeError, ValueError) as error:  # a network or a way that fails must not cost the others
            print(f"{name}, {way}: {first_line(error)}", flush=True)
            failed = True
            continue
        kept[f"{name}, {way}"] = {
            "network": name, "way": way, "ms": 1000 * seconds, "images_per_second": options.batch / seconds,
            "batch": options.batch, "side": options.images, "steps": options.steps, **card(options.device),
        }  # fmt: skip
        write(options.out, kept)
        print(f"{name}, {way}: {1000 * seconds:.2f} ms", flush=True)
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
