"""Structured pruning to the same MACs, beside torch-pruning: same weights, images, data order, recipe and seeds.

    python benchmarks/structured.py --cifar10 DATA --checkpoint resnet56-4bfd9763.th --out RUNS --seeds 0 1 2

Each row is one fine-tuning through the same training loop; ours are runs of the command, whose folders stay under
RUNS. torch-pruning 1.6.1 cannot follow the zero-padded shortcuts of these networks (it cuts the residual stream into
shapes that do not fit), so it is told to leave that stream whole, as our `coupled: keep` does by default. Its ratio
is the smallest one, to three digits, that comes to the asked MACs; ours are then asked for what it achieved.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from hydra import compose, initialize_config_dir

from compress.config.build import build
from compress.config.compose import plain
from compress.config.resolvers import register_resolvers
from compress.io.paths import CONF
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import accuracy
from compress.measure.macs import count_macs
from compress.methods.slimming.slimming import Slimming
from compress.models.weights import load_strictly, read_checkpoint
from compress.run.job import Job
from compress.schema.settings import Recipe
from compress.train.loop import Training, train
from compress.train.objective import cross_entropy

SHARED = [
    "dataset=cifar10",
    "experiment=public_resnet",
    "model=resnet56",
    "finetune.lr=0.02",
    "finetune.warmup_epochs=0.1",
    "eval.latency_seconds=0.05",
    "device=cpu",
    "tensorboard=false",
    "plots=false",
]
# By the scales that the checkpoint has: no sparse training, which no other row has either; every layer alike, since
# such scales say little across layers.
AS_THEY_ARE = [
    "method=slimming",
    "stages=[pretrain,prune,finetune,eval]",
    "method.scope=layer",
    "method.coupled=keep",
]
OURS = {
    "filter_magnitude": ["method=filter_magnitude"],
    "filter_magnitude, refitted": ["method=filter_magnitude", "method.refit_images=3000"],
    "slimming": [*AS_THEY_ARE],
    "slimming, refitted": [*AS_THEY_ARE, "method.refit_images=3000"],
    # The term only on scales that may be cut, so strong that about as many of them die as have to go; then one
    # threshold takes the dead ones, wherever they are.
    "slimming, sparse-trained": ["method=slimming", "method.coupled=keep", "method.l1_on=unshared", "sparse"],
}
# As it is; with slimming's epochs added to its fine-tuning; with those epochs, less the L1 term, before it cuts; all
# layers in one pool.
THEIRS = ["torch-pruning L1", *(f"torch-pruning L1, {how}" for how in ("longer", "trained first", "pooled"))]


def job_of(overrides: list[str]) -> Job:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(plain(compose("config", overrides)))


def ours(overrides: list[str], folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "compress", *overrides, f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary["results"]


def dense_of(job: Job) -> torch.nn.Module:
    dense = job.model.without_pretrained().build()
    assert job.model.checkpoint is not None
    load_strictly(dense, read_checkpoint(Path(job.model.checkpoint)), "checkpoint")
    return dense


def pruned_by_torch_pruning(
    job: Job, dense: torch.nn.Module, share: float, pooled: bool = False, by: Any = None
) -> torch.nn.Module:
    """By its L1 importance or another one of its: every layer alike (its default), or in one pool."""
    limit = share * count_macs(dense, job.data.shape)
    low, high, best = 0, 999, dense
    while low < high:
        middle = (low + high) // 2
        network = copy.deepcopy(dense).eval()
        stream = [network.conv1, *(block.conv2 for block in network.modules() if hasattr(block, "conv2"))]
        torch_pruning.pruner.MagnitudePruner(
            network,
            torch.randn(1, *job.data.shape),
            importance=by or torch_pruning.importance.MagnitudeImportance(p=1),
            pruning_ratio=middle / 1000,
            global_pruning=pooled,
            ignored_layers=[network.linear, *stream],
        ).step()
        if count_macs(network, job.data.shape) <= limit:
            high, best = middle, network
        else:
            low = middle + 1
    return best


def trained(job: Job, network: torch.nn.Module, recipe: Recipe, stage: str) -> torch.nn.Module:
    """Through the loop that ours are trained by."""
    with tempfile.TemporaryDirectory() as folder:
        work = StageFolder(Path(folder))
        how = {"recipe": recipe, "objective": cross_entropy(recipe), "work": work}
        train(Training(model=network, data=job.data, **how, stage=stage, seed=job.seed, device=job.device))
    return network


def top1(job: Job, network: torch.nn.Module) -> float:
    return accuracy(network, job.data.ordered("test", 512, job.device)).top1


def rows(options: argparse.Namespace) -> Iterator[tuple[str, int, int, float, float | None]]:
    """Name, seed, MACs, top-1 after fine-tuning, and right after pruning."""
    sparse = [
        f"method.training.epochs={options.sparse_epochs}",
        f"method.training.lr={options.sparse_lr}",
        f"method.l1={options.l1}",
        "method.training.warmup_epochs=0.1",
    ]
    shared = [
        *SHARED,
        f"dataset.root={options.cifar10}",
        f"model.checkpoint={options.checkpoint}",
        f"threads={options.threads}",
        f"outputs={options.out}",
    ]
    for seed in options.seeds:
        base = [*shared, f"seed={seed}", f"finetune.epochs={options.epochs}"]
        longer = [*shared, f"seed={seed}", f"finetune.epochs={options.epochs + options.sparse_epochs}"]
        job = job_of([*base, "method=filter_magnitude"])
        macs = count_macs(pruned_by_torch_pruning(job, dense_of(job), options.share), job.data.shape)
        for name in options.rows:
            if name in THEIRS:
                dense, recipe = dense_of(job), job.finetune
                if name == "torch-pruning L1, trained first":
                    method = job_of([*base, "method=slimming", *sparse]).method
                    assert isinstance(method, Slimming)
                    trained(job, dense, method.training, "sparsify")
                elif name == "torch-pruning L1, longer":
                    recipe = job_of([*longer, "method=filter_magnitude"]).finetune
                network = pruned_by_torch_pruning(job, dense, options.share, pooled=name.endswith("pooled"))
                before = top1(job, network)
                after = top1(job, trained(job, network, recipe, "finetune"))
                yield name, seed, count_macs(network, job.data.shape), after, before
            else:
                asked = [part for word in OURS[name] for part in (sparse if word == "sparse" else [word])]
                folder = Path(options.out) / f"{name.replace(', ', '-')}-{seed}"
                results = ours([*base, *asked, f"flops_limit={macs / 1e6}"], folder)
                last = results["finetuned"]
                yield name, seed, last["macs"], last["top1"], results["pruned"]["top1"]


def main() -> None:
    names = [*THEIRS, *OURS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--out", required=True, help="run folders and cache")
    parser.add_argument("--share", type=float, default=1 / 2.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=1, help="of fine-tuning")
    parser.add_argument("--sparse-epochs", type=int, default=5, help="of slimming's sparse training")
    parser.add_argument("--sparse-lr", type=float, default=0.05)
    parser.add_argument("--l1", type=float, default=2.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, list[tuple[int, float, float | None]]] = defaultdict(list)
    for name, seed, macs, top1, before in rows(options):
        found[name].append((macs, top1, before))
        print(json.dumps({"row": name, "seed": seed, "macs": macs, "top1": top1, "pruned_top1": before}), flush=True)
    print("\n| row | MACs, M | pruned, top-1 | fine-tuned, top-1: mean, spread | seeds |\n|---|---|---|---|---|")
    for name, runs in found.items():
        tops = [top1 for _, top1, _ in runs]
        spread = statistics.stdev(tops) if len(tops) > 1 else 0.0
        before = statistics.mean(b for _, _, b in runs if b is not None)
        after = f"{statistics.mean(tops):.2f} ± {spread:.2f}"
        print(f"| {name} | {runs[0][0] / 1e6:.2f} | {before:.2f} | {after} | {len(tops)} |")


if __name__ == "__main__":
    main()
