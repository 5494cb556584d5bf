"""A network on disk: how it is built, what was cut out of it, and its weights, in one safetensors file."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from compress.models.spec import ModelSpec, load_strictly, spec_from_json
from compress.prune.groups import channel_graph
from compress.prune.plan import Plan, plan_from_json
from compress.prune.surgery import cut
from compress.work import read_weights, write_weights


def save_network(path: Path, model: nn.Module, spec: ModelSpec, plan: Plan) -> None:
    write_weights(path, model.state_dict(), {"model": spec.to_json(), "plan": plan.to_json()})


def load_network(path: Path, fresh: Callable[[], nn.Module] | None = None) -> tuple[nn.Module, Plan]:
    """The network of a file that `save_network` wrote, in eval mode, and its plan.

    `fresh` makes the uncut network; without it the function of `compress.models` that the file names is called.

    Raises:
        InputError: not such a file, a network that only `fresh` can make, or weights that do not fit.
    """
    weights, header = read_weights(path)
    shape = tuple(header["model"]["shape"])
    make = fresh or spec_from_json(header["model"]).build
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn and thrown away; the caller's draws stay
        model = make()
    plan = plan_from_json(header["plan"])
    if plan.kept:
        model = cut(model, channel_graph(model, shape), plan)
    load_strictly(model, weights, str(path))
    return model.eval(), plan
