"""DDPG: a deterministic policy and its critic, trained on transitions from a replay memory.

Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR 2016, arXiv:1509.02971, algorithm 1; the
networks and the reward baseline follow He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile
Devices", ECCV 2018, arXiv:1802.03494, section 3. States are vectors, actions are in [0, 1]; this package knows of no
networks to prune.
"""

import copy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.agents.noise import truncated_normal
from compress.agents.replay import Transitions
from compress.schema.bounds import Bound, Count, Positive, Share


@dataclass(frozen=True, kw_only=True)
class DDPGSettings:
    """Settings of the agent; the values are in conf/method/amc.yaml."""

    hidden: Count  # units in each of the two hidden layers, of the actor and of the critic
    actor_lr: Positive
    critic_lr: Positive
    discount: Annotated[float, Bound(ge=0, le=1)]
    tau: Share  # step of the target networks towards actor and critic in every update
    batch_size: Count
    baseline_rate: Share  # step of the reward baseline (a moving average) towards the mean reward of a batch


class Critic(nn.Module):
    """Action values Q(s, a): states (B, S), actions (B, A) -> (B,)."""

    def __init__(self, state_size: int, action_size: int, hidden: int) -> None:
        super().__init__()
        self.of_state = nn.Linear(state_size, hidden)
        self.of_action = nn.Linear(action_size, hidden)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.head(self.of_state(state) + self.of_action(action)).squeeze(1)  # type: ignore[no-any-return]


def actor_network(state_size: int, action_size: int, hidden: int) -> nn.Sequential:
    """The policy: states (B, S) -> actions (B, A) in (0, 1)."""
    return nn.Sequential(
        nn.Linear(state_size, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, action_size),
        nn.Sigmoid(),
    )


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimizer step. Gradients are computed for the optimizer's parameters only: the actor's loss runs through
    the critic, whose gradients must not accumulate."""
    parameters = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()


class DDPG:
    """The agent: actor, critic and their target networks. Rewards are centred by a moving average per task."""

    def __init__(self, state_size: int, action_size: int, settings: DDPGSettings, seed: int) -> None:
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = actor_network(state_size, action_size, settings.hidden)
            self.critic = Critic(state_size, action_size, settings.hidden)
            self.actor_target = actor_network(state_size, action_size, settings.hidden)
            self.critic_target = Critic(state_size, action_size, settings.hidden)
        self.actor_target.load_state_dict(self.actor.state_dict())
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), settings.actor_lr, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), settings.critic_lr, fused=True)
        self.baselines: dict[int, float] = {}

    def act(self, state: Tensor, sigma: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """The policy's action, with truncated normal noise of standard deviation `sigma`: (S,) -> (A,) in [0, 1]."""
        with torch.no_grad():
            mean: Tensor = self.actor(state[None])[0]
        if sigma <= 0:
            return mean
        assert generator is not None, "noise needs a generator"
        return truncated_normal(mean, sigma, generator)

    def centred(self, rewards: Tensor, tasks: Tensor) -> Tensor:
        """Rewards minus the baseline of their task: (B,), (B,) -> (B,). The baselines are updated by this batch
        before they are subtracted."""
        centred = rewards.clone()
        for task in tasks.unique().tolist():
            of_task = tasks == task
            mean = float(rewards[of_task].double().mean())
            before = self.baselines.get(task, mean)
            self.baselines[task] = before + self.settings.baseline_rate * (mean - before)
            centred[of_task] -= self.baselines[task]
        return centred

    def update(self, batch: Transitions) -> float:
        """One step of critic, actor and target networks; returns the critic's loss."""
        rewards = self.centred(batch.reward, batch.task)
        with torch.no_grad():
            next_value = self.critic_target(batch.next_state, self.actor_target(batch.next_state))
            target_value = rewards + self.settings.discount * (1 - batch.end) * next_value
        critic_loss = F.mse_loss(self.critic(batch.state, batch.action), target_value)
        _step(self.critic_optimizer, critic_loss)
        _step(self.actor_optimizer, -self.critic(batch.state, self.actor(batch.state)).mean())

        for target, trained in ((self.actor_target, self.actor), (self.critic_target, self.critic)):
            with torch.no_grad():
                torch._foreach_lerp_(list(target.parameters()), list(trained.parameters()), self.settings.tau)
        return float(critic_loss.detach())

    NETWORKS = ("actor", "critic", "actor_target", "critic_target")
    _STATEFUL = (*NETWORKS, "actor_optimizer", "critic_optimizer")

    def state_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name).state_dict() for name in self._STATEFUL},
            "baselines": self.baselines,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in self._STATEFUL:
            # Optimizers keep the tensors that they are given, so they get copies.
            getattr(self, name).load_state_dict(copy.deepcopy(state[name]))
        self.baselines = dict(state["baselines"])
