"""The versions in the caches' keys go up when the same settings give another result.

`oracles/stages.json` holds what every stage leaves on a toy, and the version it was written at. A change that is
meant raises the version of that stage, and `python tests/test_stage_versions.py` writes the file anew.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from conftest import ORACLES, run_command

from compress.io.files import read_json
from compress.io.tensors import read_weights
from compress.run.stages import STAGES

GOLDEN = ORACLES / "stages.json"
TOY = (
    "dataset=digits", "model=resnet20", "model.depth=8", "model.width=4", "pretrain.epochs=1", "finetune.epochs=1",
    "threads=1", "device=cpu", "seed=3", "eval.latency_seconds=0.01", "tensorboard=false", "plots=false",
)  # fmt: skip
SHORT = ("method=amc", "preserve_ratio=0.7", "experiment=quick", "method.search.episodes=3")
RUNS = {
    "slimming": (
        "method=slimming",
        "percent=0.4",
        "method.training.epochs=1",
        "method.select=rank",
        "control=random",
    ),
    "magnitude": ("method=magnitude", "percent=0.5"),
    "amc": (*SHORT, "method.projected.draws=2"),
    "amc by walls": (*SHORT, "method.agent_rule=walls", "method.search.warmup=2"),
}
CHANGES = ("seconds", "threads", "key", "folder", "reused", "latency", "bytes")  # what another machine changes
SOME_IMAGES = 1.0  # percent of top-1
NEAR = 2e-3  # relative; kernels of another processor differ by far less after one epoch, other rules by far more


def figures(folder: Path) -> dict[str, Any]:
    """What a stage left: its files, the names of what it reports, and means of its weights."""
    found: dict[str, Any] = {
        "files": sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")),
        "reports": sorted(key for key in read_json(folder / "result.json") if key not in CHANGES),
    }
    if (folder / "model.safetensors").is_file():
        weights, _ = read_weights(folder / "model.safetensors")
        found["weights"] = {
            name: float(f"{float(tensor.double().abs().mean()):.6g}")
            for name, tensor in weights.items()
            if tensor.dim() > 1
        }
        found["shapes"] = {name: list(tensor.shape) for name, tensor in weights.items()}
    for network, row in read_json(folder / "result.json").get("results", {}).items():
        found[network] = {key: row[key] for key in ("macs", "params", "epochs")} | {"top1": float(row["top1"])}
    if (folder / "plan.json").is_file():
        found["plan"] = sorted(read_json(folder / "plan.json"))
    return found


def look(folder: Path, name: str) -> dict[str, Any]:
    done = run_command(folder, *TOY, *RUNS[name], f"hydra.run.dir={name.replace(' ', '_')}")
    assert done.returncode == 0, done.stderr
    stages = read_json(folder / name.replace(" ", "_") / "summary.json")["stages"]
    return {
        stage: figures(folder / row["folder"])
        for stage, row in stages.items()
        if not name.startswith("amc") or stage != "eval"
    }


def versions() -> dict[str, int]:
    return {name: stage.version for name, stage in STAGES.items()}


def near(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(near(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, float):
        return abs(found - wanted) <= NEAR * abs(wanted) + SOME_IMAGES * (wanted > 1)
    return bool(found == wanted)


def weights_are_comparable(name: str, stage: str) -> bool:
    """An agent's choices turn on single images: what follows them is told by its shape alone."""
    return not name.startswith("amc") or stage in ("pretrain", "sparsify")


@pytest.mark.parametrize("name", RUNS)
def test_another_result_raises_the_stages_version(name: str, tmp_path: Path) -> None:
    golden = read_json(GOLDEN)
    renew = f"python {Path(__file__).parent.name}/{Path(__file__).name}"
    assert golden["versions"] == versions(), f"a version went up: write the oracle anew with {renew}"
    found = look(tmp_path, name)
    assert found.keys() == golden[name].keys()
    for stage, wanted in golden[name].items():
        parts = wanted if weights_are_comparable(name, stage) else {k: wanted[k] for k in ("files", "reports")}
        differ = [part for part in parts if not near(found[stage].get(part), parts[part])]
        page = STAGES[stage.split()[0]].run.__module__
        assert not differ, (
            f"{stage} of {name} leaves other {differ}: raise this stage's version in {page}, then {renew}"
        )


if __name__ == "__main__":
    with TemporaryDirectory() as place:
        looked = {name: look(Path(place), name) for name in RUNS}
    GOLDEN.write_text(json.dumps({"versions": versions(), **looked}, indent=1) + "\n")
