"""The schema of conf/config.yaml: recipes, budgets, evaluation and the root keys; values and explanations are in
conf/.

The settings of config groups (dataset, model, method, ...) are the parameters of the callables that they name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

from compress.schema.bounds import (
    Bound,
    Count,
    Epochs,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    Seed,
    Share,
    Threads,
)

StageName = Literal["pretrain", "sparsify", "prune", "finetune", "eval"]
# What a run is worth to a sweeper: a figure of its last network, of its held-out images or of a summary's `results`.
Figure = Literal["held_out_top1", "top1", "top5", "macs", "params", "bytes", "latency_ms"]
HELD_OUT: Figure = "held_out_top1"
ControlKind = Literal["random", "uniform"]
STAGE_ORDER: tuple[StageName, ...] = get_args(StageName)
# The network that each stage leaves, as tables call it, in the order of the stages.
NETWORK_NAMES = {"pretrain": "dense", "sparsify": "sparsified", "prune": "pruned", "finetune": "finetuned"}
FROM_SCRATCH = "from scratch"  # instead of "finetuned", with finetune.init=scratch


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a stage trains. Durations are in epochs; `lr` is the peak learning rate."""

    epochs: Epochs
    batch_size: Annotated[int, Bound(ge=2, most=10**6)]  # batch norm cannot train on one image
    lr: Positive
    momentum: Fraction
    nesterov: bool
    weight_decay: NonNegative
    schedule: Literal["cosine", "linear", "step", "constant"]
    hold_epochs: Natural  # at the peak rate before `schedule` begins, warm-up included
    step_epochs: Count  # of schedule=step: epochs between two drops
    step_factor: Annotated[float, Bound(gt=0, lt=1)]  # of schedule=step: factor of the learning rate at a drop
    warmup_epochs: NonNegative  # linear from 0
    label_smoothing: Fraction
    clip_norm: Positive | None  # gradients are clipped to this norm
    early_stop_epochs: Count | None  # stop after this many epochs without a better held-out top-1
    amp: Literal["off", "bf16"]
    channels_last: Literal["auto", "on", "off"]  # auto: where it is safe (compress.train.memory_format)
    graphs: Literal["auto", "on", "off"]  # steps as CUDA graphs; auto: where they can be (compress.train.graphs)
    checkpoint_seconds: NonNegative  # between two savings of the progress; 0: after every epoch


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(Recipe):
    """How the pruned network is fine-tuned, or trained from scratch."""

    init: Literal["finetune", "scratch"]
    scratch_budget: Literal["E", "B"]


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """What a teacher of any kind may be given. The defaults are for kinds whose YAML has none of these."""

    weight: Positive = 1.0  # of all terms on its answers, beside those of other teachers
    expect_top1: Annotated[float, Bound(ge=0, le=100)] | None = None  # in percent, on the test images
    top1_tol: NonNegative = 0.0  # percentage points


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """How a network is evaluated and measured."""

    batch_size: Count
    latency_seconds: Annotated[float, Bound(gt=0, most=3600)]  # spent on measuring, per network
    latency_threads: Threads
    latency_batch: Annotated[int, Bound(ge=1, most=65_536)]  # images per pass
    onnx: bool


Runtime = Literal["torch", "onnxruntime"]


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """What latencies are measured in, and how well they have to be predicted for a budget."""

    runtime: Runtime
    accept: bool  # a prediction worse than 5 % (median) or 10 % (worst)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The keys at the root of the config that are not config groups."""

    seed: Seed
    device: str
    devices: Annotated[int, Bound(ge=1, most=4096)]
    threads: Threads | None
    outputs: str
    stages: list[StageName]
    force: list[StageName]
    control: ControlKind | list[ControlKind] | None
    control_draws: Annotated[int, Bound(ge=1, most=1000)]
    objective: Figure | list[Figure]
    quick: bool
    tensorboard: bool
    plots: bool
    preserve_ratio: Share | None  # kept share of MACs
    percent: Fraction | None  # removed share of channels, or of weights
    flops_limit: Positive | None  # MMACs
    params_limit: Positive | None  # millions of parameters
    latency_limit: Positive | None  # ms
    latency: LatencySettings
    pretrain: Recipe
    finetune: FinetuneRecipe
    eval: EvalSettings


# Root keys that change where or how a run happens, not what comes out of it.
OUTSIDE_RESULTS = (
    "hydra", "device", "threads", "outputs", "force", "objective", "tensorboard", "plots", "tracker",
)  # fmt: skip

# Keys of a recipe that change how a training runs, not what comes out of it, up to float rounding, as the device.
OUTSIDE_RECIPE = ("graphs", "checkpoint_seconds")
RECIPE_KEYS = frozenset(field.name for field in fields(Recipe)) - set(OUTSIDE_RECIPE)


# Settings that older runs lack, with the values that mean the same as their absence: root keys, and those of methods.
ADDED_LATER: dict[str, Any] = {"devices": 1, "search": None, "scorer": None, "criterion": None, "params_limit": None}
ADDED_LATER |= {"latency_limit": None, "latency": {"runtime": "torch", "accept": False}}
ADDED_TO_METHODS = {"criterion": None, "protect": 1.0}
ONE_STEP = ("schedule", "steps", "retraining")  # of methods that rank channels: with one step they mean nothing


def of_results(settings: Any) -> Any:
    """Settings of any depth without the `OUTSIDE_RECIPE` of the recipes in them, a recipe being told by its keys, and
    without what means nothing: `ADDED_TO_METHODS`, `ONE_STEP`. So cached stages from before those keys existed are
    found."""
    if not isinstance(settings, Mapping):
        return settings
    outside = {*OUTSIDE_RECIPE} if settings.keys() >= RECIPE_KEYS else set()
    outside |= {key for key, value in ADDED_TO_METHODS.items() if settings.get(key) == value}
    outside |= {*ONE_STEP} if settings.get("steps") == 1 and "min_channels" in settings else set()
    return {key: of_results(value) for key, value in settings.items() if key not in outside}


BudgetKind = Literal["preserve_ratio", "percent", "flops_limit", "params_limit", "latency_limit"]
BUDGETS: tuple[BudgetKind, ...] = get_args(BudgetKind)
BUDGET_UNITS: Mapping[BudgetKind, str] = {
    "flops_limit": "MMACs", "params_limit": "M parameters", "latency_limit": "ms",
}  # others are shares  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """How small the network has to become: the root key that is the aim, its value in that key's unit, and the other
    keys that are given, which are upper limits."""

    kind: BudgetKind
    value: float
    is_default: bool = False  # of the method, as the user set none
    beside: tuple["Budget", ...] = ()

    @property
    def every(self) -> tuple["Budget", ...]:
        """The aim, then those beside it."""
        return (self, *self.beside)

    @property
    def limits_beside(self) -> dict[BudgetKind, float]:
        return {each.kind: each.value for each in self.beside}

    def of(self, kind: BudgetKind) -> float | None:
        """The value of a kind, whether it is the aim or beside it; None if it is not given."""
        return next((each.value for each in self.every if each.kind == kind), None)

    def to_json(self) -> dict[str, Any]:
        others = {"beside": self.limits_beside} if self.beside else {}
        return {"kind": self.kind, "value": self.value, **others}

    def __str__(self) -> str:
        unit = f" {BUDGET_UNITS[self.kind]}" if self.kind in BUDGET_UNITS else ""
        short = f"{self.value:g}"
        told = f"{self.kind}={short if float(short) == self.value else self.value}{unit}"
        return " beside ".join([told, " and ".join(map(str, self.beside))]) if self.beside else told


def budget_of(given: Mapping[str, float], takes: Sequence[BudgetKind] = BUDGETS, is_default: bool = False) -> Budget:
    """The budget of the values that are given, by kind: the aim is the first of `BUDGETS` that the method takes, or
    the first at all where it takes none of them; the others stand beside it."""
    kinds = [kind for kind in BUDGETS if kind in given]
    aim = next((kind for kind in kinds if kind in takes), kinds[0])
    beside = tuple(Budget(kind, float(given[kind])) for kind in kinds if kind != aim)
    return Budget(aim, float(given[aim]), is_default, beside)
