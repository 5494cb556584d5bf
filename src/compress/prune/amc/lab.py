"""A network made ready for a search: calibrated least squares, held-out scores of any widths, the environment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from compress.agents.ddpg import DDPG, DDPGSettings
from compress.files import JSON
from compress.measure.accuracy import Accuracy
from compress.prune.amc.env import ChannelEnv, Metric
from compress.prune.amc.reconstruct import Reconstructor, input_moments
from compress.prune.amc.rewards import Reward
from compress.prune.amc.scores import Scores, batch_size
from compress.prune.amc.states import Clean, Encoding, Original, State
from compress.prune.amc.strategy import layer_form
from compress.prune.amc.walls import BudgetMode, Upwards, Walls, Within, bias_macs
from compress.prune.budget import removed_percent
from compress.prune.importance import channel_orders, plan_of
from compress.prune.method import Problem
from compress.prune.plan import Plan
from compress.prune.widths import all_choices
from compress.seeds import derive_seed
from compress.settings import Count


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """`conf/method/amc.yaml` says what each means."""

    images: Count
    batch_size: Count
    points: Count
    augmented: bool
    repeats: bool
    doubles_bias: bool


def calibration_images(problem: Problem, settings: CalibrationSettings, seed: int) -> Iterator[Tensor]:
    """Training images in batches, as many in all as asked for (if there are)."""
    if not settings.augmented:
        for x, _ in problem.data.drawn("train", settings.images, settings.batch_size, seed, problem.device):
            yield x
        return
    left = settings.images
    for x, _ in problem.data.shuffled(settings.batch_size, seed, problem.device):
        yield x[:left]
        left -= len(x)
        if left <= 0:
            return


class LabSettings(Protocol):
    """What a lab needs to know of a method."""

    @property
    def lbound(self) -> float: ...
    @property
    def rbound(self) -> float: ...
    @property
    def round_to(self) -> int: ...
    @property
    def rounding(self) -> Literal["within", "up"]: ...
    @property
    def budget_mode(self) -> BudgetMode: ...
    @property
    def state(self) -> Literal["clean", "original"]: ...
    @property
    def target_encoding(self) -> Encoding: ...
    @property
    def acc_metric(self) -> Metric: ...
    @property
    def reward_images(self) -> int: ...
    @property
    def reward(self) -> Reward: ...
    @property
    def calibration(self) -> CalibrationSettings: ...
    @property
    def ddpg(self) -> DDPGSettings: ...


class Lab:
    """Of one method's settings and one network; the network is not touched."""

    def __init__(self, settings: LabSettings, problem: Problem, targets: Sequence[float]) -> None:
        self.settings, self.problem, self.targets = settings, problem, list(targets)
        model = problem.model.to(problem.device).eval()
        self.orders = channel_orders(model, problem.graph)
        seed, calibration = derive_seed(problem.seed, "calibration"), settings.calibration
        images = calibration_images(problem, calibration, seed)
        generator = torch.Generator().manual_seed(seed)
        moments = input_moments(model, problem.graph, images, calibration.points, generator, calibration.repeats)
        self._reconstructor = Reconstructor(model, problem.graph, moments, self.orders, calibration.doubles_bias)
        held_out = problem.data.drawn(
            "held_out", settings.reward_images, batch_size(problem.data.shape), seed, problem.device
        )
        self._accuracy = Scores(model, problem.graph, held_out)
        self._scored: dict[tuple[int, ...], Accuracy] = {}
        self.env = self._environment()

    def _environment(self) -> ChannelEnv:
        settings, problem = self.settings, self.problem
        graph, cost, model = problem.graph, problem.cost, problem.model
        choices = all_choices(graph, settings.round_to, settings.lbound, settings.rbound)
        upwards = Upwards(
            cost, bias_macs(model, graph), lbound=settings.lbound, rbound=settings.rbound,
            round_to=settings.round_to, mode=settings.budget_mode,
        )  # fmt: skip
        walls: Walls = upwards if settings.rounding == "up" else Within(cost, choices, settings.budget_mode)
        told = settings.target_encoding, self.targets
        state: State = (
            Original(model, graph, upwards, *told, lbound=settings.lbound)
            if settings.state == "original"
            else Clean(model, graph, cost, choices, *told)
        )
        return ChannelEnv(cost, choices, state, walls, self.score, settings.reward, settings.acc_metric, self.targets)

    def new_agent(self) -> DDPG:
        seed = derive_seed(self.problem.seed, "agent")
        sizes = self.env.observation_space.shape[0], self.env.action_space.shape[0]
        return DDPG(*sizes, self.settings.ddpg, seed)

    def plan_of(self, widths: tuple[int, ...]) -> Plan:
        return plan_of(self.problem.graph, self.orders, widths)

    def realise(self, widths: tuple[int, ...]) -> tuple[Plan, dict[str, Tensor]]:
        """The plan of these widths and the refitted weights that go with it."""
        groups = self.problem.graph.groups
        kept = {g.name: self.orders[g.name][:width].sort().values for g, width in zip(groups, widths, strict=True)}
        return self.plan_of(widths), self._reconstructor.weights(kept)

    def score(self, widths: tuple[int, ...]) -> Accuracy:
        """Held-out accuracy in percent, without fine-tuning; the same widths are scored once."""
        if widths not in self._scored:
            self._scored[widths] = self._accuracy(*self.realise(widths))
        return self._scored[widths]

    def removed(self, widths: tuple[int, ...]) -> float:
        """Share of channels that these widths take away."""
        return removed_percent(self.problem.graph, self.plan_of(widths))

    def scored(self, widths: tuple[int, ...], target: float) -> JSON:
        """The outcome of widths under a target of MACs."""
        self.env.reset(options={"target": target})
        return self.env.outcome(widths)

    def told(self, outcome: JSON) -> JSON:
        """An outcome for people and files, in the form of the published code too."""
        numbers = {key: outcome[key] for key in ("target", "ratio", "top1", "top5", "reward")}
        form = layer_form(self.problem.graph, self.problem.cost, outcome["widths"])
        return {**numbers, "widths": list(outcome["widths"]), **form}
