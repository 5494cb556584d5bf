"""Teachers: several with weights, of an earlier stage, by their own normalisation, and worth what is expected."""

import copy
import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, Command, compose_config, make_recipe
from test_splits import Guarded
from torch import Tensor, nn
from torch.nn import functional as F

from compress.config.build import build
from compress.config.built_jobs import problems_of
from compress.data.base import Normalisation
from compress.data.digits import digits
from compress.data.memory import MemoryData
from compress.distill.adapters import hint as hint_adapter
from compress.distill.distill import Distill, WeightedTerm
from compress.distill.feature_term import FeatureTerm
from compress.distill.features import hint
from compress.distill.losses import kd
from compress.distill.teacher import RunTeacher, WeightedTeacher, ZooTeacher
from compress.errors import InputError
from compress.graph.plan import Plan
from compress.io.files import read_rows
from compress.io.paths import MODEL
from compress.io.stage_folder import StageFolder, read_progress
from compress.io.tensors import read_header, write_weights
from compress.models.spec import ModelSpec
from compress.parallel.helper_processes import Crew
from compress.prune.saved_network import save_network, saved_normalisation
from compress.run.expected import check_expected
from compress.run.folder import config_hash
from compress.run.job import Job, RunState
from compress.run.pipeline import run, stage_keys
from compress.run.stages.training import load_teacher, teaching
from compress.run.store import Store
from compress.schema.settings import TeacherSettings
from compress.train.loop import Training, train
from compress.train.objective import Outputs, Tapped, outputs_of, total

SPEC = ModelSpec("compress.models.resnet_cifar.resnet", {"depth": 8, "width": 4, "shortcut": "conv"}, (1, 8, 8), 10)
SMALL = (
    "dataset=digits", "model=resnet20", "model.depth=8", "model.width=4", "pretrain.epochs=1", "finetune.epochs=1",
    "device=cpu", "threads=1",
)  # fmt: skip
KD4 = partial(kd, temperature=4.0)


def linear(seed: int, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])


# -- several


def test_several_teachers_by_hand() -> None:
    """The loss is the weighted sum, and of kd its gradient that of one teacher with the mean of the probabilities."""
    images, labels = batch()
    one, other = linear(1), linear(2)
    distill = Distill(stages=["finetune"], ce_weight=0.5, terms={"kd": WeightedTerm(weight=2.0, loss=KD4)})
    objective = distill.objective(make_recipe(), {"a": (one, 0.3), "b": (other, 0.7)}, linear(0), (1, 2, 2))
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(3)).requires_grad_()
    terms = objective(Outputs(logits), labels, images, 0.0)
    by_hand = 0.3 * KD4(logits, one(images), labels) + 0.7 * KD4(logits, other(images), labels)
    assert list(terms) == ["ce", "kd"]
    assert terms["kd"].item() == pytest.approx(2 * by_hand.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(terms["kd"], logits, retain_graph=True)
    mean = 0.3 * (one(images) / 4).softmax(1) + 0.7 * (other(images) / 4).softmax(1)
    (of_mean,) = torch.autograd.grad(KD4(logits, 4 * mean.detach().log(), labels), logits)
    assert torch.allclose(gradient, 2 * of_mean, atol=1e-6)


def test_figures_by_hand() -> None:
    """Each term without its weight, whatever the warm-up has left of it, and how often the first choices agree."""
    images, labels = batch()
    one, other = linear(1), linear(5)
    term = WeightedTerm(weight=2.0, loss=KD4, warmup_epochs=4, stop_epoch=6)
    distill = Distill(stages=["finetune"], ce_weight=0.5, terms={"kd": term})
    logits = one(images).detach()
    alone = distill.objective(make_recipe(), one, linear(0), (1, 2, 2))
    figures = alone(Outputs(logits + 1), labels, images, 0.5).figures  # type: ignore[attr-defined]
    assert figures.keys() == {"raw_ce", "raw_kd", "teacher_agreement"}
    assert figures["teacher_agreement"].item() == 1.0
    assert figures["raw_ce"].item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    both = distill.objective(make_recipe(), {"a": (one, 1.0), "b": (other, 1.0)}, linear(0), (1, 2, 2))
    terms = both(Outputs(logits), labels, images, 1.5)
    told = terms.figures  # type: ignore[attr-defined]
    share = (logits.argmax(1) == other(images).argmax(1)).double().mean().item()
    assert 0 < share < 1
    assert [round(told[f"teacher_agreement_{name}"].item(), 6) for name in "ab"] == [1.0, round(share, 6)]
    assert terms["kd"].item() == pytest.approx(2.0 * 2 / 4 * told["raw_kd"].item(), rel=1e-6)
    after = both(Outputs(logits), labels, images, 6.5).figures  # type: ignore[attr-defined]
    assert after.keys() == {"raw_ce"}  # nobody is asked any more


def test_each_of_several_teachers_has_its_own_maps_and_adapters() -> None:
    """Whose widths differ; the sum of two losses of hand-adapted maps."""
    student, narrow, wide = (build_net(width, seed) for seed, width in enumerate((4, 6, 8)))
    term = FeatureTerm(weight=3.0, loss=hint, adapter=hint_adapter, ends=[-2])
    distill = Distill(stages=["finetune"], ce_weight=1.0, terms={"hint": term})
    teachers = {"narrow": (narrow, 1.0), "wide": (wide, 0.5)}
    objective = distill.objective(make_recipe(), teachers, student, (1, 8, 8))
    assert list(objective.adapters) == ["hint narrow", "hint wide"]
    images, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    terms = objective(outputs_of(*Tapped(student, objective)(images)), labels, images, 0.0)
    with torch.no_grad():
        parts = [
            weight
            * hint(*guide.pairings["hint"].maps(outputs_of(*Tapped(student, objective)(images)).features, maps))
            for guide, weight in zip(objective.teachers.values(), (1.0, 0.5), strict=True)
            for maps in [guide.ask(images).features]
        ]
    assert terms["hint"].item() == pytest.approx(3 * sum(map(float, parts)), rel=1e-4)
    total(terms).backward()
    assert all(p.grad is not None and p.grad.any() for p in objective.adapters.parameters())


def build_net(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return replace(SPEC, args={**SPEC.args, "width": width}).build()


# -- never trained


def test_a_teacher_is_never_trained_and_in_no_file(digit_data: MemoryData, tmp_path: Path) -> None:
    """Two epochs: not a bit of its weights and running statistics moves, and of what is saved it is no part."""
    teacher, student = build_net(6, 0), build_net(4, 1)
    images = next(digit_data.ordered("held_out", 64, CPU))[0]
    teacher.train()(images)  # so that its running statistics are its own
    before = copy.deepcopy(teacher.state_dict())
    distill = Distill(stages=["finetune"], ce_weight=0.1, terms={"kd": WeightedTerm(weight=0.9, loss=KD4)})
    recipe, rows = make_recipe(epochs=2, lr=0.1), list[Any]()
    objective = distill.objective(recipe, teacher, student, digit_data.shape)
    names = set(student.state_dict())
    what = {"model": student, "data": digit_data, "recipe": recipe, "objective": objective}
    train(Training(**what, stage="finetune", seed=0, device=CPU, work=StageFolder(tmp_path, rows.append)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    progress, _ = read_progress(tmp_path)
    assert progress is not None
    saved = progress["state"]
    assert set(saved["model"]) == names
    assert saved["adapters"] == {}
    assert len(saved["optimizer"]["state"]) == len(list(student.parameters()))
    assert {"loss_kd", "raw_kd", "raw_ce", "teacher_agreement"} <= rows[-1].keys()
    assert rows[-1]["loss_kd"] == pytest.approx(0.9 * rows[-1]["raw_kd"], rel=1e-4)
    assert rows[-1]["loss_ce"] == pytest.approx(0.1 * rows[-1]["raw_ce"], rel=1e-4)
    assert 0 <= rows[-1]["teacher_agreement"] <= 1


# -- of an earlier stage


def problems(*overrides: str) -> list[str]:
    loss = () if any(text.startswith("distill=") for text in overrides) else ("distill=kd",)
    return problems_of(compose_config(*SMALL, *loss, *overrides))


def test_the_sparsely_trained_network_teaches_its_pruned_version(tmp_path: Path) -> None:
    done = {}
    for seed, stage in enumerate(("pretrain", "sparsify")):
        done[stage] = tmp_path / stage
        done[stage].mkdir()
        save_network(done[stage] / MODEL, build_net(4, seed), SPEC, Plan())
    for stage in done:
        job = build(compose_config(*SMALL, "method=slimming", "teacher=self", "distill=kd", f"teacher.stage={stage}"))
        ((name, teacher),) = job.teachers.items()
        network = load_teacher(RunState(job, done), name)
        seed = list(done).index(stage)
        assert torch.equal(network.conv1.weight, build_net(4, seed).conv1.weight)
        assert teacher.settings.weight == 1


def test_the_stage_of_a_teacher_is_in_the_key_of_what_it_teaches() -> None:
    def keys(*more: str) -> dict[str, str]:
        return stage_keys(build(compose_config(*SMALL, "method=slimming", *more)))

    plain = keys()
    dense, sparse = (keys("teacher=self", "distill=kd", f"teacher.stage={s}") for s in ("pretrain", "sparsify"))
    assert len({one["finetune"] for one in (plain, dense, sparse)}) == 3
    assert all(one[stage] == plain[stage] for one in (dense, sparse) for stage in ("pretrain", "sparsify", "prune"))
    stronger = keys("teacher=self", "distill=kd", "teacher.stage=sparsify", "method.l1=0.02")
    assert stronger["finetune"] != sparse["finetune"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("method=camc",), "method=camc does not train the network in sparsify, so that none comes out of it"),
        (("method=filter_magnitude",), "method=filter_magnitude does not train the network in sparsify"),
        (
            ("method=slimming", "distill.stages=[sparsify]"),
            "too late for a teacher that joins sparsify (distill.stages=[sparsify])",
        ),
        (("method=slimming", "stages=[pretrain,prune,finetune]"), "sparsify is not among the stages of this run"),
    ],
)
def test_a_stage_that_leaves_no_teacher_is_refused(more: tuple[str, ...], told: str) -> None:
    line, *_ = problems("teacher=self", "teacher.stage=sparsify", *more)
    assert line.startswith("teacher.stage=sparsify: ")
    assert told in line


# -- on the command line


def test_several_are_composed_checked_and_keyed() -> None:
    several = (*SMALL, "method=slimming", "teacher=several", "distill=kd", "+teacher@teacher.third=self")
    sizes = ("model@teacher.first.model=resnet20", "teacher.first.model.depth=8", "teacher.first.weight=0.5")
    job = build(compose_config(*several, *sizes, "teacher.third.stage=sparsify"))
    assert list(job.teachers) == ["teacher first", "teacher second", "teacher third"]
    assert [teacher.settings.weight for teacher in job.teachers.values()] == [0.5, 1.0, 1.0]
    assert job.teachers["teacher first"].source.to_train is not None
    taught = teaching(job, "finetune")["teacher"]
    assert taught["teacher first"]["weight"] == 0.5
    assert taught["teacher third"] == {"of": "sparsify"}
    heavier = build(compose_config(*several, *sizes[:2], "teacher.third.stage=sparsify"))
    assert stage_keys(heavier)["finetune"] != stage_keys(job)["finetune"]
    assert stage_keys(heavier)["prune"] == stage_keys(job)["prune"]
    expecting = build(
        compose_config(*several, *sizes, "teacher.third.stage=sparsify", "teacher.first.expect_top1=90")
    )
    assert stage_keys(expecting) == stage_keys(job)  # which changes no result


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("teacher.first.weight=0", "teacher.first.weight=0: must be > 0"),
        ("teacher.second.expect_top1=101", "teacher.second.expect_top1=101: must be in [0, 100]"),
        ("+teacher.first.x=1", "unknown key teacher.first.x; "),
        ("+teacher@teacher.a-b=self", "teacher.a-b: a name of a teacher has letters, digits and _ only"),
        ("teacher@teacher.second=run", "teacher.second.run: must be given"),
        ("teacher.second.stage=sparsify", "teacher.second.stage=sparsify: method=camc does not train"),
        ("teacher.first.model.width=0", "teacher.first.model.width=0: must be >= 1"),
        (
            "teacher.first.normalisation={mean:[0.1],std:[0.2]}",
            "teacher.first.normalisation: mean=[0.1] std=[0.2], but it is trained here",
        ),
        ("teacher.first.normalisation={mean:[0.1]}", "teacher.first.normalisation.std: must be given"),
    ],
)
def test_what_is_wrong_of_one_of_several_is_told_by_its_key(more: str, told: str) -> None:
    lines = problems("teacher=several", more)
    assert any(line.startswith(told) for line in lines), lines


# -- its own normalisation

OURS, THEIRS = Normalisation(mean=[0.3053], std=[0.376]), Normalisation(mean=[0.5], std=[0.2])


@dataclass(frozen=True)
class Seeing:
    """A teacher whose logits are the pixels that it is shown."""

    normalisation: Normalisation | None = None
    to_train: None = None
    of_stage: None = None

    def check(self, classes: int, shape: tuple[int, int, int]) -> None:
        pass

    def digest(self) -> str:
        return "seeing"

    def load(self, made: Path | None) -> nn.Module:
        return nn.Flatten()


def shown(teacher: Normalisation | None, data: Any) -> Tensor:
    network = WeightedTeacher(Seeing(teacher), TeacherSettings()).load(None, data)
    images, _ = next(iter(data.ordered("held_out", 50, CPU)))
    answer: Tensor = network(images)
    return answer


def digits_by(normalisation: Normalisation) -> MemoryData:
    how = {"mean": normalisation.mean, "std": normalisation.std}
    return digits(image_size=None, pad=1, flip=False, held_out=0.2, split_seed=0, **how)


def test_a_teacher_is_shown_images_normalised_as_it_was_trained() -> None:
    own = digits_by(THEIRS)
    wanted = next(iter(own.ordered("held_out", 50, CPU)))[0].flatten(1)
    data = digits_by(OURS)
    assert not torch.allclose(shown(None, data), wanted, atol=0.1)
    assert torch.allclose(shown(THEIRS, data), wanted, atol=1e-6)
    assert torch.equal(shown(OURS, data), shown(None, data))  # to the bit: nothing is converted
    assert torch.equal(shown(THEIRS, own), wanted)


def test_images_that_do_not_say_how_they_are_normalised_cannot_be_converted(
    digit_data: MemoryData,
) -> None:
    mute = Guarded(digit_data, locked=False)  # has no `normalisation`
    WeightedTeacher(Seeing(None), TeacherSettings()).check(mute)
    with pytest.raises(InputError, match=r"^normalisation: the teacher was trained on images with mean=\[0.5\]"):
        WeightedTeacher(Seeing(THEIRS), TeacherSettings()).check(mute)


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The folder of a run whose file does not say how its images were normalised."""
    save_network(tmp_path / MODEL, build_net(4, 0), SPEC, Plan())
    return tmp_path


def test_a_run_knows_the_normalisation_of_its_images(older: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        old = RunTeacher(str(older))
        assert old.normalisation is None
        old.load(None)
    assert "does not say how its images were normalised, as it is of an older version" in caplog.text
    given = RunTeacher(str(older), THEIRS)
    given.check(10, (1, 8, 8))
    assert given.normalisation == THEIRS
    with pytest.raises(InputError, match=r"^normalisation.mean=\[0.5, 0.5\]: must have 1 value"):
        RunTeacher(str(older), Normalisation(mean=[0.5, 0.5], std=[1.0, 1.0])).check(10, (1, 8, 8))
    save_network(older / MODEL, build_net(4, 0), SPEC, Plan(), THEIRS)
    assert RunTeacher(str(older)).normalisation == RunTeacher(str(older), THEIRS).normalisation == THEIRS
    with pytest.raises(
        InputError, match=r"normalisation: mean=\[0.3053\] std=\[0.376\], but .* says .* mean=\[0.5\]"
    ):
        RunTeacher(str(older), OURS)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ([0.5], "must be a mean and an std"),
        ({"mean": [0.5]}, "normalisation.std: must be given"),
        ({"mean": [0.5], "std": [0.2], "_target_": "os.system"}, "unknown key normalisation._target_"),
        ({"mean": [0.5], "std": ["x"]}, r"normalisation.std\[0\]=x: must be a number"),
        ({"mean": [0.5], "std": [0.0]}, "every value must be > 0"),
        ({"mean": [0.5] * 3, "std": [0.2] * 3}, "must have 1 value"),
    ],
)
def test_what_a_file_says_of_it_is_checked(written: Any, told: str, tmp_path: Path) -> None:
    header = {"model": SPEC.to_json(), "plan": {}, "normalisation": written}
    write_weights(tmp_path / MODEL, {}, header)
    with pytest.raises(InputError, match=told):
        saved_normalisation(read_header(tmp_path / MODEL))
    with pytest.raises(InputError, match=rf"^run={tmp_path}: .*{told}"):
        RunTeacher(str(tmp_path))


def test_a_normalisation_is_given_for_a_checkpoint_alone() -> None:
    with pytest.raises(InputError, match=r"^normalisation: .* but it is trained here"):
        ZooTeacher(SPEC, THEIRS)
    ZooTeacher(replace(SPEC, checkpoint="some.pth"), THEIRS)
    with pytest.raises(InputError, match=r"^normalisation.std=\[0.0\]"):
        ZooTeacher(replace(SPEC, checkpoint="some.pth"), Normalisation(mean=[0.5], std=[0.0]))


# -- what is expected of it


def guarded(job: Job) -> tuple[Job, Guarded]:
    data = Guarded(job.data, locked=False)
    data.normalisation = job.data.normalisation  # type: ignore[attr-defined]
    return replace(job, data=data), data


def expecting(folder: Path, *more: str) -> Job:
    of_run = ("teacher=run", f"teacher.run={folder}", "distill=kd")
    return build(compose_config(*SMALL, "method=filter_magnitude", *of_run, *more))


def test_a_teacher_must_be_worth_what_is_expected(older: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By the test images, once for all jobs; what the check says is all that it does."""
    store = Store(older / "cache")
    job, data = guarded(expecting(older, "teacher.expect_top1=100"))
    with pytest.raises(InputError) as told:
        check_expected(job, "teacher", None, store)
    (line,) = told.value.problems
    top1 = float(line.split(" is ")[1].split(" %")[0])
    assert line.startswith("teacher.expect_top1=100: the teacher's top-1 on the test images is ")
    assert "off by more than teacher.top1_tol=0.3 points" in line
    assert data.reads == {"test": 1}
    assert data.images == {"test": 450}
    for expected, tolerance in ((top1 + 0.1, 0.3), (top1, 0.005), (0, 100)):
        found, again = guarded(expecting(older, f"teacher.expect_top1={expected}", f"teacher.top1_tol={tolerance}"))
        check_expected(found, "teacher", None, store)
        assert not again.reads  # it is kept
    check_expected(expecting(older), "teacher", None, store)


def test_a_run_stops_before_it_trains_where_its_teacher_is_another(older: Path, tmp_path: Path) -> None:
    config = compose_config(
        *SMALL, "method=filter_magnitude", "teacher=run", f"teacher.run={older}", "distill=kd", "plots=false",
        "teacher.expect_top1=99.9", "tensorboard=false",
    )  # fmt: skip
    folder, crew = tmp_path / "out", Crew(1, CPU, 1, lambda: None)
    job, data = guarded(build(copy.deepcopy(config)))
    with pytest.raises(InputError, match="^teacher.expect_top1=99.9: "):
        run(
            job, config, config_hash(config), folder, Store(folder / "cache"), crew,
            launch="1", tensorboard=False, plots=False,
        )  # fmt: skip
    assert data.reads == {"test": 1}
    assert not list((folder / "cache").glob("pretrain*"))


# -- in methods that search

TINY = (
    *SMALL, "model.width=8", "preserve_ratio=0.6", "experiment=quick", "plots=false", "tensorboard=false",
    "dataset.held_out=0.4", "hydra.run.dir=out", "distill=kd", "eval.latency_seconds=0.01",
)  # fmt: skip
OTHER = ("teacher=zoo", "model@teacher.model=resnet20", "teacher.model.depth=8", "teacher.model.width=4")
SEARCHING = {
    "supernet": ("method.training.epochs=1", "method.rule=sandwich"),
    "metaprune": ("method.training.epochs=1",),
    "amc": ("method.search.episodes=3", "method.projected.draws=2"),
    "camc": ("method.targets=[0.6,0.8]", "method.search.episodes=4", "method.projected.draws=2"),
    "sample": (),
    "sensitivity": (),
}


@pytest.mark.parametrize(
    "method", ["supernet", *(pytest.param(name, marks=pytest.mark.slow) for name in list(SEARCHING)[1:])]
)
def test_a_teacher_joins_what_a_search_trains(method: str, command: Command, tmp_path: Path) -> None:
    """The pruned network, and a supernet; no search by itself. All files say how the images were normalised."""
    trains = method in ("supernet", "metaprune")
    stages = "[sparsify,finetune]" if trains else "[finetune]"
    done = command(f"method={method}", *TINY, *OTHER, *SEARCHING[method], f"distill.stages={stages}")
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "out")
    taught = {row["stage"] for row in rows if "teacher_agreement" in row and row["loss_kd"] > 0}
    assert taught == ({"sparsify", "finetune"} if trains else {"finetune"})
    files = [tmp_path / "out" / MODEL, *(tmp_path / "outputs" / "cache").glob(f"*/{MODEL}")]
    assert len(files) >= 4
    assert all(saved_normalisation(read_header(file)) == OURS for file in files)


@pytest.mark.parametrize("method", ["amc", "camc", "sample", "sensitivity"])
def test_no_teacher_joins_a_search_that_trains_no_weights(method: str) -> None:
    told = problems("teacher=self", f"method={method}", "distill.stages=[sparsify]")
    assert f"distill.stages=[sparsify]: method={method} trains no weights in sparsify" in told[0]


def test_maps_of_a_supernet_are_no_maps_to_compare() -> None:
    given = ("method=supernet", "model.width=8", "preserve_ratio=0.6", "teacher=zoo", "distill=[kd,at]")
    (told,) = problems(*given, "distill.stages=[sparsify,finetune]")
    assert told.startswith(
        "distill=kd+at: in sparsify method=supernet trains a network of its own, not the one whose"
    )
    assert problems(*given, "distill.stages=[finetune]") == []
