"""The file of an agent: the groups it decides about, the settings it was trained with, the state dicts of its
networks, the best outcome of the search for each target, and what its critic has seen (agent_rule=projected).

Tensors and numbers only, read with `weights_only=True`: a file from elsewhere cannot run code.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.agents.ddpg import DDPG, DDPGSettings
from compress.agents.preferences import PreferencePolicy, PreferenceSettings
from compress.errors import OWN, SettingError, first_line
from compress.graph.types import ChannelGraph
from compress.io.files import JSON
from compress.io.paths import AGENT
from compress.io.tensors import has_missing_or_nonfinite, read_state, state_digest, write_state
from compress.schema.check import shown
from compress.search.agent.observations import FEATURES

WALLS, PROJECTED = "walls", "projected"

# what reading a foreign or truncated file can raise
DAMAGED = (
    OSError,
    LookupError,
    RuntimeError,
    ValueError,
    EOFError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)


def agent_file(run: str) -> Path:
    return Path(run).expanduser() / AGENT


def write_agent(folder: Path, state: JSON, best: Mapping[float, JSON], graph: ChannelGraph, made_with: JSON) -> None:
    """`state` is that of the agent's rule, `best` the best outcome of the search by target (share of MACs)."""
    write_whole_agent(folder, {**state, "best": dict(best), "network": _network(graph), "made_with": made_with})


def write_whole_agent(folder: Path, content: JSON) -> None:
    write_state(folder / AGENT, {**content, "digest": state_digest(content)})


def read_agent(run: str, made_with: Mapping[str, Any], settings: DDPGSettings | PreferenceSettings) -> JSON:
    """The agent of another run, whose settings must equal `made_with`. `settings` are those of its networks, by which
    the rule is known too.

    Raises:
        InputError: the folder holds no intact agent, or one trained with other settings.
    """
    try:
        saved = read_state(agent_file(run))
        theirs = {"agent_rule": WALLS, **saved["made_with"]}  # files of older versions know no other rule
        content = {key: saved[key] for key in (*PARTS, *(("scored",) if theirs["agent_rule"] != WALLS else ()))}
        if "digest" in saved and saved["digest"] != state_digest(content):  # files of older versions have none
            raise ValueError("damaged")
        _check_content(content)
    except DAMAGED:
        raise SettingError(
            f"{OWN}agent={run}: holds no whole {AGENT}; give the folder of a finished run of amc or camc"
        ) from None
    rule = WALLS if isinstance(settings, DDPGSettings) else PROJECTED
    ours = {"agent_rule": rule} if theirs["agent_rule"] != rule else made_with
    wrong = [key for key, value in ours.items() if theirs.get(key) != value]
    if wrong:
        settings_of_agent = ", ".join(f"{OWN}{key}={shown(theirs.get(key))}" for key in wrong)
        raise SettingError(f"{OWN}agent={run}: was trained with {settings_of_agent}; set the same")
    try:
        load_agent(_probe(content, settings), content["agent"], run)
    except DAMAGED:
        raise SettingError(
            f"{OWN}agent={run}: its {AGENT} holds no agent of {settings.hidden} hidden units"
        ) from None
    return content


PARTS = ("made_with", "network", "agent", "best")


def _check_content(content: JSON) -> None:
    """
    Raises:
        ValueError and others of `DAMAGED`: something is missing, or no number that it can be.
    """
    dict(content["made_with"])
    network, best = content["network"], content["best"]
    if not all(isinstance(name, str) and type(width) is int for name, width in network):
        raise ValueError("no groups of channels")
    if not all(isinstance(outcome["widths"], list | tuple) for outcome in best.values()):
        raise ValueError("no outcomes")
    agent = content["agent"]
    learned = [agent["network"]] if "scored" in content else [agent[part] for part in DDPG.NETWORKS]
    if not all(content[part] for part in ("network", "agent", "best")) or has_missing_or_nonfinite(
        [network, *learned, best]
    ):
        raise ValueError("empty, or not finite")
    if "scored" in content:
        full_widths = [width for _, width in network]
        _check_scored(content["scored"], full_widths)
        _check_widths(torch.tensor([list(outcome["widths"]) for outcome in best.values()]), full_widths)


def _check_scored(scored: JSON, full_widths: list[int]) -> None:
    """Widths (n, groups) and accuracies (n,) in percent, n >= 1."""
    if not isinstance(scored, dict) or not all(isinstance(scored[key], Tensor) for key in ("widths", "accuracies")):
        raise ValueError("no tensors")
    widths, accuracies = scored["widths"], scored["accuracies"]
    if has_missing_or_nonfinite([widths, accuracies]):
        raise ValueError("empty, or not finite")
    _check_widths(widths, full_widths)
    if accuracies.shape != widths.shape[:1] or not bool(((accuracies >= 0) & (accuracies <= 100)).all()):
        raise ValueError("no accuracies")


def _check_widths(widths: Tensor, full_widths: list[int]) -> None:
    """(n, groups), each between 1 and that of the whole network."""
    full = torch.tensor(full_widths)
    if (
        widths.dtype != torch.int64
        or widths.shape[1:] != full.shape
        or not bool(((widths >= 1) & (widths <= full)).all())
    ):
        raise ValueError("no widths of these groups")


def _probe(content: JSON, settings: DDPGSettings | PreferenceSettings) -> DDPG | PreferencePolicy:
    """An agent of the shape that the file says it has."""
    if isinstance(settings, DDPGSettings):
        actor = content["agent"]["actor"]
        return DDPG(actor["0.weight"].shape[1], actor["4.weight"].shape[0], settings, 0)
    return PreferencePolicy(np.zeros((len(content["network"]), FEATURES)), settings, 0)


def load_agent(agent: DDPG | PreferencePolicy, state: JSON, source: str) -> None:
    """
    Raises:
        InputError: the networks in the file have other shapes.
    """
    try:
        agent.load_state_dict(state)
    except DAMAGED as error:
        raise SettingError(f"{source}: its agent does not fit ({shown(first_line(error))})") from None


def check_network(name: str, saved: JSON, graph: ChannelGraph) -> None:
    """
    Raises:
        InputError: the agent was trained for other channel groups.
    """
    theirs, ours = saved["network"], _network(graph)
    if theirs != ours:
        first = next((pair for pair in zip(theirs, ours, strict=False) if pair[0] != pair[1]), None)
        what = (
            f"{first[0][0]} of {first[0][1]} channels where this has {first[1][0]} of {first[1][1]}"
            if first is not None
            else f"{len(theirs)} groups of channels where this has {len(ours)}"
        )
        raise SettingError(f"{name}: its agent was trained on another network ({what})")


def _network(graph: ChannelGraph) -> list[list[str | int]]:
    return [[group.name, group.width] for group in graph]
