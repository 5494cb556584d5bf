"""How well latencies are predicted, and what `latency_limit` gives.

    python benchmarks/latency.py predict --out OUT      # 20 unseen networks of each, in both runtimes
    python benchmarks/latency.py limit --out OUT        # three limits of each, met by `method=filter_magnitude`

`predict`: tables and fit as a run makes them, then 20 more networks at random widths are measured in turns with the
dense one: median and worst relative error, and those with what the machine did meanwhile taken out by the dense one.
`limit`: whole commands on the digits without training; the limits are shares of the dense network's time. One thread,
batch 1. Times are kept in OUT, so a second call measures no layer again. Run it on a machine that does nothing else.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import nn

import compress
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.measure.latency import interleaved
from compress.prune.cost import cost_model
from compress.prune.folding import foldable
from compress.prune.latency.prediction import drawn_widths, latency_model
from compress.prune.latency.runtime import Where, runnable
from compress.prune.surgery import cut

Shape = tuple[int, int, int]
NETWORKS: dict[str, tuple[str, Shape]] = {
    "resnet20": ("resnet20", (3, 32, 32)),
    "resnet56": ("resnet56", (3, 32, 32)),
    "mobilenetv2": ("mobilenet_v2", (3, 32, 32)),
    "resnet18": ("resnet18", (3, 224, 224)),
}
RUNTIMES = ("torch", "onnxruntime")
SHARES = (0.8, 0.65, 0.5)  # of the dense network's time
UNSEEN_SEED = 1  # of the random widths; the prediction is fitted and tried on those of seed 0


def network(name: str) -> tuple[nn.Module, Shape]:
    choice, shape = NETWORKS[name]
    return compress.zoo(choice, shape, 10).eval(), shape


def predicted(name: str, where: Where, options: argparse.Namespace) -> dict[str, Any]:
    model, shape = network(name)
    graph = channel_graph(model, shape)
    cost = cost_model(model, graph, shape)
    began = time.perf_counter()
    found = latency_model(model, graph, cost, shape, where, options.out / "cache", options.seconds)
    took = time.perf_counter() - began
    pairs = foldable(model, graph.tapes[0])
    unseen = drawn_widths(graph, options.plans, UNSEEN_SEED)
    passes: dict[str, Callable[[], object]] = {"dense": runnable(model, shape, where, pairs)}
    for number, widths in enumerate(unseen.tolist()):
        plan = Plan({group.name: range(width) for group, width in zip(graph, widths, strict=True)})
        passes[str(number)] = runnable(cut(model, graph, plan), shape, where, pairs)
    timed = interleaved(passes, where.device, seconds=options.seconds, threads=where.threads)
    dense, *measured = [latency.median_ms for latency in timed.values()]
    errors = np.abs(found.ms(unseen) / np.array(measured) - 1)
    corrected = np.abs(found.ms(unseen) / (np.array(measured) * found.dense_ms / dense) - 1)
    return {
        "network": name, "runtime": where.runtime, "dense_ms": found.dense_ms, "dense_now_ms": dense,
        "tried_median": found.median_error, "tried_worst": found.worst_error,
        "median": float(np.median(errors)), "worst": float(errors.max()),
        "corrected_median": float(np.median(corrected)), "corrected_worst": float(corrected.max()), "seconds": took,
    }  # fmt: skip


def limited(name: str, runtime: str, share: float, options: argparse.Namespace) -> dict[str, Any]:
    """One run of the command to a share of the dense network's time, which a first one tells."""
    dense = json.loads((options.out / f"dense-{name}-{runtime}.json").read_text())["dense_ms"]
    choice, shape = NETWORKS[name]
    command = [
        sys.executable, "-m", "compress", "method=filter_magnitude", "method.round_to=8", "method.min_channels=8",
        f"model={choice}", f"dataset.image_size={shape[1]}", f"latency_limit={share * dense:.5g}",
        f"latency.runtime={runtime}", "latency.accept=true", f"eval.latency_seconds={options.seconds}",
        "stages=[pretrain,prune,eval]", "pretrain.epochs=0", "threads=1", "device=cpu", "plots=false",
        "tensorboard=false", f"outputs={options.out}", f"hydra.run.dir={options.out}/{name}-{runtime}-{share}",
        *options.settings,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"network": name, "runtime": runtime, "share": share, "error": done.stderr.strip()[-300:]}
    summary = json.loads((options.out / f"{name}-{runtime}-{share}" / "summary.json").read_text())
    told = summary["budget"]["latency"]
    return {
        "network": name, "runtime": runtime, "share": share, "asked": told["asked_ms"],
        "predicted": told["predicted_ms"], "measured": told["measured_ms"],
        "tightened": told["tightened_to_ms"], "off": told["measured_ms"] / told["asked_ms"] - 1,
        "eval": summary["results"]["pruned"]["latency_ms"] / summary["results"]["dense"]["latency_ms"],
    }  # fmt: skip


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name in options.networks:
        for runtime in options.runtimes:
            where = Where(torch.device("cpu"), runtime, 1, 1)
            if options.what == "predict":
                yield predicted(name, where, options)
                continue
            model, shape = network_of_run(name)
            graph = channel_graph(model, shape)
            found = latency_model(
                model, graph, cost_model(model, graph, shape), shape, where, options.out / "cache", options.seconds
            )
            (options.out / f"dense-{name}-{runtime}.json").write_text(json.dumps({"dense_ms": found.dense_ms}))
            for share in options.shares:
                yield limited(name, runtime, share, options)


def network_of_run(name: str) -> tuple[nn.Module, Shape]:
    """As the command builds it for the digits, which have one channel."""
    choice, (_, height, width) = NETWORKS[name]
    shape = (1, height, width)
    return compress.zoo(choice, shape, 10).eval(), shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("predict", "limit"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES), choices=RUNTIMES)
    parser.add_argument("--plans", type=int, default=20, help="unseen networks")
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--seconds", type=float, default=0.3, help="of measuring each network")
    parser.add_argument("settings", nargs="*", help="of the command")
    options = parser.parse_args()
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found = []
    for row in rows(options):
        found.append(row)
        print(json.dumps(row), flush=True)
        (options.out / f"{options.what}.json").write_text(json.dumps({"machine": platform.platform(), "rows": found}))
    print(tabulate(found, headers="keys", floatfmt=".4f"))


if __name__ == "__main__":
    main()
