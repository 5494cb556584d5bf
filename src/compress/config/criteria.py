"""The criteria by name, for use from Python: as `criterion=<name>` composes them, without a run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from compress.config.choices import shipped_choices, shipped_node
from compress.data.base import Batch
from compress.errors import InputError
from compress.prune.criteria.criterion import Criterion
from compress.schema.check import check_node, find_target


def criterion_names() -> list[str]:
    return shipped_choices("criterion")


def criterion_of(name: str, **settings: Any) -> Criterion:
    """The criterion of conf/criterion/<name>.yaml; `settings` replace values of the file.

    Raises:
        InputError: no such criterion, or unknown or invalid settings.
    """
    if name not in criterion_names():
        raise InputError(f"{name}: not a criterion; there are {', '.join(criterion_names())}")
    node = shipped_node("criterion", name)
    problems = check_node("", node | settings)
    if problems:
        raise InputError(*(problem.removeprefix(".") for problem in problems))
    given = {key: value for key, value in (node | settings).items() if key not in ("name", "_target_")}
    made: Criterion = find_target(node["_target_"])(**given)
    return made


@dataclass(frozen=True)
class GivenBatches:
    """The batches that a caller gave: a criterion looks at all of them, each once."""

    batches: Iterable[Batch] | None
    device: torch.device
    seed: int
    asks: str

    def __call__(self, images: int, batch_size: int) -> Iterator[Batch]:
        if self.batches is None:
            raise InputError(f"batches: {self.asks} looks at images; give (images, labels) of the training part")
        count = 0
        for batch in self.batches:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise InputError(f"batches: must be pairs (images, labels); got {type(batch).__name__}")
            images_of_batch, labels = batch
            yield images_of_batch.to(self.device), labels.to(self.device)
            count += 1
        if not count:
            raise InputError("batches: holds none (an iterator that was read before?)")
