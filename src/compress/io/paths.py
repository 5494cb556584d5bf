"""Paths: the config tree, and the names of the files that a run writes."""

from pathlib import Path

_package = Path(__file__).resolve().parents[1]

# Inside the package if installed from a wheel, beside src/ in a checkout.
CONF = _package / "conf" if (_package / "conf" / "config.yaml").is_file() else _package.parents[1] / "conf"

SUMMARY = "summary.json"  # status, config, seconds per stage, results: what `compress compare` reads
METRICS = "metrics.jsonl"  # one row per epoch or episode: the source of every plot
METRICS_TABLE = "metrics.csv"  # the same rows, with tracker=csv
TRACKED = "tracker.json"  # what a tracker knows the run by when it goes on
PLAN = "plan.json"  # widths and kept channels per group, and the method's own form
MODEL = "model.safetensors"  # weights, and in the header what rebuilds the network
SUPERNET = "supernet.safetensors"  # of methods that train one: its weights
SENSITIVITY = "sensitivity.json"  # of the method: what the network scores with one group narrower, for all groups
AGENT = "agent.pt"  # of methods that search: the trained agent, which other runs can load
ONNX = "model.onnx"  # the same network for other runtimes, with eval.onnx=true
SPLIT = "split.json"  # which training images were held out
DEPENDS = "depends.json"  # of one stage: everything that its result depends on; its cache key is a hash of it
RESULT = "result.json"  # of one stage: what it reports
CACHE = "cache"  # under outputs: the folders of finished stages
LOCK = ".lock"  # of a run folder: locked while a process works in it
INDEX = ".summaries.json"  # of a folder of many runs: what their summaries say, for `compress compare`
PROGRESS = "progress.pt"  # of one stage while it runs: the state from which it resumes after a kill


def branch_folder(name: str) -> str:
    """Where a run folder has the plan and the network of a control, such as "random 1", or of a step, "step 1"."""
    return f"{'steps' if is_step(name) else 'controls'}/{name.replace(' ', '-')}"


def is_step(branch: str) -> bool:
    """Whether a branch of a run is a step of an iterative schedule, not a control."""
    return branch.startswith("step ")
