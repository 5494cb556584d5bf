"""The training loop, epoch by epoch: SGD with a learning rate schedule, resumable from its last saved epoch; on a CPU
the resumed training is bit-identical to an uninterrupted one.

All randomness of an epoch (order, crops, dropout) is seeded by (seed, stage, epoch), so that resuming needs no
generator state. With several processes each rank trains on its shard of every batch (`compress.parallel.ddp`); the
loop is the same on every rank, and rank 0 alone writes.

The metrics row of an epoch (`_Loop._epoch`) has `loss`, the mean of the objective over the images; with several terms
also each of them, as `loss_<name>`; and the means of the figures of `MeasuredTerms`, by their names.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from compress.data.base import Data, Viewed
from compress.errors import OWN, SettingError
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import count_correct
from compress.models.masks import apply_masks
from compress.parallel import ddp
from compress.parallel.collectives import ALONE, Team
from compress.schema.settings import Recipe
from compress.train.memory_format import KIND, guarded, training_format, unsafe_layers
from compress.train.objective import Asking, Objective, Tapped, Terms, figures_of, outputs_of, total, with_heads
from compress.train.schedule import learning_rate

log = logging.getLogger(__name__)


def _no_op(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Hooks:
    """Callbacks of a method into the training of its network. Weight masks need none: they are re-applied every
    step."""

    begin_epoch: Callable[[nn.Module, int], None] = _no_op  # epoch, from 1
    begin_step: Callable[[nn.Module, int, int], None] = _no_op  # epoch from 1, step of the epoch from 0
    on_gradient: Callable[[nn.Module], None] = _no_op  # after backward and clipping, before the optimizer step
    row: Callable[[nn.Module], JSON] = lambda _: {}  # entries to add to the epoch's metrics row
    # Score of an epoch in percent, larger is better; None: not scored. Called on rank 0 only; must not change the
    # network. The default is the held-out top-1 accuracy
    score: Callable[[nn.Module], float | None] | None = None
    keep_best: bool = True  # False: the weights of the best epoch are not copied, saved or reported


NO_HOOKS = Hooks()


@dataclass(frozen=True, kw_only=True)
class Training:
    """A network and everything that determines its training."""

    model: nn.Module  # trained in place
    data: Data
    recipe: Recipe
    objective: Objective
    work: StageFolder
    stage: str  # name of the stage, in metrics rows and seeds
    seed: int
    device: torch.device
    hooks: Hooks = NO_HOOKS
    team: Team = ALONE

    @property
    def figure(self) -> str:
        """What rows and reports call the score of an epoch: a method's own is no held-out top-1."""
        return "held_out_top1" if self.hooks.score is None else "score"

    @property
    def figure_in_words(self) -> str:
        return "held-out top-1" if self.hooks.score is None else "score"


@dataclass
class _Progress:
    """Last finished epoch and best epoch of a training; part of progress.pt, by these names."""

    epoch: int = 0  # last finished epoch, 0: none
    top1: float | None = None  # held-out top-1 in percent of that epoch, or the method's own score
    best: float = -1.0
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)  # state dict; empty with keep_best=False

    def report(self, keep_best: bool, figure: str) -> JSON:
        scored = {} if self.top1 is None else {figure: self.top1}
        best = {
            f"best_{figure}": self.best,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }
        return {"epochs": self.epoch, **scored, **(best if keep_best else {})}


@dataclass(frozen=True)
class _EpochMeans:
    """Means over the training images of an epoch, measured during its steps."""

    loss: float
    top1: float  # in percent
    terms: dict[str, float]
    figures: dict[str, float]

    def row(self) -> JSON:
        terms = {f"loss_{name}": round(value, 6) for name, value in self.terms.items()} if len(self.terms) > 1 else {}
        figures = {name: round(value, 6) for name, value in self.figures.items()}
        return {"loss": round(self.loss, 6), **terms, **figures, "train_top1": round(self.top1, 4)}


def image_seed(seed: int, stage: str, epoch: int) -> int:
    """The seed of the order and the augmentation of the images in an epoch of a stage, counted from 1."""
    return derive_seed(seed, stage, epoch, "images")


def train(training: Training) -> JSON:
    """Train `training.model` in place to its last epoch, from the last saved progress if there is any.

    Returns `epochs` and `held_out_top1` (percent), and with `keep_best` also `best_held_out_top1`, `best_epoch` and
    `best_weights` (a state dict). The model ends with the weights of the last epoch, never with the best ones.

    Raises:
        SettingError: the loss or the network is no longer finite; advises on the recipe.
    """
    return _Loop(training).run()


class _Loop:
    """The state of a running training: optimizer, progress, DDP module."""

    def __init__(self, training: Training) -> None:
        self.training, model, device = training, training.model, training.device
        model.to(device)
        ddp.synchronise_adapters(training.team, training.objective.adapters.to(device), device)
        self.layout = _layout(training)
        model.to(memory_format=self.layout)
        self.tapped = Tapped(model, training.objective)
        self.optimizer = _optimizer(self.tapped, training.recipe)
        self.progress = _Progress()
        if training.hooks.keep_best:
            self.progress.best_weights = _cloned_state_dict(model)
        self._resume()
        self.nonfinite_at_start = _not_finite(self.tapped)  # such as an attention mask, which holds -inf
        self.ddp_module = ddp.wrapped(training.team, self.tapped, device)

    def _resume(self) -> None:
        training = self.training
        resumed = training.team.broadcast_object(training.work.resumed)
        if resumed is None:
            return
        training.model.load_state_dict(resumed["model"])
        training.objective.adapters.load_state_dict(resumed.get("adapters", {}))
        self.optimizer.load_state_dict(resumed["optimizer"])
        self.progress = _Progress(**{name: resumed[name] for name in vars(self.progress)})
        log.info("%s: continues after epoch %d", training.stage, self.progress.epoch)

    def _state(self) -> JSON:
        return {
            "model": self.training.model.state_dict(),
            "adapters": self.training.objective.adapters.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **vars(self.progress),
        }

    def run(self) -> JSON:
        training, progress = self.training, self.progress
        hidden = None if training.team.is_main else True  # None: tqdm shows the bar on a terminal only
        epochs = training.recipe.epochs
        with tqdm(
            total=epochs, initial=progress.epoch, desc=training.stage, unit="epoch", disable=hidden, leave=False
        ) as bar:
            while progress.epoch < epochs and not self._stops_early():
                means = self._epoch(progress.epoch + 1)
                bar.update()
                held_out = "" if progress.top1 is None else f"{progress.top1:.2f} %"
                bar.set_postfix(loss=f"{means.loss:.3f}", held_out=held_out)
        if progress.epoch == 0:
            progress.top1 = self._score()
            progress.best = -1.0 if progress.top1 is None else progress.top1
        return progress.report(training.hooks.keep_best, training.figure)

    def _lost_patience(self) -> bool:
        patience, progress = self.training.recipe.early_stop_epochs, self.progress
        return patience is not None and 0 < progress.best_epoch <= progress.epoch - patience

    def _stops_early(self) -> bool:
        progress = self.progress
        if not self._lost_patience():
            return False
        log.info(
            "%s: stopped after epoch %d, best %s was epoch %d's",
            self.training.stage, progress.epoch, self.training.figure_in_words, progress.best_epoch,
        )  # fmt: skip
        return True

    def _epoch(self, epoch: int) -> _EpochMeans:
        """One epoch: hooks, steps, score, then its metrics row and saved progress."""
        training, progress = self.training, self.progress
        began = time.perf_counter()
        training.hooks.begin_epoch(training.model, epoch)
        means = self._steps(epoch)
        ddp.average_buffers(training.team, self.tapped)
        self._check_finite(means, epoch)
        progress.top1, progress.epoch = self._score(), epoch
        if progress.top1 is not None and progress.top1 > progress.best:
            progress.best, progress.best_epoch = progress.top1, epoch
            if training.hooks.keep_best:
                progress.best_weights = _cloned_state_dict(training.model)
        if training.team.is_main:
            scored = {} if progress.top1 is None else {training.figure: round(progress.top1, 4)}
            training.work.row(
                stage=training.stage,
                epoch=epoch,
                **means.row(),
                **scored,
                lr=self._rate(),
                seconds=round(time.perf_counter() - began, 3),
                **training.hooks.row(training.model),
            )
            ended = epoch == training.recipe.epochs or self._lost_patience()
            training.work.progress(self._state, 0 if ended else training.recipe.checkpoint_seconds)
        return means

    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _check_finite(self, means: _EpochMeans, epoch: int) -> None:
        broken = sorted(_not_finite(self.tapped) - self.nonfinite_at_start)
        if math.isfinite(means.loss) and not broken:
            return
        what = f"{broken[0]} is no longer finite" if math.isfinite(means.loss) else f"the loss became {means.loss}"
        rate = self.training.recipe.lr
        raise SettingError(
            f"{self.training.stage}: {what} in epoch {epoch} at learning rate {self._rate():.3g}; "
            f"try {OWN}lr={rate / 10:g}, {OWN}warmup_epochs=5 or {OWN}clip_norm=1"
        )

    def _score(self) -> float | None:
        """The score of the network, in percent: held-out top-1, each rank on its shard; or that of `hooks.score`."""
        training, team = self.training, self.training.team
        if training.hooks.score is not None:
            return team.broadcast_object(training.hooks.score(training.model) if team.is_main else None)
        batches = training.data.ordered("held_out", 512, training.device, **ddp.shard_argument(team))
        first, _, images = map(float, team.all_reduce(count_correct(training.model, batches)))
        return 100 * first / images

    def _steps(self, epoch: int) -> _EpochMeans:
        """One optimizer step for every batch."""
        training, recipe, team = self.training, self.training.recipe, self.training.team
        self.ddp_module.train()
        training.model.train()
        torch.manual_seed(derive_seed(training.seed, training.stage, epoch, "layers", *ddp.rank_seed(team)))
        tally = _Tally(training.device)
        count = len(training.data.split()["train"])
        steps = math.ceil(count / recipe.batch_size)
        least = ddp.smallest_batch(team, self.tapped, training.device)
        for step, (images, labels, *views) in enumerate(self._batches(epoch)):
            size = ddp.full_batch_size(team, labels, min(recipe.batch_size, count - step * recipe.batch_size))
            if size < least and steps > 1:
                continue
            training.hooks.begin_step(training.model, epoch, step)
            self._step((images, labels, *views), size, epoch - 1 + (step + 0.5) / steps, tally)
        return tally.means(team)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """This rank's shards of the batches of an epoch: images, labels and, if the objective needs them, views."""
        training = self.training
        batches: Callable[..., Iterator[tuple[Tensor, ...]]] = training.data.shuffled
        if isinstance(training.objective, Asking) and training.objective.by_view:
            assert isinstance(training.data, Viewed)
            batches = training.data.shuffled_views
        seed, shard = image_seed(training.seed, training.stage, epoch), ddp.shard_argument(training.team)
        return batches(training.recipe.batch_size, seed, training.device, **shard)

    def _step(self, batch: tuple[Tensor, ...], size: int, at: float, tally: "_Tally") -> None:
        """One step on this rank's shard of a batch of `size` images; `at` is the time in epochs since the start."""
        recipe, model = self.training.recipe, self.training.model
        images, labels, *views = ddp.padded_shard(*batch)
        count = len(batch[1])
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, at)
        logits, terms = self._terms(images, labels, at, *views)
        loss = total(terms)
        self.optimizer.zero_grad(set_to_none=True)
        ddp.scaled_loss(self.training.team, loss, count, size).backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.tapped.parameters(), recipe.clip_norm)
        self.training.hooks.on_gradient(model)
        self.optimizer.step()
        apply_masks(model)
        tally.add(loss, terms, logits, labels, count)

    def _terms(self, images: Tensor, labels: Tensor, at: float, *views: Tensor) -> tuple[Tensor, Terms]:
        """Logits (B, C), and the weighted terms whose sum is minimised."""
        recipe, device = self.training.recipe, self.training.device
        images = images.contiguous(memory_format=self.layout)
        objective: Any = self.training.objective
        with _autocast(recipe, device):
            answer = (objective.ask(images, at, *views),) if isinstance(objective, Asking) else ()
            with guarded(recipe, device):  # not a teacher, which gets no gradient: it would be a seventh slower
                outputs = outputs_of(*self.ddp_module(images))
                terms: Terms = objective(outputs, labels, images, at, *answer)
            return outputs.logits, with_heads(terms, outputs, labels, recipe)


class _Tally:
    """Sums over the images of an epoch, in float64 on the device: loss, loss terms, figures beside them, correct
    predictions, images."""

    def __init__(self, device: torch.device) -> None:
        self._counts = torch.zeros(2, device=device, dtype=torch.float64)  # correct predictions, images
        self._sums = torch.zeros((), device=device, dtype=torch.float64)  # in the end (1 + terms + figures,)
        self._terms: tuple[str, ...] = ()
        self._figures: tuple[str, ...] = ()

    def add(self, loss: Tensor, terms: Terms, logits: Tensor, labels: Tensor, count: int) -> None:
        """Add a shard of which `count` images count. All ranks add the same names, also with an empty shard."""
        figures = figures_of(terms)
        self._terms, self._figures = tuple(terms), tuple(figures)
        values = torch.stack([loss.detach(), *(v.detach() for v in (*terms.values(), *figures.values()))])
        self._sums = self._sums + (values * count if count else torch.zeros_like(values)).double()
        if count:
            self._counts[0] += (logits.detach().argmax(1) == labels).sum()
            self._counts[1] += count

    def means(self, team: Team) -> _EpochMeans:
        """All-reduced over the ranks."""
        right, images, *sums = team.all_reduce(torch.cat([self._counts, self._sums.reshape(-1)])).tolist()
        loss, *others = [value / images for value in sums]
        terms = dict(zip(self._terms, others[: len(self._terms)], strict=True))
        figures = dict(zip(self._figures, others[len(self._terms) :], strict=True))
        return _EpochMeans(loss, 100 * right / images, terms, figures)


def _layout(training: Training) -> torch.memory_format:
    """The memory format by the recipe; logs where channels_last=auto falls back to the slower one."""
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


def _cloned_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _not_finite(tapped: Tapped) -> set[str]:
    """Names, in the network's own state dict, of tensors with NaN or infinite entries."""
    return {
        name.removeprefix("network.")
        for name, tensor in tapped.state_dict().items()
        if not bool(tensor.isfinite().all())
    }
