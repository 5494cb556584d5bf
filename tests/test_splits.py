"""Who reads which images: whatever trains, searches, prunes or selects never sees the test images."""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, compose_config
from torch import Tensor

from compress.config.build import build
from compress.data.base import WHOLE_BATCH, Batch, Data, Shard
from compress.io.files import JSON
from compress.parallel.helper_processes import Crew
from compress.prune.saved_network import load_network
from compress.run.folder import config_hash
from compress.run.job import Job
from compress.run.pipeline import run
from compress.run.store import Store

LEAN = (
    "device=cpu", "threads=1", "plots=false", "tensorboard=false", "experiment=quick", "model.depth=8",
    "model.width=4", "pretrain.epochs=1", "eval.latency_seconds=0.01", "dataset.held_out=0.6",
)  # fmt: skip
SEARCH = ("method.calibration.images=64", "method.reward_images=64")
METHODS = {
    "slimming": ("method=slimming", "percent=0.3", "method.refit_images=64", "control=[random,uniform]"),
    "slimming with a teacher": (
        "method=slimming", "percent=0.3", "teacher=zoo", "distill=kd", "distill.stages=[sparsify,finetune]",
        "model@teacher.model=resnet20", "teacher.model.depth=8", "teacher.model.width=4",
    ),
    "steps": ("method=group_sparsity", "preserve_ratio=0.6", "method.schedule=linear", "method.steps=2"),
    "magnitude": ("method=magnitude", "percent=0.5", "method.schedule=linear", "method.steps=2"),
    "filters": ("method=filter_magnitude", "preserve_ratio=0.6", "finetune.init=scratch"),
    "amc": ("method=amc", "preserve_ratio=0.6", *SEARCH),
    "camc": ("method=camc", "preserve_ratio=0.7", "method.targets=[0.6,0.8]", "control=uniform", *SEARCH),
}  # fmt: skip


class Guarded:
    """A data set that counts who reads what; its test images must not be read where they are `locked`."""

    def __init__(self, data: Data, locked: bool) -> None:
        self._data, self._locked = data, locked
        self.name, self.classes, self.shape = data.name, data.classes, data.shape
        self.reads: Counter[str] = Counter()
        self.images: Counter[str] = Counter()

    def fingerprint(self) -> str:
        return self._data.fingerprint()

    def split(self) -> dict[str, Tensor]:
        return self._data.split()

    def _read(self, part: str, batches: Iterator[Batch]) -> Iterator[Batch]:
        assert not (self._locked and part == "test"), "somebody reads the test images"
        self.reads[part] += 1
        for images, labels in batches:
            self.images[part] += len(labels)
            yield images, labels

    def shuffled(
        self, batch_size: int, seed: int, device: torch.device, shard: Shard = WHOLE_BATCH
    ) -> Iterator[Batch]:
        return self._read("train", self._data.shuffled(batch_size, seed, device, shard))

    def ordered(
        self, part: Any, batch_size: int, device: torch.device, shard: Shard = WHOLE_BATCH
    ) -> Iterator[Batch]:
        return self._read(part, self._data.ordered(part, batch_size, device, shard))

    def drawn(self, part: Any, *args: Any) -> Iterator[Batch]:
        return self._read(part, self._data.drawn(part, *args))


def all_of(job: Job, config: JSON, data: Data, folder: Path, stages: tuple[str, ...]) -> JSON:
    job = replace(job, data=data, stages=tuple(stage for stage in stages if stage in job.stages))
    crew = Crew(1, CPU, 1, lambda: None)
    settings = {"launch": "1", "tensorboard": False, "plots": False}
    return run(job, config, config_hash(config), folder, Store(folder / "cache"), crew, **settings)


@pytest.mark.parametrize(
    "name", [*list(METHODS)[:-1], pytest.param("camc", marks=pytest.mark.slow)]
)  # camc reads what amc does
def test_only_the_measuring_reads_test_images_once_for_each_network(name: str, tmp_path: Path) -> None:
    config = compose_config(*LEAN, *METHODS[name])
    job = build(copy.deepcopy(config))
    locked, opened = Guarded(job.data, locked=True), Guarded(job.data, locked=False)
    all_of(job, config, locked, tmp_path, ("pretrain", "sparsify", "prune", "finetune"))
    assert locked.reads["train"] >= 2
    assert locked.reads["held_out"] >= 2
    summary = all_of(job, config, opened, tmp_path, job.stages)
    assert [stage for stage, done in summary["stages"].items() if not done["reused"]] == ["eval"]
    networks = summary["results"]
    assert opened.reads == {"test": len(networks)}
    assert opened.images == {"test": 450 * len(networks)}
    assert all(row["weights"] == "last" for row in networks.values())
    assert len(networks) >= 3


def test_what_is_reported_is_of_the_last_weights(tmp_path: Path) -> None:
    """And of the test images: counted again here, from the files that the stages leave."""
    rough = ("finetune.epochs=4", "finetune.lr=2", "finetune.schedule=constant")  # so that the last is not the best
    config = compose_config(*LEAN, "method=slimming", "percent=0.3", *rough)
    job = build(copy.deepcopy(config))
    stages = ("pretrain", "prune", "finetune", "eval")
    summary = all_of(job, config, job.data, tmp_path, stages)
    assert summary["stages"]["finetune"]["best_epoch"] < 4
    for stage, network in (("pretrain", "dense"), ("finetune", "finetuned")):
        folder = Path(summary["stages"][stage]["folder"])
        rows = (folder / "metrics.jsonl").read_text().splitlines()
        told = summary["stages"][stage]
        for file, held_out in (("model", told["held_out_top1"]), ("best", told["best_held_out_top1"])):
            model = load_network(folder / f"{file}.safetensors")[0].eval()
            assert top1(model, job.data, "held_out") == pytest.approx(held_out), (stage, file)
            if file == "model":
                assert summary["results"][network]["top1"] == pytest.approx(top1(model, job.data, "test"))
        assert f'"held_out_top1": {round(told["held_out_top1"], 4)}' in rows[-1]


def top1(model: torch.nn.Module, data: Data, part: Any) -> float:
    with torch.no_grad():
        right = [(model(x).argmax(1) == y).tolist() for x, y in data.ordered(part, 100, CPU)]
    return 100 * sum(map(sum, right)) / sum(map(len, right))
