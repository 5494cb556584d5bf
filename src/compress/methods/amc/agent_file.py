"""The file of an agent: the groups it decides about, the settings it was trained with, the state dicts of its
networks, and the best outcome of the search for each target.

Tensors and numbers only, read with `weights_only=True`: a file from elsewhere cannot run code.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.agents.ddpg import DDPG, DDPGSettings
from compress.errors import OWN, SettingError, first_line
from compress.graph.types import ChannelGraph
from compress.io.files import JSON
from compress.io.paths import AGENT
from compress.io.tensors import has_missing_or_nonfinite, read_state, state_digest, write_state
from compress.schema.check import shown

# what reading a foreign or truncated file can raise
DAMAGED = (OSError, KeyError, RuntimeError, ValueError, EOFError, TypeError, AttributeError, pickle.UnpicklingError)


def agent_file(run: str) -> Path:
    return Path(run).expanduser() / AGENT


def write_agent(folder: Path, agent: DDPG, best: Mapping[float, JSON], graph: ChannelGraph, made_with: JSON) -> None:
    """`best` is the best outcome of the search by target (share of MACs)."""
    content = {"agent": agent.state_dict(), "best": dict(best), "network": _network(graph), "made_with": made_with}
    write_whole_agent(folder, content)


def write_whole_agent(folder: Path, content: JSON) -> None:
    write_state(folder / AGENT, {**content, "digest": state_digest(content)})


def read_agent(run: str, made_with: Mapping[str, Any], settings: DDPGSettings) -> JSON:
    """The agent of another run, whose settings must equal `made_with`.

    Raises:
        InputError: the folder holds no intact agent, or one trained with other settings.
    """
    try:
        saved = read_state(agent_file(run))
        content = {key: saved[key] for key in ("made_with", "network", "agent", "best")}
        theirs = dict(content["made_with"])
        if "digest" in saved and saved["digest"] != state_digest(content):  # files of older versions have none
            raise ValueError("damaged")
        if not all(isinstance(name, str) and type(width) is int for name, width in content["network"]):
            raise ValueError("no groups of channels")
        if not all(isinstance(outcome["widths"], list | tuple) for outcome in content["best"].values()):
            raise ValueError("no outcomes")
        if not all(content[part] for part in ("network", "agent", "best")) or has_missing_or_nonfinite(
            [content["network"], *(content["agent"][part] for part in DDPG.NETWORKS), content["best"]]
        ):
            raise ValueError("empty, or not finite")
    except DAMAGED:
        raise SettingError(
            f"{OWN}agent={run}: holds no whole {AGENT}; give the folder of a finished run of amc or camc"
        ) from None
    wrong = [key for key, value in made_with.items() if theirs.get(key) != value]
    if wrong:
        settings_of_agent = ", ".join(f"{OWN}{key}={shown(theirs.get(key))}" for key in wrong)
        raise SettingError(f"{OWN}agent={run}: was trained with {settings_of_agent}; set the same")
    try:
        actor = content["agent"]["actor"]
        load_agent(DDPG(actor["0.weight"].shape[1], actor["4.weight"].shape[0], settings, 0), content, run)
    except (*DAMAGED, IndexError):
        raise SettingError(
            f"{OWN}agent={run}: its {AGENT} holds no agent of {settings.hidden} hidden units"
        ) from None
    return content


def load_agent(agent: DDPG, saved: JSON, source: str) -> None:
    """
    Raises:
        InputError: the networks in the file have other shapes.
    """
    try:
        agent.load_state_dict(saved["agent"])
    except (*DAMAGED, IndexError) as error:
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
