"""Which rows and tables the quality part of benchmarks/gpu.py has, and by which settings of the command."""

from dataclasses import dataclass

TAUGHT = "best with teacher"
PEER = "torch-pruning group norm"


@dataclass(frozen=True)
class Row:
    """Settings, seconds of a search (an estimate), rows that must be there before, what its figures are called."""

    settings: tuple[str, ...]
    search: float = 0.0
    after: tuple[str, ...] = ("base",)
    network: str = "finetuned"
    stage: str = "finetune"
    folder: str = "."  # of the network, below that of the run


MAGNITUDE = "method=filter_magnitude"
ROWS = {
    "base": Row((MAGNITUDE, "stages=[pretrain]"), after=(), network="", stage=""),
    "dense": Row((MAGNITUDE, "preserve_ratio=1.0")),
    "slimming": Row(("method=slimming", "method.coupled=keep", "method.l1_on=unshared")),
    "camc": Row(("method=camc",), 90),
    "amc": Row(("method=amc",), 60),
    "filter_magnitude": Row((MAGNITUDE,)),
    "sample": Row(("method=sample",), 20),
    "sensitivity": Row(("method=sensitivity",), 20),
    "scratch E": Row((MAGNITUDE, "finetune.init=scratch", "finetune.scratch_budget=E"), network="from scratch"),
    PEER: Row((MAGNITUDE,)),
    # Beside the network of filter_magnitude, which would otherwise be trained here first.
    "uniform": Row(
        (MAGNITUDE, "control=uniform"), 0, ("filter_magnitude",), "finetuned, uniform", "finetune uniform",
        "controls/uniform",
    ),
    "random": Row(
        (MAGNITUDE, "control=random", "control_draws=1"), 0, ("filter_magnitude",), "finetuned, random 1",
        "finetune random 1", "controls/random-1",
    ),
}  # fmt: skip
METHODS = ("slimming", "camc", "amc", "filter_magnitude", "sample", "sensitivity")  # the best of them gets a teacher
L1, L1_EPOCHS = 2.5e-3, 5  # what counts is the weight times the steps: so much for so many epochs


def sparse_epochs(epochs: int) -> int:
    """Of slimming's training of scales, before `epochs` of fine-tuning."""
    return max(1, epochs // 4)


def trained_epochs(row: str, epochs: int) -> int:
    """Epochs that a row trains for after the dense network."""
    return epochs + (sparse_epochs(epochs) if row == "slimming" else 0)


@dataclass(frozen=True)
class Table:
    """A network, and how many times fewer MACs its rows have."""

    network: str
    times: float

    @property
    def name(self) -> str:
        return f"{self.network}-{self.times:g}x"


@dataclass(frozen=True)
class Preset:
    """What a data set asks for. Milliseconds of a step are an estimate, for where none is measured."""

    settings: tuple[str, ...]
    tables: tuple[Table, ...]
    steps: int  # of an epoch
    step_ms: float = 15.0
    search_scale: float = 1.0  # of the seconds of searches
    supernet: tuple[str, ...] = ()  # settings of the supernet whose candidates are timed


FULL = tuple(Table(network, times) for network in ("resnet56", "vgg16_bn", "mobilenetv2") for times in (2.1, 4.0))
PRESETS = {
    "cifar10": Preset(
        ("dataset=cifar10",), FULL, steps=352, supernet=("search.population=50", "search.generations=1")
    ),
    "digits": Preset(
        ("dataset=digits", "experiment=quick", "model.depth=8", "model.width=8"), (Table("resnet20", 2.1),), steps=17,
        step_ms=20.0, search_scale=0.1,
    ),
}  # fmt: skip
PUBLIC = "resnet56"  # whose checkpoint may be given
