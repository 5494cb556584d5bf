"""The one training loop: SGD under a schedule, resumable after any epoch, bit for bit on a CPU.

Everything random in an epoch (order, crops, dropout) comes from (seed, epoch), so that a resumed run needs no
generator state. Several processes take their shares of the same batches (`compress.parallel.batches`): what is
here is written for one, and holds for all.

An epoch's row has `loss`, the mean of what was minimised; of several terms also each, as `loss_<name>`.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from compress.data.base import Data
from compress.errors import OWN, SettingError
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import count_correct
from compress.models.masks import apply_masks
from compress.parallel import batches as shares
from compress.parallel.collectives import ALONE, Team
from compress.schema.settings import Recipe
from compress.train.memory_format import KIND, guarded, training_format, unsafe_layers
from compress.train.objective import Objective, Tapped, Terms, outputs_of, total, with_heads
from compress.train.schedule import learning_rate

log = logging.getLogger(__name__)


def _nothing(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Hooks:
    """What a method does while its network trains. Masks of weights need none: they are always kept."""

    begin_epoch: Callable[[nn.Module, int], None] = _nothing  # epochs count from 1
    begin_step: Callable[[nn.Module, int, int], None] = _nothing  # epoch, step; steps of an epoch count from 0
    on_gradient: Callable[[nn.Module], None] = _nothing  # after the backward pass and clipping, before the step
    row: Callable[[nn.Module], JSON] = lambda _: {}  # what it adds to an epoch's row
    # in percent, larger is better, None: not in this epoch; asked of rank 0 alone, and leaves the network as it is.
    # Without it: the held-out top-1 of the network
    score: Callable[[nn.Module], float | None] | None = None
    keep_best: bool = True  # False: no copy of the best epoch's weights is made, saved or reported


NO_HOOKS = Hooks()


@dataclass(frozen=True, kw_only=True)
class Training:
    """A network, and all that decides how it is trained."""

    model: nn.Module  # trained in place
    data: Data
    recipe: Recipe
    objective: Objective
    work: StageFolder
    stage: str  # its name, in rows and seeds
    seed: int
    device: torch.device
    hooks: Hooks = NO_HOOKS
    team: Team = ALONE


@dataclass
class _Reached:
    """How far a training is, and its best epoch."""

    epoch: int = 0  # the last one that is done
    top1: float | None = None  # held-out; or the method's own score
    best: float = -1.0
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)  # none, if they are not kept

    def report(self, keep_best: bool) -> JSON:
        scored = {} if self.top1 is None else {"held_out_top1": self.top1}
        best = {
            "best_held_out_top1": self.best,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }
        return {"epochs": self.epoch, **scored, **(best if keep_best else {})}


@dataclass(frozen=True)
class _Seen:
    """Of an epoch, as seen while training."""

    loss: float
    top1: float  # in percent
    terms: dict[str, float]

    def row(self) -> JSON:
        terms = {f"loss_{name}": round(value, 6) for name, value in self.terms.items()} if len(self.terms) > 1 else {}
        return {"loss": round(self.loss, 6), **terms, "train_top1": round(self.top1, 4)}


def train(training: Training) -> JSON:
    """Train the network to its last epoch; returns what there is to report.

    The best weights by held-out top-1 come beside the last ones (`best_weights`), never instead of them.

    Raises:
        SettingError: of the recipe: the loss is no longer a number, or the network no longer finite.
    """
    return _Loop(training).run()


class _Loop:
    """A training under way."""

    def __init__(self, training: Training) -> None:
        self.training, model, device = training, training.model, training.device
        model.to(device)
        shares.synchronise(training.team, training.objective.adapters.to(device), device)
        self.layout = _layout(training)
        model.to(memory_format=self.layout)
        self.tapped = Tapped(model, training.objective)
        self.optimizer = _optimizer(self.tapped, training.recipe)
        self.reached = _Reached()
        if training.hooks.keep_best:
            self.reached.best_weights = _copy(model)
        self._resume()
        self.infinite = _not_finite(self.tapped)  # before any step: an attention mask, say
        self.called = shares.averaged(training.team, self.tapped, device)

    def _resume(self) -> None:
        training = self.training
        resumed = training.team.broadcast_object(training.work.resumed)
        if resumed is None:
            return
        training.model.load_state_dict(resumed["model"])
        training.objective.adapters.load_state_dict(resumed.get("adapters", {}))
        self.optimizer.load_state_dict(resumed["optimizer"])
        self.reached = _Reached(**{name: resumed[name] for name in vars(self.reached)})
        log.info("%s: continues after epoch %d", training.stage, self.reached.epoch)

    def _state(self) -> JSON:
        return {
            "model": self.training.model.state_dict(),
            "adapters": self.training.objective.adapters.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **vars(self.reached),
        }

    def run(self) -> JSON:
        training, reached = self.training, self.reached
        hidden = None if training.team.is_main else True  # None: unless it is a terminal
        epochs = training.recipe.epochs
        with tqdm(
            total=epochs, initial=reached.epoch, desc=training.stage, unit="epoch", disable=hidden, leave=False
        ) as bar:
            while reached.epoch < epochs and not self._stops_early():
                seen = self._epoch(reached.epoch + 1)
                bar.update()
                held_out = "" if reached.top1 is None else f"{reached.top1:.2f} %"
                bar.set_postfix(loss=f"{seen.loss:.3f}", held_out=held_out)
        if reached.epoch == 0:
            reached.top1 = self._score()
            reached.best = -1.0 if reached.top1 is None else reached.top1
        return reached.report(training.hooks.keep_best)

    def _stops_early(self) -> bool:
        patience, reached = self.training.recipe.early_stop_epochs, self.reached
        if patience is None or not reached.best_epoch or reached.epoch - reached.best_epoch < patience:
            return False
        log.info(
            "%s: stopped after epoch %d, best held-out top-1 was epoch %d's",
            self.training.stage, reached.epoch, reached.best_epoch,
        )  # fmt: skip
        return True

    def _epoch(self, epoch: int) -> _Seen:
        """One pass over the training images, its row and its progress."""
        training, reached = self.training, self.reached
        began = time.perf_counter()
        training.hooks.begin_epoch(training.model, epoch)
        seen = self._steps(epoch)
        shares.agree_on_buffers(training.team, self.tapped)
        self._check_finite(seen, epoch)
        reached.top1, reached.epoch = self._score(), epoch
        if reached.top1 is not None and reached.top1 > reached.best:
            reached.best, reached.best_epoch = reached.top1, epoch
            if training.hooks.keep_best:
                reached.best_weights = _copy(training.model)
        if training.team.is_main:
            scored = {} if reached.top1 is None else {"held_out_top1": round(reached.top1, 4)}
            training.work.row(
                stage=training.stage,
                epoch=epoch,
                **seen.row(),
                **scored,
                lr=self._rate(),
                seconds=round(time.perf_counter() - began, 3),
                **training.hooks.row(training.model),
            )
            training.work.progress(self._state)
        return seen

    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _check_finite(self, seen: _Seen, epoch: int) -> None:
        broken = sorted(_not_finite(self.tapped) - self.infinite)
        if math.isfinite(seen.loss) and not broken:
            return
        what = f"{broken[0]} is no longer finite" if math.isfinite(seen.loss) else f"the loss became {seen.loss}"
        rate = self.training.recipe.lr
        raise SettingError(
            f"{self.training.stage}: {what} in epoch {epoch} at learning rate {self._rate():.3g}; "
            f"try {OWN}lr={rate / 10:g}, {OWN}warmup_epochs=5 or {OWN}clip_norm=1"
        )

    def _score(self) -> float | None:
        """In percent; of the network's held-out top-1 each process looks at its share."""
        training, team = self.training, self.training.team
        if training.hooks.score is not None:
            return team.broadcast_object(training.hooks.score(training.model) if team.is_main else None)
        batches = training.data.ordered("held_out", 512, training.device, **shares.share_of(team))
        first, _, images = map(float, team.all_reduce(count_correct(training.model, batches)))
        return 100 * first / images

    def _steps(self, epoch: int) -> _Seen:
        """One step for every batch."""
        training, recipe, team = self.training, self.training.recipe, self.training.team
        self.called.train()
        training.model.train()
        torch.manual_seed(derive_seed(training.seed, training.stage, epoch, "layers", *shares.seed_part(team)))
        tally = _Tally(training.device)
        count = len(training.data.split()["train"])
        steps = math.ceil(count / recipe.batch_size)
        least = shares.least_batch(team, self.tapped, training.device)
        order = derive_seed(training.seed, training.stage, epoch, "images")
        batches = training.data.shuffled(recipe.batch_size, order, training.device, **shares.share_of(team))
        for step, (images, labels) in enumerate(batches):
            size = shares.whole_size(team, labels, min(recipe.batch_size, count - step * recipe.batch_size))
            if size < least and steps > 1:
                continue
            training.hooks.begin_step(training.model, epoch, step)
            self._step(images, labels, size, epoch - 1 + (step + 0.5) / steps, tally)
        return tally.seen(team)

    def _step(self, images: Tensor, labels: Tensor, size: int, at: float, tally: "_Tally") -> None:
        """One step on this process's share of a batch of `size` images; `at` is in epochs from the start."""
        recipe, model = self.training.recipe, self.training.model
        images, labels, own = shares.never_empty(images, labels)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, at)
        logits, terms = self._terms(images, labels, at)
        loss = total(terms)
        self.optimizer.zero_grad(set_to_none=True)
        shares.weighted(self.training.team, loss, own, size).backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.tapped.parameters(), recipe.clip_norm)
        self.training.hooks.on_gradient(model)
        self.optimizer.step()
        apply_masks(model)
        tally.add(loss, terms, logits, labels, own)

    def _terms(self, images: Tensor, labels: Tensor, at: float) -> tuple[Tensor, Terms]:
        """Logits (B, C), and what is to be summed and minimised."""
        recipe, device = self.training.recipe, self.training.device
        images = images.contiguous(memory_format=self.layout)
        with _autocast(recipe, device), guarded(recipe, device):
            outputs = outputs_of(*self.called(images))
            terms = self.training.objective(outputs, labels, images, at)
            return outputs.logits, with_heads(terms, outputs, labels, recipe)


class _Tally:
    """Sums over the images of an epoch, in float64 on the device: of the loss, of its terms, of hits."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(3, device=device, dtype=torch.float64)  # of the loss, of hits, of images
        self._terms: dict[str, Tensor] = {}

    def add(self, loss: Tensor, terms: Terms, logits: Tensor, labels: Tensor, own: int) -> None:
        """A batch of which `own` images count; in every process the same terms, also where none does."""
        for name, term in terms.items():
            zero = self._sums.new_zeros(())
            self._terms[name] = self._terms.get(name, zero) + (term.detach() * own if own else zero)
        if own:
            self._sums[0] += loss.detach() * own
            self._sums[1] += (logits.detach().argmax(1) == labels).sum()
            self._sums[2] += own

    def seen(self, team: Team) -> _Seen:
        sums = torch.stack([*self._sums, *self._terms.values()])
        loss, right, images, *terms = team.all_reduce(sums).tolist()
        means = {name: value / images for name, value in zip(self._terms, terms, strict=True)}
        return _Seen(loss / images, 100 * right / images, means)


def _layout(training: Training) -> torch.memory_format:
    """The layout that the recipe means, told where it is another one than the faster."""
    model, recipe = training.model, training.recipe
    layout = training_format(model, recipe, training.device)
    if recipe.channels_last == "auto" and layout is torch.contiguous_format and training.team.is_main:
        log.info(
            "%s: in the contiguous layout, since channels_last is not safe on a CPU for %s (%s)",
            training.stage, KIND, unsafe_layers(model)[0],
        )  # fmt: skip
    return layout


def _optimizer(trained: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        trained.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )


def _autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if recipe.amp == "bf16" else nullcontext()


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _not_finite(tapped: Tapped) -> set[str]:
    """By the names that the network has for them."""
    return {
        name.removeprefix("network.")
        for name, tensor in tapped.state_dict().items()
        if not bool(tensor.isfinite().all())
    }
