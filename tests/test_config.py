"""Every mistake of a command line is one line that names the key, the value and the rule."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from conftest import compose_config
from PIL import Image

from compress.config.built_jobs import problems_of
from compress.config.diagnose import diagnose
from compress.config.resolvers import slug
from compress.config.rules import check
from compress.config.sweep import grid_jobs
from compress.io.paths import CONF
from compress.prune.method import Traits
from compress.schema.settings import Recipe


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_every_choice_of_every_group_composes_and_passes_its_own_rules() -> None:
    seen = 0
    for group in ("dataset", "model", "method", "reward", "tracker"):
        for choice in choices(group):
            more = {
                "imagefolder": ["dataset.root=x"],
                "custom": [
                    "model._target_=compress.models.mobilenetv1.mobilenetv1",
                    "+model.width=1",
                    "+model.stem_stride=2",
                ],
            }.get(choice, [])
            assert check(compose_config(f"{group}={choice}", *more)) == []
            seen += 1
    for teacher in choices("teacher"):
        more = ["teacher.run=x"] if teacher == "run" else []
        assert check(compose_config(f"teacher={teacher}", "distill=kd", *more)) == []
        seen += 1
    for distill in choices("distill"):
        assert check(compose_config("teacher=self", f"distill={distill}")) == []
        seen += 1
    assert seen >= 18


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["preserve_ratio=1.7"], "preserve_ratio=1.7: must be in (0, 1]"),
        (["preserve_ratio=0"], "preserve_ratio=0: must be in (0, 1]"),
        (["preserve_ratio=abc"], "preserve_ratio=abc: must be a number"),
        (["percent=1"], "percent=1: must be in [0, 1)"),
        (["percent=30"], "percent=30: must be in [0, 1); 30 % is percent=0.3"),
        (["flops_limit=-3"], "flops_limit=-3: must be > 0"),
        (["seed=-1"], "seed=-1: must be >= 0"),
        (["pretrain.lr=inf"], "pretrain.lr=inf: must be a number"),
        (["pretrain.batch_size=1"], "pretrain.batch_size=1: must be >= 2"),
        (["eval.latency_threads=100000"], "eval.latency_threads=100000: must be in [1, 1024]"),
        (["dataset.pad=1000000"], "dataset.pad=1000000: must be in [0, 64]"),
        (["outputs=''"], "outputs=: must name a folder"),
        (["seed=1.5"], "seed=1.5: must be a whole number"),
        (["pretrain.epochs=2.5"], "pretrain.epochs=2.5: must be a whole number"),
        (["pretrain.nesterov=maybe"], "pretrain.nesterov=maybe: must be true or false"),
        (["finetune.schedule=cos"], "finetune.schedule=cos: must be one of cosine, linear, step, constant"),
        (["method.targets=0.5"], "method.targets=0.5: must be a list, such as [a,b]"),
        (["method.targets=[0.5,2]"], "method.targets[1]=2: must be in (0, 1]"),
        (["method.search.episodes=0"], "method.search.episodes=0: must be >= 1"),
        (["method.ddpg.tau=2"], "method.ddpg.tau=2: must be in (0, 1]"),
        (["method.compat=upstream"], "method.compat=upstream: must be one of clean, seed"),
        (["method=amc", "method.compat=seed"], "method.compat=seed: must be one of clean, upstream"),
        (["method.compat=null"], "method.compat=None: must be one of clean, seed"),
        (["model.checkpoint=3"], "model.checkpoint=3: must be text"),
        (["dataset.pad=-1"], "dataset.pad=-1: must be in [0, 64]"),
        (["dataset=imagefolder"], "dataset.root: must be given"),
        (["+dataset.sizes=3"], "unknown key dataset.sizes; there are "),
        (["stages=[eval,pretrain]"], "stages=[eval,pretrain]: must be some of pretrain, "),
        (["stages=3"], "stages=3: must be a list"),
        (["stages=[[prune]]"], "stages[0]=['prune']: must be one of pretrain, "),
        (["stages=[]"], "stages=[]: must be some of pretrain, "),
        (["stages=[pretrain,cook]"], "stages[1]=cook: must be one of pretrain, sparsify, "),
        (["stages=[pretrain]", "force=[eval]"], "force=[eval]: eval is not among the stages of this run"),
        (["distill=kd"], "distill is set without teacher=zoo, teacher=run or teacher=self"),
        (["teacher=zoo"], "teacher is set without distill=kd"),
        (["reward.references=x"], "reward.references=x: must be one of measured, published"),
        (["method=sample", "search.draws=0"], "search.draws=0: must be >= 1"),
        (["method=sample", "scorer.images=0"], "scorer.images=0: must be >= 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(overrides: list[str], expected: str) -> None:
    problems = check(compose_config(*overrides))
    assert len(problems) == 1
    assert problems[0].startswith(expected)


def test_all_mistakes_are_told_at_once() -> None:
    wrong = ["preserve_ratio=1.7", "pretrain.lr=-1", "dataset=cifar10", "dataset.root=/nope", "device=tpu"]
    problems = problems_of(compose_config(*wrong))
    assert len(problems) == 4
    for word in ("preserve_ratio=1.7", "pretrain.lr=-1", "dataset.root=/nope", "device=tpu"):
        assert any(problem.startswith(word) for problem in problems)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["stages=[pretrain,prune]"], "prune needs sparsify before it"),
        (["stages=[eval]"], "eval needs pretrain before it"),
        (["model.depth=21"], "model.depth=21: must be 6n + 2"),
        (["method.projected.changed=[]"], "method.projected.changed=[]: must name at least one"),
        (["model.checkpoint=/nope.th"], "model.checkpoint=/nope.th: no such file"),
        (["model=torchvision", "model.arch=resnet1"], "model.arch=resnet1: not a classifier of torchvision"),
        (["teacher=run", "teacher.run=/nope", "distill=kd"], "teacher.run=/nope: holds no model.safetensors"),
        (
            ["teacher=zoo", "distill=kd", "distill.stages=[sparsify]"],
            "distill.stages=[sparsify]: method=camc trains no weights in sparsify",
        ),
        (["method.targets=[0.5,0.3]"], "method.targets=[0.5, 0.3]: must be ascending"),
        (["device=cuda:99"], "device=cuda:99: this machine has"),
        (["preserve_ratio=0.01"], "preserve_ratio=0.01: out of reach; with method.lbound"),
        (
            ["preserve_ratio=0.5", "params_limit=0.001"],
            "params_limit=0.001 M parameters: out of reach; the",
        ),
        (
            ["method=magnitude", "percent=0.5", "flops_limit=1"],
            "flops_limit=1: method=magnitude masks single",
        ),
        (["dataset.mean=[0.1,0.2]"], "dataset.mean=[0.1, 0.2]: must have 1 value(s), one per channel"),
        (["model=resnet20_cs", "model.cfg=[9]"], "model.cfg=[9]: must have 19 widths, has 1"),
        (
            ["teacher=zoo", "distill=kd", "model@teacher.model=resnet20", "teacher.model.depth=21"],
            "teacher.model.depth=21: must be 6n + 2",
        ),
        (
            ["method=sample", "search=evolution", "search.parents=20"],
            "search.parents=20: must be <= search.select=15, who survive",
        ),
        (
            ["preserve_ratio=0.4", "reward.references=published"],
            "preserve_ratio=0.4: reward.references=published: knows the targets 0.3, 0.5, 0.7, not 0.4; use "
            "reward.references=measured, or give it one: '+reward.published={0.4: 0.8}'",
        ),
    ],
)
def test_parts_that_cannot_be_made_are_told_before_the_run(overrides: list[str], expected: str) -> None:
    problems = problems_of(compose_config(*overrides))
    assert len(problems) == 1
    assert expected in problems[0]


def test_a_distillation_that_two_classes_leave_nothing_of_is_refused(tmp_path: Path) -> None:
    for number, name in enumerate(["train/cat", "train/dog", "val/cat", "val/dog"]):
        (tmp_path / name).mkdir(parents=True)
        for image in range(3):
            Image.new("RGB", (8, 8), (90 * image, 60 * number, 0)).save(tmp_path / name / f"{image}.png")
    images = ("dataset=imagefolder", f"dataset.root={tmp_path}", "dataset.image_size=32", "dataset.held_out=0.4")
    two = ("model=resnet20", *images, "teacher=self")
    (told,) = problems_of(compose_config(*two, "distill=[kd,dkd]"))
    assert told.startswith("distill.terms.dkd: needs 3 classes, not 2: with one class beside the label's")
    assert problems_of(compose_config(*two, "distill=[kd,dist]")) == []


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["preserv_ratio=0.5"], ["unknown key preserv_ratio; did you mean preserve_ratio?"]),
        (["pretrain.epoch=3"], ["unknown key pretrain.epoch; did you mean pretrain.epochs?"]),
        (["method.lboundd=.1"], ["unknown key method.lboundd; did you mean method.lbound?"]),
        (["zzz=1"], ["unknown key zzz; there are "]),
        (["dataset=cifar11"], ["dataset=cifar11: unknown choice; did you mean cifar1", "choices: cifar10, "]),
        (["method=amcc"], ["method=amcc: unknown choice; ", "camc"]),
        (
            ["preserv_ratio=0.5", "dataset=cifar11", "seed=-1", "model=resnet21"],
            ["unknown key preserv_ratio", "dataset=cifar11", "seed=-1: must be >= 0", "model=resnet21: unknown"],
        ),
        (["-m", "model=resnet20,resnet21"], ["model=resnet21: unknown choice"]),
        (["experiment=qiuck"], ["experiment=qiuck: unknown choice; did you mean quick?"]),
        (["experiment=camc_80"], ["experiment=camc_80: unknown choice; did you mean notes/camc_800?"]),
        (["method=null"], ["method=null: unknown choice; choices: amc, camc"]),
        (["~method"], ["~method: a run needs its groups; choices of method: amc, camc"]),
        (["=3"], ["=3: cannot be read; write key=value"]),
        (["preserve_ratio=0.3,0.5", "seed=-1"], ["several values are a sweep; give -m", "seed=-1: must be >= 0"]),
        (["+seed=3", "seed=-1", "preserv=1"], ["+seed=3: ", "seed=-1: must be >= 0", "unknown key preserv"]),
        (
            ["teacher=zoo", "distill=kd", "model@teacher.model=resnet21"],
            ["model@teacher.model=resnet21: unknown choice; did you mean resnet"],
        ),
    ],
)
def test_what_hydra_refuses_is_explained(argv: list[str], expected: list[str]) -> None:
    problems = diagnose(argv, problems_of)
    for words in expected:
        assert any(words in problem for problem in problems), problems
    assert len(problems) <= len(expected)


@pytest.mark.parametrize("stages", ["3", "[[prune]]", "prune", "[]"])
def test_stages_of_any_shape_are_told_and_never_a_traceback(stages: str) -> None:
    assert any(problem.startswith("stages") for problem in problems_of(compose_config(f"stages={stages}")))


def test_parts_are_checked_without_each_other() -> None:
    wrong = ["dataset=cifar10", "dataset.root=/nope", "model.depth=21", "model.checkpoint=/nope.th"]
    told = problems_of(compose_config(*wrong, "teacher=run", "teacher.run=/nope", "distill=kd"))
    for words in ("dataset.root=/nope", "model.depth=21", "model.checkpoint=/nope.th", "teacher.run=/nope"):
        assert any(problem.startswith(words) for problem in told), told
    assert len(told) == 4
    bounds = problems_of(compose_config("method.lbound=0.9", "method.rbound=0.1", "method.targets=[0.5,0.2]"))
    assert len(bounds) == 2


def test_what_is_wrong_with_a_network_as_a_whole_begins_with_its_key() -> None:
    too_deep = ["model=torchvision", "model.arch=vgg11"]
    (told,) = problems_of(compose_config(*too_deep, "method=filter_magnitude"))
    assert told.startswith("model: the network cannot take 1x8x8 images (")
    assert told.endswith("; try another dataset.image_size, such as 32 or 224")
    teacher = ["teacher=zoo", "distill=kd", "model@teacher.model=torchvision", "teacher.model.arch=vgg11"]
    (told,) = problems_of(compose_config(*teacher))
    assert told.startswith("teacher.model: the network cannot take 1x8x8 images (")


def test_a_run_that_prunes_nothing_is_not_held_to_a_budget() -> None:
    narrow = ["model.depth=8", "model.width=4"]
    assert any("out of reach" in problem for problem in problems_of(compose_config(*narrow)))
    assert problems_of(compose_config(*narrow, "stages=[pretrain,eval]")) == []


def test_a_method_says_which_budgets_it_takes(tmp_path: Path) -> None:
    config: dict[str, Any] = compose_config("percent=0.3")
    config["method"] = {"_target_": f"{__name__}.WeightsOnly", "name": "weights", "default_budget": None}
    assert "percent=0.3: method=weights does not take it; it takes preserve_ratio" in problems_of(config)


class WeightsOnly:
    traits = Traits(budgets=("preserve_ratio",))


def test_folder_names_survive_any_override() -> None:
    for text in ("a=/x/y", "a='q r'", "b=" + "z" * 400, "", "é=ü", "a=[1,2]"):
        name = slug(text)
        assert 0 < len(name.encode()) <= 100
        assert "/" not in name
        assert name == slug(text)
    assert slug("a=/x/y") != slug("a=x-y")
    assert slug("lr=0.1,seed=1") == "lr=0.1,seed=1"


def test_sweeps_open_into_jobs() -> None:
    assert grid_jobs(["seed=0,1", "model=resnet20"]) == [["seed=0", "model=resnet20"], ["seed=1", "model=resnet20"]]


ORIGINAL = {
    "round_to": 8, "rounding": "up", "budget_mode": "upper", "state": "original", "acc_metric": "top5",
    "calibration.augmented": True, "calibration.repeats": True, "calibration.doubles_bias": True,
    "search.warmup": 100, "search.warmup_inclusive": True, "search.replay_episodes": 100,
    "search.replay_skips_first": True, "search.uniform_first": False, "lbound": 0.2, "rbound": 1.0,
    "ddpg.hidden": 300, "ddpg.actor_lr": 1e-4, "ddpg.critic_lr": 1e-3, "ddpg.discount": 1.0, "ddpg.tau": 0.01,
    "ddpg.batch_size": 64, "ddpg.baseline_rate": 0.5, "calibration.points": 10,
}  # fmt: skip
UPSTREAM = {
    "search.episodes": 800, "search.sigma": 0.5, "search.sigma_decay": 0.95, "target_encoding": "none",
    "calibration.images": 3000, "calibration.batch_size": 50, "candidates": ["same_target"], "targets": None,
}  # fmt: skip
SEED = {
    "search.episodes": 400, "search.sigma": 0.001, "search.sigma_decay": 1.0, "target_encoding": "onehot",
    "calibration.images": 3840, "calibration.batch_size": 64, "candidates": ["same_target", "policy"],
    "targets": [0.3, 0.5, 0.7],
    "search.sampling": "cycle", "search.wall_first_episode": False, "search.baseline_per_target": False,
    "search.replay_per_target": False, "reward.references": "published", "reward.name": "acc_normalize",
}  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method=amc", "method.compat=upstream"], ORIGINAL | UPSTREAM | {"reward.name": "acc"}),
        (["method=camc", "method.compat=seed"], ORIGINAL | SEED),
        (["method=amc", "method.compat=upstream", "method.state=clean"], ORIGINAL | UPSTREAM | {"state": "clean"}),
        (["method=amc"], {"state": "clean", "round_to": 4, "budget_mode": "exact", "target_encoding": "none"}),
        (["method=camc"], {"state": "clean", "target_encoding": "scalar", "reward.references": "measured"}),
    ],
)
def test_compat_sets_every_rule_and_each_can_be_set_by_itself(overrides: list[str], expected: dict[str, Any]) -> None:
    config = compose_config(*overrides)
    for path, value in expected.items():
        found: Any = config["method"]
        for key in path.split("."):
            found = found[key]
        assert found == value, path
    assert problems_of(config) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method.agent=/nope", "method.agent=/nope: holds no whole agent.pt; give the folder of a finished run"),
        ("method.strategy=/nope", "method.strategy=/nope: cannot be read"),
        (
            "method.strategy=[1,2]",
            "method.strategy: has 2 entries; must have 22, one for every layer's inputs, or 12,",
        ),
        ("method.targets=null", "method.target_encoding=scalar: without method.targets there is nothing to tell"),
        ("method.targets=[0.01]", "method.targets=0.01: out of reach; with method.lbound and method.round_to"),
        ("preserve_ratio=0.02", "preserve_ratio=0.02: out of reach; with method.lbound and method.round_to"),
    ],
)
def test_what_a_search_cannot_do_is_told_before_it_starts(override: str, expected: str) -> None:
    problems = problems_of(compose_config(override))
    assert len(problems) == 1, problems
    assert problems[0].startswith(expected), problems


@pytest.mark.parametrize(
    ("method", "name", "like"),
    [
        ("slimming", "training", "pretrain"),
        ("group_sparsity", "training", "pretrain"),
        ("magnitude", "retraining", "finetune"),
    ],
)
def test_a_recipe_of_a_method_follows_another_but_for_what_is_said(method: str, name: str, like: str) -> None:
    """All of its keys, whatever they are: they are read off the list of settings."""
    keys = [field.name for field in fields(Recipe)]
    plain = compose_config(f"method={method}")
    assert sorted(plain["method"][name]) == sorted(["_target_", *keys])
    assert len(keys) >= 16
    changed = compose_config(
        f"method={method}", f"{like}.momentum=0.5", f"method.{name}.epochs=3", f"{like}.amp=bf16"
    )
    own = {key: value for key, value in changed["method"][name].items() if plain["method"][name][key] != value}
    assert own == {"momentum": 0.5, "epochs": 3, "amp": "bf16"}
    assert changed[like]["epochs"] == plain[like]["epochs"]
    raw = [line for line in (CONF / "method" / f"{method}.yaml").read_text().splitlines() if f"${{{like}." in line]
    assert raw == []
