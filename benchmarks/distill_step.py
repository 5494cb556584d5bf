"""What a step with a teacher costs beside its parts: steps of the training loop, interleaved in one process.

    python benchmarks/distill_step.py                         # resnet20 <- resnet56, 32 px, batches of 128
    python benchmarks/distill_step.py --size 8 --repeats 40   # as on digits

A round is one step of each kind on the same batch, in an order that turns: a plain one, one by KD that asks the
teacher, one by KD with kept logits, and a forward pass of the teacher alone. Printed are medians in CPU milliseconds
(of other processes on the machine a part), and medians over the rounds of

    asked / parts      a KD step / (the teacher's forward + a plain step)
    kept / plain       a step with kept logits / a plain step

each with the standard error of the median.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from compress.config.zoo import zoo_spec
from compress.data.memory import MemoryData, Pixels
from compress.distill.distill import Distill, WeightedTerm
from compress.distill.kept_logits import LAYOUT, KeptLogits
from compress.distill.losses import kd
from compress.io.stage_folder import StageFolder
from compress.schema.settings import Recipe
from compress.train.loop import Training, _Loop
from compress.train.objective import Asking, Objective, cross_entropy

CPU = torch.device("cpu")


def recipe(batch: int) -> Recipe:
    return Recipe(
        epochs=1, batch_size=batch, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, schedule="cosine",
        hold_epochs=0, step_epochs=1, step_factor=0.1, warmup_epochs=0, label_smoothing=0.0, clip_norm=None,
        early_stop_epochs=None, amp="off", channels_last="auto", graphs="auto", checkpoint_seconds=10.0,
    )  # fmt: skip


def noise(size: int, channels: int, images: int) -> MemoryData:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, channels, size, size), generator=random, dtype=torch.uint8)
    labels = torch.arange(images) % 10
    ordinary = {"image_size": None, "mean": [0.5] * channels, "std": [0.25] * channels, "split_seed": 0}
    return MemoryData(
        "noise", lambda: Pixels(pixels, labels, pixels[:10], labels[:10]), classes=10,
        shape=(channels, size, size), pad=4 if size >= 32 else 1, flip=size >= 32, held_out=0.1, **ordinary,
    )  # type: ignore[arg-type]  # fmt: skip


def stepper(
    objective: Objective, student: nn.Module, data: MemoryData, batch: int, folder: Path
) -> Callable[[tuple[Tensor, ...]], None]:
    """A step of the loop of a training, on a batch of images, labels and views."""
    by_view = isinstance(objective, Asking) and objective.by_view
    folder.mkdir()
    training = Training(
        model=student, data=data, recipe=recipe(batch), objective=objective, work=StageFolder(folder), stage="s",
        seed=0, device=CPU,
    )  # fmt: skip
    step = _Loop(training).step
    student.train()
    return lambda drawn: step(drawn if by_view else drawn[:2], len(drawn[1]), 0.5)


def timed(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return 1000 * (time.process_time() - began)


def spread(values: Sequence[float]) -> str:
    error = 1.2533 * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.median(values):.3f} +- {error:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    channels = 3 if options.size >= 32 else 1
    shape = (channels, options.size, options.size)
    data = noise(options.size, channels, 10 * options.batch)
    new = partial(_network, shape=shape)
    teacher = new(options.teacher).eval().requires_grad_(False).to(memory_format=LAYOUT)
    distill = Distill(
        stages=["finetune"], ce_weight=0.1, terms={"kd": WeightedTerm(weight=0.9, loss=partial(kd, temperature=4.0))}
    )
    table = KeptLogits(torch.randn(len(data.split()["train"]) * data.views, 10))

    def forward(drawn: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            teacher(drawn[0].contiguous(memory_format=LAYOUT))

    with TemporaryDirectory() as name:
        folder, by = Path(name), distill.objective
        kinds: dict[str, Callable[[tuple[Tensor, ...]], None]] = {"teacher's forward": forward}
        for kind, objective in {
            "plain step": cross_entropy(recipe(options.batch)),
            "asked": by(recipe(options.batch), teacher, new(options.student), shape),
            "kept": by(recipe(options.batch), table, new(options.student), shape),
        }.items():
            kinds[kind] = stepper(objective, new(options.student), data, options.batch, folder / kind)
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        batches = [drawn for drawn in data.shuffled_views(options.batch, 0, CPU) if len(drawn[1]) == options.batch]
        for number in range(-3, options.repeats):  # the first three are not counted
            drawn = batches[number % len(batches)]
            order = list(kinds)[number % len(kinds) :] + list(kinds)[: number % len(kinds)]
            for kind in order:
                milliseconds = timed(partial(kinds[kind], drawn))
                found[kind] += [milliseconds] if number >= 0 else []
    for kind, values in found.items():
        print(f"{kind:18} {statistics.median(values):8.2f} ms")
    parts = [a + b for a, b in zip(found["teacher's forward"], found["plain step"], strict=True)]
    print(f"asked / parts      {spread([a / b for a, b in zip(found['asked'], parts, strict=True)])}")
    print(f"kept / plain       {spread([a / b for a, b in zip(found['kept'], found['plain step'], strict=True)])}")


def _network(name: str, shape: tuple[int, int, int]) -> nn.Module:
    return zoo_spec(name, shape, 10).build(check_forward=False)


if __name__ == "__main__":
    main()
