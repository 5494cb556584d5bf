"""When a term of a distillation counts, and how much."""

from dataclasses import dataclass

from compress.errors import OWN
from compress.schema.bounds import Count, Natural, Positive


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """A weight and the epochs in which it counts."""

    weight: Positive
    warmup_epochs: Natural = 0  # the weight grows to its whole: epoch e of n has e / n of it
    stop_epoch: Count | None = None  # the last epoch with this term

    def weight_in(self, epoch: int) -> float:
        """The weight in an epoch, counted from 1; constant within it, as published (DKD, ReviewKD)."""
        if self.stop_epoch is not None and epoch > self.stop_epoch:
            return 0.0
        return self.weight * min(epoch / max(self.warmup_epochs, 1), 1.0)

    def doubts(self, classes: int, epochs: int) -> list[str]:
        """What of these settings is probably not meant, in a training of so many epochs."""
        if self.warmup_epochs <= epochs:
            return []
        return [
            f"{OWN}warmup_epochs={self.warmup_epochs}: this stage trains for {epochs} only, so the term never "
            "has its whole weight"
        ]
