"""A teacher's logits that are kept: what they are, that a training with them is the one without, and when."""

import functools
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, compose_config, livened, make_recipe, zoo
from torch import Tensor, nn

from compress.config.build import build
from compress.data.memory import MemoryData
from compress.distill import kept_logits
from compress.distill.distill import Distill, Distillation, WeightedTerm
from compress.distill.kept_logits import LAYOUT, NAME, KeptLogits, fill, opened
from compress.distill.losses import kd
from compress.errors import InputError
from compress.io.files import JSON, read_json
from compress.io.stage_folder import StageFolder
from compress.parallel.collectives import ALONE
from compress.parallel.helper_processes import Crew
from compress.run.folder import config_hash
from compress.run.pipeline import run
from compress.run.stages import training as stage_training
from compress.run.stages.logits import CHOICE, Lesson
from compress.run.stages.logits import kept_logits as kept_for
from compress.run.store import Store
from compress.train.loop import Training, train

KD = WeightedTerm(weight=0.9, loss=functools.partial(kd, temperature=4.0))
CLASSES = 10


class Counted(nn.Module):
    """A teacher that counts the images it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.images = network, 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.network(images)  # type: ignore[no-any-return]


def teacher_network() -> Counted:
    torch.manual_seed(1)
    return Counted(livened(zoo("resnet20", (1, 8, 8), depth=8, width=8)).eval())


def filled(folder: Path, data: MemoryData, views: Tensor, teacher: nn.Module) -> Path:
    folder.mkdir(exist_ok=True)
    fill(StageFolder(folder), teacher, data, views, CLASSES, CPU)
    return folder / NAME


def every_view(data: MemoryData) -> Tensor:
    return torch.arange(len(data.split()["train"]) * data.views)


def distillation(**settings: Any) -> Distill:
    return Distill(**{"stages": ["finetune"], "ce_weight": 0.1, "terms": {"kd": KD}, **settings})


# -- the table


def test_it_is_what_the_teacher_answers_to_every_view(digit_data: MemoryData, tmp_path: Path) -> None:
    teacher = teacher_network()
    file = filled(tmp_path / "a", digit_data, every_view(digit_data), teacher)
    table = opened(file, None, CPU)
    assert table.logits.shape == (9 * len(digit_data.split()["train"]), CLASSES)
    assert np.array_equal(np.load(file), table.logits.numpy())
    assert 0 <= file.stat().st_size - 4 * table.logits.numel() <= 128
    with torch.no_grad():
        for images, _, views in digit_data.shuffled_views(64, 5, CPU):
            asked = teacher(images.contiguous(memory_format=LAYOUT))
            assert (table.of(views) - asked).abs().max() < 1e-5 * asked.abs().max()
        first = next(digit_data.views_in_order(every_view(digit_data), kept_logits.BATCH, CPU))
        same_batch = teacher(first.contiguous(memory_format=LAYOUT))
    assert torch.equal(table.logits[: len(first)], same_batch)


def test_some_views_are_found_in_a_smaller_table(digit_data: MemoryData, tmp_path: Path) -> None:
    teacher = teacher_network()
    whole = opened(filled(tmp_path / "a", digit_data, every_view(digit_data), teacher), None, CPU)
    met = digit_data.drawn_views(64, 5, CPU)
    some = opened(filled(tmp_path / "b", digit_data, met.sort().values, teacher), met.sort().values, CPU)
    assert len(some.logits) == len(met) == len(whole.logits) // 9
    assert (some.of(met) - whole.of(met)).abs().max() < 1e-5 * whole.logits.abs().max()


class KilledError(Exception):
    pass


class Dying(nn.Module):
    def __init__(self, teacher: nn.Module, images: int) -> None:
        super().__init__()
        self.teacher, self.left = teacher, images

    def forward(self, images: Tensor) -> Tensor:
        if self.left <= 0:
            raise KilledError
        self.left -= len(images)
        return self.teacher(images)  # type: ignore[no-any-return]


@pytest.mark.parametrize("damaged", [False, True])
def test_killed_it_goes_on_and_is_the_uninterrupted_one(
    damaged: bool, digit_data: MemoryData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_logits, "SAVE_SECONDS", 0.0)
    teacher, views = teacher_network(), every_view(digit_data)
    whole = filled(tmp_path / "whole", digit_data, views, teacher)
    with pytest.raises(KilledError):
        filled(tmp_path / "killed", digit_data, views, Dying(teacher, 3 * kept_logits.BATCH))
    if damaged:
        content = bytearray((tmp_path / "killed" / NAME).read_bytes())
        content[1000] ^= 1
        (tmp_path / "killed" / NAME).write_bytes(content)
    teacher.images = 0
    file = filled(tmp_path / "killed", digit_data, views, teacher)
    assert file.read_bytes() == whole.read_bytes()
    assert teacher.images == len(views) - (0 if damaged else 3 * kept_logits.BATCH)


def test_a_disk_without_room_is_told_before_the_teacher_is_asked(
    digit_data: MemoryData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    teacher = teacher_network()
    with pytest.raises(OSError, match="no room for 0.4 MB"):
        filled(tmp_path / "a", digit_data, every_view(digit_data), teacher)
    assert teacher.images == 0


# -- a training with it


def trained(data: MemoryData, folder: Path, objective: Distillation) -> dict[str, Tensor]:
    torch.manual_seed(2)
    student = zoo("resnet20", (1, 8, 8), depth=8, width=4)
    folder.mkdir()
    training = Training(
        model=student, data=data, recipe=make_recipe(), objective=objective, work=StageFolder(folder), seed=3,
        stage="finetune", device=CPU,
    )  # fmt: skip
    train(training)
    return student.state_dict()


def test_a_training_with_kept_logits_is_the_one_that_asks(digit_data: MemoryData, tmp_path: Path) -> None:
    teacher, recipe, shape = teacher_network(), make_recipe(), (1, 8, 8)
    table = opened(filled(tmp_path / "table", digit_data, every_view(digit_data), teacher), None, CPU)
    wrong = KeptLogits(table.logits.roll(1, 0))
    teacher.images = 0
    asked, kept, other = (
        trained(digit_data, tmp_path / name, distillation().objective(recipe, by, nn.Identity(), shape))
        for name, by in (("asked", teacher), ("kept", table), ("other", wrong))
    )
    assert teacher.images == 2 * len(digit_data.split()["train"])  # of the first training alone
    assert all(torch.allclose(kept[name].double(), asked[name].double(), rtol=1e-4, atol=1e-5) for name in asked)
    assert not all(torch.allclose(other[name].double(), asked[name].double(), rtol=1e-4, atol=1e-5) for name in asked)


# -- when


def lesson(data: Any, root: Path, *, folder: str = "t.partial", **more: Any) -> Lesson:
    """A training of two epochs, with other settings of the recipe and the distillation."""
    (root / folder).mkdir(exist_ok=True, parents=True)
    recipe = make_recipe(**{key: more.pop(key) for key in list(more) if key in vars(make_recipe())})
    return Lesson(
        stage="finetune", recipe=recipe, seed=more.pop("seed", 0), distill=distillation(**{"cache": "auto", **more}),
        data=data, device=CPU, work=StageFolder(root / folder), teacher=teacher_network, depends={"teacher": "t"},
    )  # fmt: skip


def tables(cache: Path) -> list[int]:
    """How many views each table of a cache has."""
    return sorted(read_json(file)["views"] for file in cache.glob("logits-*/result.json"))


def test_auto_keeps_what_costs_no_more_than_asking(
    digit_data: MemoryData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = len(digit_data.split()["train"])
    caplog.set_level(logging.INFO)
    few = kept_for(lesson(digit_data, tmp_path / "few"), ALONE)
    assert few is not None
    (met,) = tables(tmp_path / "few")
    assert images < met <= 2 * images  # of two epochs
    assert "finetune: the teacher is not asked: its logits of the views to come are kept, 0." in caplog.text
    kept_for(lesson(digit_data, tmp_path / "few", seed=1), ALONE)
    assert len(tables(tmp_path / "few")) == 2
    many = kept_for(lesson(digit_data, tmp_path / "many", epochs=9), ALONE)
    assert many is not None
    assert many[0].views is None
    assert tables(tmp_path / "many") == [9 * images]
    assert "its logits of all 9 views of an image are kept, 0.4 MB, which saves about" in caplog.text
    # what is there serves shorter trainings too
    assert kept_for(lesson(digit_data, tmp_path / "many", folder="u.partial", seed=4), ALONE) is not None
    assert tables(tmp_path / "many") == [9 * images]


def test_a_stopped_term_needs_no_views(digit_data: MemoryData, tmp_path: Path) -> None:
    term = WeightedTerm(weight=0.9, loss=KD.loss, stop_epoch=1)
    kept_for(lesson(digit_data, tmp_path, epochs=40, terms={"kd": term}), ALONE)
    assert tables(tmp_path) == [len(digit_data.split()["train"])]


class Folders:
    """Images whose views cannot be counted."""

    def __init__(self, data: MemoryData) -> None:
        self.name, self.classes, self.shape = data.name, data.classes, data.shape
        self.split = data.split


@pytest.mark.parametrize(
    ("settings", "countable", "why"),
    [
        ({"cache": "off"}, True, ""),
        ({"early_stop_epochs": 1}, True, "the training may stop early"),
        ({"amp": "bf16"}, True, "in bf16 what the teacher answers to an image depends on the batch"),
        ({}, False, "the images of this dataset are not augmented by crop and flip alone"),
        (
            {"cache_limit_gb": 1e-5},
            True,
            "views of the training images take 8.2e-05 GB, cache_limit_gb=1e-05 allows less",
        ),
    ],
)
def test_what_is_not_kept_is_said(
    settings: JSON, countable: bool, why: str, digit_data: MemoryData, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    data = digit_data if countable else Folders(digit_data)
    assert kept_for(lesson(data, tmp_path, **settings), ALONE) is None
    assert tables(tmp_path) == []
    assert why in caplog.text
    if settings.get("early_stop_epochs") is None and settings.get("cache") != "off":
        with pytest.raises(InputError, match=rf"^cache=on: .*{why[:20]}.*; use auto or off$"):
            kept_for(lesson(data, tmp_path, **{**settings, "cache": "on"}), ALONE)


def test_a_training_goes_on_with_what_it_began_with(digit_data: MemoryData, tmp_path: Path) -> None:
    begun = lesson(digit_data, tmp_path)
    met = kept_for(begun, ALONE)
    assert met is not None
    assert met[0].views is not None
    begun.work.progress(lambda: {"epoch": 1})
    kept_for(lesson(digit_data, tmp_path, folder="other.partial", cache="on"), ALONE)  # now all views are there
    again = kept_for(lesson(digit_data, tmp_path), ALONE)
    assert again is not None
    assert again[0].views is not None
    assert read_json(tmp_path / "t.partial" / CHOICE) == {"": "met"}
    fresh = kept_for(lesson(digit_data, tmp_path, folder="fresh.partial"), ALONE)
    assert fresh is not None
    assert fresh[0].views is None


LEAN = (
    "device=cpu", "threads=1", "plots=false", "tensorboard=false", "model.depth=8", "model.width=4",
    "pretrain.epochs=1", "finetune.epochs=2", "dataset.held_out=0.6", "method=filter_magnitude",
    "stages=[pretrain,prune,finetune]", "teacher=self", "distill=kd",
)  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all batches that a teacher of a run answers to."""
    found: list[int] = []
    load = stage_training.load_teacher

    def watched(state: Any, name: str) -> nn.Module:
        teacher = load(state, name)
        teacher.register_forward_hook(lambda module, args, output: found.append(len(args[0])))
        return teacher

    monkeypatch.setattr(stage_training, "load_teacher", watched)
    return found


def stages_of(folder: Path, *settings: str) -> JSON:
    config = compose_config(*LEAN, *settings, f"outputs={folder}")
    store, crew = Store(folder / "cache"), Crew(1, CPU, 1, lambda: None)
    name, job = config_hash(config), build(config)
    how = {"launch": "1", "tensorboard": False, "plots": False}
    summary = run(job, config, name, folder / name, store, crew, **how)  # type: ignore[arg-type]
    stages: JSON = summary["stages"]
    return stages


def test_a_second_student_never_asks_the_teacher(tmp_path: Path, asked: list[int]) -> None:
    live = stages_of(tmp_path / "off", "preserve_ratio=0.5", "distill.cache=off")
    assert sum(asked) > 0
    asked.clear()
    first = stages_of(tmp_path / "on", "preserve_ratio=0.5")
    assert sum(asked) > 0
    assert first["finetune"]["key"] == live["finetune"]["key"]  # they differ by float noise at most
    asked.clear()
    second = stages_of(tmp_path / "on", "preserve_ratio=0.7")
    assert second["finetune"]["key"] != first["finetune"]["key"]
    assert not second["finetune"]["reused"]
    assert asked == []

    (file,) = (tmp_path / "on" / "cache").glob(f"logits-*/{NAME}")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    stages_of(tmp_path / "on", "preserve_ratio=0.6")
    assert sum(asked) > 0  # damage is noticed, and the table made anew
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (("distill=[kd,at]",), "at compares feature maps, which are not kept"),
        (("finetune.amp=bf16",), "in bf16 what the teacher answers to an image depends on the batch"),
    ],
)
def test_on_is_refused_before_the_run_where_it_cannot_be(settings: tuple[str, ...], why: str) -> None:
    with pytest.raises(InputError, match=f"^distill.cache=on: {why}; use auto or off$"):
        build(compose_config(*LEAN, *settings, "distill.cache=on"))
