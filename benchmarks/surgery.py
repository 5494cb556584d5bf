"""Half of the channels of every torchvision classifier: this package beside torch-pruning, in one run.

    pip install -e ".[dev]" && python benchmarks/surgery.py                # all 80, about 15 minutes on one core
    python benchmarks/surgery.py --only resnet18 resnet50 --search resnet50

Every network and library has a process of its own, one thread, and a limit on time and memory; seconds are CPU
seconds. Both are given the uncut network and one image, and are to keep half of every group of channels:

    graph   which channels belong together: `channel_graph` here; the pruner's constructor there
    cut     the smaller network: `cut` here, which leaves the original as it was; `step` there, in place
    runs    it gives (1, classes), with fewer multiply-adds by fvcore
    trains  one SGD step in train mode, auxiliary heads included, reaches every parameter

`--search`: CPU milliseconds of one candidate of a search, masked here, copied, cut and counted there.
"""

import argparse
import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from own_process import limit, result_of
from tabulate import tabulate
from torch import nn
from torchvision import models

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.measure.macs import count_macs
from compress.models.resnet_cifar import resnet
from compress.prune.cost import cost_model
from compress.prune.surgery import Masks, cut

SECONDS, GIBIBYTES = 60, 14
FAMILIES = [
    "alexnet", "convnext", "densenet", "efficientnet_b", "efficientnet_v2", "googlenet", "inception", "maxvit",
    "mnasnet", "mobilenet_v2", "mobilenet_v3", "regnet_x", "regnet_y", "resnet", "resnext", "wide_resnet",
    "shufflenet", "squeezenet", "swin_v2", "swin", "vgg", "vit",
]  # fmt: skip


def network(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    torch.manual_seed(0)
    if name == "resnet56_cifar":
        return resnet(depth=56, width=16, shortcut="conv", in_channels=3, num_classes=10), (3, 32, 32)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    size = 299 if name == "inception_v3" else 224
    return models.get_model(name, weights=None, **options), (3, size, size)


def seconds(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def trains(model: nn.Module, shape: tuple[int, int, int]) -> bool:
    outputs = model.train()(torch.randn(2, *shape))
    heads = [head for head in outputs if head is not None] if isinstance(outputs, tuple) else [outputs]
    sum(nn.functional.cross_entropy(head, torch.tensor([0, 1])) for head in heads).backward()  # type: ignore[union-attr]
    return all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


# -- one network, one library ----------------------------------------------------------------------------------


def ours(model: nn.Module, shape: tuple[int, int, int]) -> tuple[nn.Module, float, float]:
    graph, finding = seconds(lambda: channel_graph(model, shape))
    half = Plan({group.name: range(max(1, group.width // 2)) for group in graph})
    small, cutting = seconds(lambda: cut(model, graph, half))
    return small, finding, cutting


def pruner_of(model: nn.Module, shape: tuple[int, int, int]) -> Any:
    import torch_pruning

    last = [m for m in model.modules() if getattr(m, "out_features", getattr(m, "out_channels", 0)) in (10, 1000)]
    return torch_pruning.pruner.MagnitudePruner(
        model,
        torch.randn(1, *shape),
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=last[-1:],
    )


def torch_pruning(model: nn.Module, shape: tuple[int, int, int]) -> tuple[nn.Module, float, float]:
    pruner, finding = seconds(lambda: pruner_of(model, shape))
    _, cutting = seconds(pruner.step)
    return model, finding, cutting


LIBRARIES = {"ours": ours, "torch-pruning": torch_pruning}


def measure(name: str, library: str) -> dict[str, Any]:
    model, shape = network(name)
    dense = count_macs(model, shape)
    small, finding, cutting = LIBRARIES[library](model, shape)
    result = {"graph": finding, "cut": cutting, "runs": False, "trains": False}
    with torch.no_grad():
        result["runs"] = tuple(small.eval()(torch.randn(1, *shape)).shape) == (1, 1000)
    result["macs"] = count_macs(small, shape) / dense
    result["runs"] &= result["macs"] < 1
    try:
        result["trains"] = bool(result["runs"]) and trains(small, shape)
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
    return result


def candidate(name: str, library: str) -> dict[str, Any]:
    """What a search pays for one plan before it can evaluate it; the mean, as some clocks tick every 4 ms."""
    model, shape = network(name)
    if library == "ours":
        graph = channel_graph(model, shape)
        prices, masks, random = cost_model(model, graph, shape), Masks(model, graph), torch.Generator().manual_seed(0)
        kept = {g.name: torch.randperm(g.width, generator=random)[: g.width // 2].sort().values for g in graph}

        def one() -> None:
            plan = Plan(kept)
            prices.macs(plan)
            with masks(plan):
                pass

    else:
        import torch_pruning as tp

        def one() -> None:
            small = copy.deepcopy(model)
            pruner_of(small, shape).step()
            tp.utils.count_ops_and_params(small, torch.randn(1, *shape))

    one()
    times = 200 if library == "ours" else 15
    _, spent = seconds(lambda: [one() for _ in range(times)])
    return {"milliseconds": 1000 * spent / times}


# -- all of them -----------------------------------------------------------------------------------------------


def in_a_process(*arguments: str) -> dict[str, Any]:
    return result_of(__file__, "--child", *arguments, seconds=6 * SECONDS, most=100)


def family(name: str) -> str:
    return max((prefix for prefix in FAMILIES if name.startswith(prefix)), key=len)


def families_table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    rows = []
    for one in dict.fromkeys(map(family, results)):
        mine = [result for name, result in results.items() if family(name) == one]
        rows.append([one, len(mine), *_columns(mine)])
    everything = list(results.values())
    shared = [r for r in everything if all(r[library].get("runs") for library in LIBRARIES)]
    rows.append(["**all**", len(everything), *_columns(everything)])
    rows.append(["**all that both run**", len(shared), *_columns(shared)])
    parts = ("run", "train", "MACs", "graph + cut, s")
    headers = ["", "nets", *(f"{library}: {part}" for library in LIBRARIES for part in parts)]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _columns(results: list[dict[str, dict[str, Any]]]) -> list[Any]:
    columns: list[Any] = []
    for library in LIBRARIES:
        mine = [result[library] for result in results]
        run = [result for result in mine if result.get("runs")]
        share = f"{statistics.median(result['macs'] for result in run):.2f}" if run else ""
        spent = [[result[part] for result in run] for part in ("graph", "cut")]
        times = " + ".join(f"{sum(part):.2f}" for part in spent) if run else ""
        columns += [len(run), sum(bool(result.get("trains")) for result in mine), share, times]
    return columns


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", help="names; without, all of torchvision's classifiers")
    parser.add_argument("--search", nargs="*", default=["resnet56_cifar", "mobilenet_v2", "resnet50"])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if arguments.child:
        what, name, library = arguments.child
        limit(2 * SECONDS, GIBIBYTES)
        print(json.dumps(measure(name, library) if what == "cut" else candidate(name, library)))
        return
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for name in arguments.only if arguments.only is not None else models.list_models(module=models):
        results[name] = {library: in_a_process("cut", name, library) for library in LIBRARIES}
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    if results:
        print(f"torch {torch.__version__}; MACs: median share left; CPU seconds, one thread, of those that run\n")
        print(families_table(results), end="\n\n")
        both = [r for r in results.values() if all(r[library].get("runs") for library in LIBRARIES)]
        total = {lib: sum(r[lib]["graph"] + r[lib]["cut"] for r in both) for lib in LIBRARIES}
        print(f"ours / torch-pruning on what both run: {total['ours'] / total['torch-pruning']:.3f}\n")
    rows = []
    for name in arguments.search:
        spent = [in_a_process("search", name, library)["milliseconds"] for library in LIBRARIES]
        rows.append([name, *(f"{one:.1f}" for one in spent), f"{spent[0] / spent[1]:.3f}"])
    print(tabulate(rows, ["one candidate, ms", *LIBRARIES, "ratio"], tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
