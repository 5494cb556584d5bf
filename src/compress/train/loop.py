"""The training loop, epoch by epoch: SGD with a learning rate schedule, resumable from its last saved epoch; on a CPU
the resumed training is bit-identical to an uninterrupted one.

All randomness of an epoch (order, crops, dropout) is seeded by (seed, stage, epoch), so that resuming needs no
generator state. With several processes each rank trains on its shard of every batch (`compress.parallel.ddp`); the
loop is the same on every rank, and rank 0 alone writes.

On a GPU a step of a full batch is recorded once and replayed (`compress.train.graphs`); nothing waits for the device
inside an epoch, and after it once for what it added up to and once for the held-out score.

The metrics row of an epoch (`_Loop._epoch`) has `loss`, the mean of the objective over the images; with several terms
also each of them, as `loss_<name>`; and the means of the figures of `MeasuredTerms`, by their names.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compress.data.base import Data, Viewed
from compress.errors import OWN, SettingError
from compress.io.files import JSON
from compress.io.progress import Progress
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import count_correct
from compress.models.masks import masked_layers
from compress.parallel import ddp
from compress.parallel.collectives import ALONE, Team
from compress.schema.settings import Recipe
from compress.train.graphs import CannotRecordError, CudaGraphs, Recorder, Replayed, lacking
from compress.train.memory_format import KIND, guard, training_format, unsafe_layers
from compress.train.objective import Asking, Objective, Phased, Tapped
from compress.train.optimizer import SGD
from compress.train.schedule import learning_rate
from compress.train.step import Batch, Step
from compress.train.tally import EpochMeans, Tally

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
    # Tensors that `on_gradient` changes in place besides gradients. With them it says that it is the same operations
    # on the device at every step, which may be recorded; None: it may look at values, or count in Python
    gradient_state: Callable[[], Sequence[Tensor]] | None = None
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
        self.recorder = _recorder(training)
        recorded = self.recorder is not None
        self.optimizer = SGD(self.tapped.parameters(), training.recipe, device, recorded)
        self.progress = _Progress()
        if training.hooks.keep_best:
            self.progress.best_weights = _cloned_state_dict(model)
        self._resume()
        self.nonfinite_at_start = _not_finite(self.tapped.state_dict())  # such as an attention mask, which holds -inf
        self.ddp_module = ddp.wrapped(training.team, self.tapped, device)
        self.tally, self.rate = Tally(device), training.recipe.lr
        self.masked: list[nn.Module] = []
        self.step = self._step()
        self.replayed = None if self.recorder is None else self._replayed(self.recorder)

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

    def _step(self) -> Step:
        training = self.training
        return Step(
            tapped=self.tapped,
            called=self.ddp_module,
            objective=training.objective,
            optimizer=self.optimizer,
            recipe=training.recipe,
            on_gradient=training.hooks.on_gradient,
            layout=self.layout,
            guard=guard(self.tapped, training.recipe, training.device),
            device=training.device,
            team=training.team,
            tally=self.tally,
            masked=self.masked,
        )

    def _replayed(self, recorder: Recorder) -> Replayed:
        training, objective = self.training, self.training.objective
        assert isinstance(objective, Phased)

        def changed() -> list[Tensor]:
            of_hook = (training.hooks.gradient_state or tuple)()
            own = (*self.tapped.parameters(), *self.tapped.buffers())
            return [*own, *self.optimizer.momenta, *self.tally.tensors(), *of_hook]

        return Replayed(
            self.step, recorder, changed, objective.phase,
            size=training.recipe.batch_size, required=training.recipe.graphs == "on", called=training.stage,
        )  # fmt: skip

    def _state(self) -> JSON:
        return {
            "model": self.training.model.state_dict(),
            "adapters": self.training.objective.adapters.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **vars(self.progress),
        }

    def run(self) -> JSON:
        training, progress = self.training, self.progress
        epochs, hidden = training.recipe.epochs, not training.team.is_main
        with Progress(training.stage, "epoch", epochs, progress.epoch, every_step=True, hidden=hidden) as shown:
            while progress.epoch < epochs and not self._stops_early():
                means = self._epoch(progress.epoch + 1)
                score = "" if progress.top1 is None else f", {training.figure_in_words} {progress.top1:.2f} %"
                shown.advance(f"loss {means.loss:.3f}{score}")
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

    def _epoch(self, epoch: int) -> EpochMeans:
        """One epoch: hooks, steps, score, then its metrics row and saved progress."""
        training, progress = self.training, self.progress
        began = time.perf_counter()
        training.hooks.begin_epoch(training.model, epoch)
        self._steps(epoch)
        ddp.average_buffers(training.team, self.tapped)
        means = self._finite_means(epoch)
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
                lr=self.rate,
                seconds=round(time.perf_counter() - began, 3),
                **training.hooks.row(training.model),
            )
            ended = epoch == training.recipe.epochs or self._lost_patience()
            training.work.progress(self._state, 0 if ended else training.recipe.checkpoint_seconds)
        return means

    def _finite_means(self, epoch: int) -> EpochMeans:
        """The means of the epoch. The device is waited for once, for these and for whether all is finite.

        Raises:
            SettingError: something no longer is.
        """
        looked_at = {
            name: tensor
            for name, tensor in self.tapped.state_dict().items()
            if tensor.is_floating_point() and name.removeprefix("network.") not in self.nonfinite_at_start
        }
        with_entries = [tensor for tensor in looked_at.values() if tensor.numel()]
        largest = nn.utils.get_total_norm(with_entries, math.inf)
        means, bound = self.tally.means(self.training.team, largest)
        if math.isfinite(means.loss) and math.isfinite(bound):
            return means
        broken = sorted(_not_finite(looked_at))
        what = f"{broken[0]} is no longer finite" if math.isfinite(means.loss) else f"the loss became {means.loss}"
        rate = self.training.recipe.lr
        raise SettingError(
            f"{self.training.stage}: {what} in epoch {epoch} at learning rate {self.rate:.3g}; "
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

    def _steps(self, epoch: int) -> None:
        """One optimizer step for every batch. Nothing in here waits for the device."""
        training, recipe, team = self.training, self.training.recipe, self.training.team
        self.ddp_module.train()
        training.model.train()
        seed = derive_seed(training.seed, training.stage, epoch, "layers", *ddp.rank_seed(team))
        # `torch.manual_seed` queues a call for every other kind of device, each epoch, for as long as it is not used
        torch.default_generator.manual_seed(seed) if training.device.type == "cpu" else torch.manual_seed(seed)
        self._find_masks()
        self.tally.begin()
        if self.replayed is not None:
            self.replayed.begin_epoch()
        count = len(training.data.split()["train"])
        steps = math.ceil(count / recipe.batch_size)
        least = ddp.smallest_batch(team, self.tapped, training.device)
        for step, batch in enumerate(self._batches(epoch)):
            size = ddp.full_batch_size(team, batch[1], min(recipe.batch_size, count - step * recipe.batch_size))
            if size < least and steps > 1:
                continue
            training.hooks.begin_step(training.model, epoch, step)
            if not self._steps_are_alike:  # they may lay on other masks too
                self._find_masks()
            at = epoch - 1 + (step + 0.5) / steps
            self.rate = learning_rate(recipe, at)
            self.optimizer.set_rate(self.rate)
            self._take(batch, size, at)

    @property
    def _steps_are_alike(self) -> bool:
        hooks = self.training.hooks
        return hooks.begin_step is _no_op and (hooks.on_gradient is _no_op or hooks.gradient_state is not None)

    def _find_masks(self) -> None:
        self.masked[:] = masked_layers(self.training.model).values()

    def _take(self, batch: Batch, size: int, at: float) -> None:
        """
        Raises:
            SettingError: the recipe wants recorded steps, and this one cannot be.
        """
        if self.replayed is None:
            self.step(batch, size, at)
            return
        try:
            self.replayed(batch, size, at)
        except CannotRecordError as error:
            raise SettingError(f"{OWN}graphs=on: a step cannot be recorded ({error}); use auto or off") from None

    def _batches(self, epoch: int) -> Iterator[Batch]:
        """This rank's shards of the batches of an epoch: images, labels and, if the objective needs them, views."""
        training = self.training
        batches: Callable[..., Iterator[Batch]] = training.data.shuffled
        if isinstance(training.objective, Asking) and training.objective.by_view:
            assert isinstance(training.data, Viewed)
            batches = training.data.shuffled_views
        seed, shard = image_seed(training.seed, training.stage, epoch), ddp.shard_argument(training.team)
        return batches(training.recipe.batch_size, seed, training.device, **shard)


def obstacle_to_graphs(training: Training) -> str | None:
    """Why the steps of a training are not recorded as a CUDA graph, whatever the recipe says; None: they can be."""
    hooks, objective = training.hooks, training.objective
    if (why := lacking(training.device, training.team.world_size)) is not None:
        return why
    if hooks.begin_step is not _no_op:
        return "the network is another one at every step"
    if hooks.on_gradient is not _no_op and hooks.gradient_state is None:
        return "a hook changes the gradients in a way that may differ from step to step"
    if not isinstance(objective, Phased):
        return f"the objective ({type(objective).__name__}) does not say when it is the same function"
    return None


def _recorder(training: Training) -> Recorder | None:
    """What records the steps, if they are recorded.

    Raises:
        SettingError: the recipe wants them recorded where that is not possible.
    """
    asked = training.recipe.graphs
    if asked == "off":
        return None
    why = obstacle_to_graphs(training)
    if why is None:
        return CudaGraphs(training.device)
    if asked == "on":
        raise SettingError(f"{OWN}graphs=on: {why}; use auto or off")
    if training.device.type == "cuda" and training.team.is_main:
        log.info("%s: steps one by one, not as a CUDA graph: %s", training.stage, why)
    return None


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


def _cloned_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _not_finite(tensors: Mapping[str, Tensor]) -> set[str]:
    """Names, in the network's own state dict, of tensors with NaN or infinite entries; one transfer for all."""
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).tolist()
    return {name.removeprefix("network.") for name, is_finite in zip(tensors, finite, strict=True) if not is_finite}
