"""A policy of preferences: for every place one number, how much more than the others it wants.

One small network gives the preference of a place from features of the place, which place it is, and one number about
the task. It learns by imitation: regression on the preferences of the best outcomes so far, as the cross-entropy
method does with a distribution (Rubinstein and Kroese, "The Cross-Entropy Method", Springer 2004, chapter 4), here
with a network that shares what it learns between tasks. There is no gradient through a critic.

This package knows of no networks to prune; what preferences become is decided elsewhere.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from compress.schema.bounds import Count, Natural, Positive

Preferences = NDArray[np.float64]  # (n, places), or (places,)


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings:
    """Settings of the policy; the values are in conf/method/amc.yaml."""

    hidden: Count  # units in each of the two hidden layers
    lr: Positive
    steps: Natural  # of Adam, in every imitation
    bound: Positive  # of preferences before their mean is subtracted


class PreferencePolicy:
    """Preferences of mean 0 over the places; a new policy has 0 for all. `features` is (places, F)."""

    def __init__(self, features: NDArray[np.float64], settings: PreferenceSettings, seed: int) -> None:
        places = len(features)
        self.settings = settings
        self._of_place = torch.cat([torch.from_numpy(features).float(), torch.eye(places)], 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _network(self._of_place.shape[1] + 1, settings.hidden)
        self.optimizer = torch.optim.Adam(self.network.parameters(), settings.lr, fused=True)

    def preferences(self, task: float) -> Preferences:
        """Of every place: (places,). `task` is the number that describes it, of about -1 to 1."""
        with torch.no_grad():
            found: Preferences = self._of_tasks(torch.tensor([task], dtype=torch.float32))[0].double().numpy()
        return found

    def imitate(self, tasks: NDArray[np.float64], preferences: Preferences) -> float:
        """Some steps towards preferences (n, places) of mean 0, of n tasks (n,). Returns the mean squared error
        before the last step."""
        asked, wanted = torch.from_numpy(tasks).float(), torch.from_numpy(preferences).float()
        error = 0.0
        for _ in range(self.settings.steps):
            loss = F.mse_loss(self._of_tasks(asked), wanted)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            error = float(loss.detach())
        return error

    def _of_tasks(self, tasks: Tensor) -> Tensor:
        """(n,) -> (n, places)."""
        places = self._of_place.expand(len(tasks), *self._of_place.shape)
        about = tasks[:, None, None].expand(len(tasks), len(self._of_place), 1)
        bound = self.settings.bound
        wishes: Tensor = bound * torch.tanh(self.network(torch.cat([places, about], 2)).squeeze(2) / bound)
        return wishes - wishes.mean(1, keepdim=True)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """With the optimizer's state training goes on as it would have; without it the policy only answers."""
        self.network.load_state_dict(state["network"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # it keeps the tensors that it is given


def _network(inputs: int, hidden: int) -> nn.Sequential:
    last = nn.Linear(hidden, 1)
    nn.init.zeros_(last.weight)  # a new policy prefers nothing
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last)
