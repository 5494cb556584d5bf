"""The folder of a run: whether this run may write there, and quarantine of a damaged earlier run in it."""

import itertools
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from compress.io.files import JSON, hash_of, read_json
from compress.io.paths import AGENT, LOCK, METRICS, METRICS_TABLE, MODEL, ONNX, PLAN, SPLIT, SUMMARY, TRACKED
from compress.schema.settings import ADDED_LATER, OUTSIDE_RESULTS, of_results

log = logging.getLogger(__name__)

KEPT_IN_PLACE = (".hydra", LOCK, "compress.log")
# What a run's folder may contain before it has a summary.
RUN_FILES = (
    *KEPT_IN_PLACE, METRICS, METRICS_TABLE, TRACKED, PLAN, MODEL, AGENT, ONNX, SPLIT,
    "tb", "wandb", "plots", "controls", "steps", "damaged",
)  # fmt: skip


def config_hash(config: JSON) -> str:
    """Hash of all settings that can change a result, as written. (How many processes a launcher starts is not a
    setting; it is in the cache keys of stages.)

    Values in `ADDED_LATER` are left out, so that hashes from before those keys existed stay valid.
    """
    absent = {key for key, value in ADDED_LATER.items() if config.get(key) == value}
    left_out = {*OUTSIDE_RESULTS, *absent}
    return hash_of({key: of_results(value) for key, value in config.items() if key not in left_out})


def foreign_run(folder: Path, config: JSON, key: str, devices: int | None = None) -> list[str]:
    """Why this run must not write to `folder`, as error messages; none if it may.

    It must not if the folder holds other files than a run's, a run of another config, or a finished run with another
    number of devices (if `devices` is known). `key` is the setting by which another folder can be chosen.
    """
    if not os.path.lexists(folder / SUMMARY):
        others = sorted(name for name in _entries(folder) if name not in RUN_FILES and name[0] != ".")
        what = f"holds other things than a run ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''})"
        return [f"{folder}: {what}; choose another {key}"] if others else []
    try:
        before = read_json(folder / SUMMARY)
        same, old_settings = before["config_hash"] == config_hash(config), _flat(before["config"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []  # damaged: `put_run_aside` makes room before anything is written
    new_settings = _flat(config)
    changes = [
        f"{key}: {old_settings.get(key)} -> {new_settings.get(key)}"
        for key in {**old_settings, **new_settings}
        if old_settings.get(key) != new_settings.get(key)
    ]
    what = f"of another config ({'; '.join(changes[:4])})"
    if same and devices is not None and before.get("status") == "done" and before.get("devices", 1) != devices:
        same, what = False, f"that was trained on {before.get('devices', 1)} devices, not on {devices}"
    return [] if same else [f"{folder}: holds a run {what}; choose another {key}"]


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def put_run_aside(folder: Path) -> None:
    """Where the summary of an earlier run is damaged, move everything that the run left into a subfolder
    `damaged`."""
    try:
        summary = (
            read_json(folder / SUMMARY) if os.path.lexists(folder / SUMMARY) else {"config": {}, "config_hash": ""}
        )
        is_whole = isinstance(summary["config"], dict) and isinstance(summary["config_hash"], str)
    except (OSError, ValueError, TypeError, KeyError):
        is_whole = False
    if is_whole:
        return
    aside = next(path for n in itertools.count() if not os.path.lexists(path := folder / f"damaged{n or ''}"))
    aside.mkdir()
    for name in _entries(folder):
        if name not in (*KEPT_IN_PLACE, aside.name) and not name.startswith("damaged"):
            (folder / name).rename(aside / name)
    log.warning("%s: its %s is damaged; what it held is put aside as %s", folder, SUMMARY, aside.name)


def _flat(config: JSON, prefix: str = "") -> JSON:
    flat: JSON = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def unwritable(folders: Mapping[str, Path]) -> list[str]:
    """Create the folders that a run needs, given by the settings that name them; error messages if that fails.

    On failure no new folder is left behind.
    """
    created: list[Path] = []
    for key, folder in folders.items():
        missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            created += missing
        except OSError as error:
            for path in [*missing, *created]:  # a refused run leaves no folders
                with suppress(OSError):
                    path.rmdir()
            return [f"{key}: cannot make the folder {folder} ({error.strerror}); give {key}=<folder>"]
    return []
