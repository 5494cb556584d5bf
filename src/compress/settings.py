"""What a user can set, with its limits. Values live in conf/; this file only says what they may be.

Every callable that a config file names (`_target_`) states its settings the same way, in its signature:
`def mobilenetv1(*, width: Annotated[float, Bound(gt=0)], ...)`. `compress.config` checks both. No torch here:
a wrong key must be told at once.
"""

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

BAD_INPUT, INTERRUPTED, TERMINATED = 2, 130, 143  # exit codes
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG)


class InputError(ValueError):
    """Something the user wrote or named is wrong. One line per mistake, each with value, rule and choices."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def is_users(error: BaseException) -> bool:
    """Whether it is the user who can do something about it, so that one line tells all; else it is a bug of ours."""
    return isinstance(error, InputError) or (isinstance(error, OSError) and error.errno in DISK_ERRORS)


def nearest(word: str, words: Iterable[str]) -> str:
    """ "; did you mean x?", or the words there are."""
    import difflib  # only when something is wrong

    words = sorted(words)
    near = difflib.get_close_matches(word, words, 1, 0.6)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(words)}"


def few(names: Iterable[object], most: int = 3) -> str:
    """The first of some names, and how many there are besides."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True)
class Bound:
    """Limits of a number; reads as people write them: `Bound(gt=0, le=1)` is "in (0, 1]".

    `most` is far above what anybody means (a run that never ends, a network that fits no memory), and is only told of
    what exceeds it.
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    most: int | None = None

    def allows(self, value: float) -> bool:
        return (self.most is None or value <= self.most) and self._within(value)

    def rule(self, value: float) -> str:
        """What a value that is not allowed must be."""
        return f"must be <= {self.most:,}" if self._within(value) else f"must be {self}"

    def _within(self, value: float) -> bool:
        return (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )

    def __str__(self) -> str:
        low = self.gt if self.gt is not None else self.ge
        high = self.lt if self.lt is not None else self.le
        if low is not None and high is not None:
            return f"in {'(' if self.gt is not None else '['}{low:g}, {high:g}{')' if self.lt is not None else ']'}"
        if low is not None:
            return f"{'>' if self.gt is not None else '>='} {low:g}"
        return f"{'<' if self.lt is not None else '<='} {high:g}"


# Upper bounds are far above what anybody means: what lies beyond would never end, or not fit what it is stored in.
Count = Annotated[int, Bound(ge=1, most=10**9)]
Natural = Annotated[int, Bound(ge=0, most=10**9)]
Seed = Annotated[int, Bound(ge=0, most=2**63 - 1)]
Epochs = Annotated[int, Bound(ge=0, most=100_000)]
Positive = Annotated[float, Bound(gt=0)]
NonNegative = Annotated[float, Bound(ge=0)]
Threads = Annotated[int, Bound(ge=1, le=1024)]
Share = Annotated[float, Bound(gt=0, le=1)]
Fraction = Annotated[float, Bound(ge=0, lt=1)]

# Of networks. Far above all that is published: what lies beyond is a slip, or a file that wants to fill the memory.
Width = Annotated[int, Bound(ge=1, most=65_536)]
Classes = Annotated[int, Bound(ge=1, most=50_000)]
Side = Annotated[int, Bound(ge=1, most=16_384)]  # of an image, and its channels
MOST_DEPTH = 2_000

StageName = Literal["pretrain", "sparsify", "prune", "finetune", "eval"]
ControlKind = Literal["random", "uniform"]
STAGE_ORDER: tuple[StageName, ...] = ("pretrain", "sparsify", "prune", "finetune", "eval")
# The network that each stage leaves, as tables call it.
NETWORK_NAMES = {"pretrain": "dense", "sparsify": "sparsified", "prune": "pruned", "finetune": "finetuned"}
FROM_SCRATCH = "from scratch"  # instead of finetuned: finetune.init=scratch


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a stage trains. Lengths are in epochs, `lr` is the peak rate."""

    epochs: Epochs
    batch_size: Annotated[int, Bound(ge=2, most=10**6)]  # batch norm cannot train on one image
    lr: Positive
    momentum: Fraction
    nesterov: bool
    weight_decay: NonNegative
    schedule: Literal["cosine", "step", "constant"]
    hold_epochs: Natural  # before `schedule` begins, warm-up among them
    step_epochs: Count  # of schedule=step: epochs between two drops
    step_factor: Annotated[float, Bound(gt=0, lt=1)]  # of schedule=step: what a drop multiplies the rate by
    warmup_epochs: NonNegative  # linear from 0
    label_smoothing: Fraction
    clip_norm: Positive | None  # largest gradient norm
    early_stop_epochs: Count | None  # stop after so many epochs without a better held-out top-1
    amp: Literal["off", "bf16"]
    channels_last: Literal["auto", "on", "off"]  # auto: where it is safe (compress.layout)


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(Recipe):
    """How the pruned network recovers."""

    init: Literal["finetune", "scratch"]
    scratch_budget: Literal["E", "B"]


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """How a finished model is measured."""

    batch_size: Count
    latency_seconds: Annotated[float, Bound(gt=0, most=3600)]  # measuring time per model
    latency_threads: Threads
    onnx: bool


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The keys at the root of the config that are not groups."""

    seed: Seed
    device: str
    devices: Annotated[int, Bound(ge=1, most=4096)]
    threads: Threads | None
    outputs: str
    stages: list[StageName]
    force: list[StageName]
    control: ControlKind | list[ControlKind] | None
    control_draws: Annotated[int, Bound(ge=1, most=1000)]
    quick: bool
    tensorboard: bool
    plots: bool
    preserve_ratio: Share | None  # share of MACs kept
    percent: Fraction | None  # share of channels (or weights) removed
    flops_limit: Positive | None  # MMACs
    pretrain: Recipe
    finetune: FinetuneRecipe
    eval: EvalSettings


# Root keys that change where or how a run happens, not what comes out of it.
OUTSIDE_RESULTS = ("hydra", "device", "threads", "outputs", "force", "tensorboard", "plots")

BudgetKind = Literal["preserve_ratio", "percent", "flops_limit"]
BUDGETS: tuple[BudgetKind, ...] = ("preserve_ratio", "percent", "flops_limit")


@dataclass(frozen=True)
class Budget:
    """How small the network has to become: one of the three root keys and its value."""

    kind: BudgetKind
    value: float
    is_default: bool = False  # the method's own, none being asked for

    def to_json(self) -> dict[str, str | float]:
        return {"kind": self.kind, "value": self.value}

    def __str__(self) -> str:
        unit = " MMACs" if self.kind == "flops_limit" else ""
        short = f"{self.value:g}"
        return f"{self.kind}={short if float(short) == self.value else self.value}{unit}"
