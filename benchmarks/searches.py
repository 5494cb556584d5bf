"""Searches beside each other: same networks, same scorer, equal numbers of evaluations, same recipe afterwards.

    python benchmarks/searches.py --out RUNS                                        # digits, resnet20: about an hour
    python benchmarks/searches.py --out RUNS --cifar10 DATA --checkpoint resnet20-12fca82f.th --images 1000
    python benchmarks/searches.py --out RUNS --model mobilenetv1 --epochs 0         # another network of the zoo

Every row is one command, a sweep over targets and seeds whose folders stay under RUNS; run again, it goes on from
there. A seed is another network where no checkpoint is given, other calibration images, and another search. All
methods of one seed score the same network on the same held-out images by the scorer `refit`, so that what one has
scored no other scores again; evaluations are counted all the same, repetitions of an agent too.

First table: held-out top-1 before fine-tuning, the best after so many evaluations, less that of uniform widths of the
same seed and target: mean ± sd over seeds. Of what stops by itself, its last. camc shares its evaluations between its
targets. Second table: what the policies answer themselves, also at targets that camc was not trained on. Third table:
test top-1 after fine-tuning of what each found, the uniform widths of the same MACs beside it (not with --epochs 0).
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spread import mean_and_spread
from tabulate import tabulate

SPACE = ["method.lbound=0.2", "method.round_to=4"]
SAMPLE = ["method=sample", "scorer=refit", *SPACE]
UNIFORM = "finetuned, uniform"  # the control's network in the results of a run
UNSEEN = (0.4, 0.6)  # targets between those that camc is trained on

Found = dict[tuple[float, int], Any]  # (target, seed) -> figure


def methods(options: argparse.Namespace) -> dict[str, list[str]]:
    """Overrides by the name of the row."""
    most, targets = max(options.evaluations), ",".join(map(str, options.targets))
    drawn = f"search.draws={most}"
    evolved = ["search=evolution", "search.population=30", f"search.generations={-(-(most - 30) // 14)}"]
    shared = [f"method.targets=[{targets}]", f"method.search.episodes={most * len(options.targets)}"]
    return {
        "sample": [*SAMPLE, drawn, *(["control=uniform"] if options.epochs else [])],
        "sensitivity, threshold": ["method=sensitivity", "scorer=refit", "method.rule=threshold", *SPACE],
        "sensitivity, greedy": ["method=sensitivity", "scorer=refit", "method.rule=greedy", *SPACE],
        "greedy": [*SAMPLE, "search=greedy"],
        "evolution": [*SAMPLE, *evolved],
        "evolution, critic": [*SAMPLE, *evolved, "search.critic=gp"],
        "amc, walls": ["method=amc", "method.agent_rule=walls", f"method.search.episodes={most}"],
        "amc, projected": ["method=amc", "method.agent_rule=projected", f"method.search.episodes={most}"],
        "amc, no critic": ["method=amc", "method.projected.critic=none", f"method.search.episodes={most}"],
        "camc, walls": ["method=camc", "method.agent_rule=walls", *shared],
        "camc, projected": ["method=camc", "method.agent_rule=projected", *shared],
    }


def searching(name: str) -> str:
    """The stages of a search."""
    return "sparsify,prune" if "amc" in name or "sensitivity" in name else "prune"


def images(name: str, count: int | None) -> list[str]:
    """Held-out images that score a candidate."""
    if count is None:
        return []
    return [f"method.reward_images={count}" if "amc" in name else f"scorer.score_images={count}"]


def run(name: str, overrides: Sequence[str], targets: Sequence[float], options: argparse.Namespace) -> Path:
    """The sweep of one row; returns its folder."""
    folder = options.out / (name.replace(", ", "-").replace(" ", "-") + ("" if options.epochs else "-search"))
    tuned = [f"finetune.epochs={options.epochs}"] if options.epochs else [f"stages=[pretrain,{searching(name)}]"]
    dataset = [f"model={options.model}"] if options.model else []
    if options.cifar10:
        dataset += ["dataset=cifar10", f"dataset.root={options.cifar10}"]
        if options.checkpoint:
            dataset += ["experiment=public_resnet", f"model.checkpoint={options.checkpoint}"]
    command = [
        sys.executable, "-m", "compress", "-m", *dataset, *overrides, *images(name, options.images),
        f"preserve_ratio={','.join(map(str, targets))}", f"seed={','.join(map(str, options.seeds))}",
        *tuned, "eval.latency_seconds=0.05", "plots=false", "tensorboard=false",
        f"threads={options.threads}", "device=cpu", f"outputs={options.out}/outputs", f"hydra.sweep.dir={folder}",
    ]  # fmt: skip
    print("$ compress", *command[3:], flush=True)
    if not options.report:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def runs(folder: Path) -> Iterator[tuple[tuple[float, int], Path, Any]]:
    for file in sorted(folder.glob("*/summary.json")):
        summary = json.loads(file.read_text())
        if summary["status"] == "done":
            yield (summary["config"]["preserve_ratio"], summary["config"]["seed"]), file.parent, summary


def evaluated(folder: Path, target: float) -> list[tuple[int, float]]:
    """Of a run every best so far, as the number of evaluations and the held-out top-1."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    episodes = [row for row in rows if "episode" in row]
    found = [(row["evaluations"], row["best_top1"]) for row in rows if row.get("best_top1") is not None]
    if not episodes and not found:  # a table of sensitivities, whose only candidate is the last
        own = json.loads((folder / "plan.json").read_text())["own"]
        return [(own["evaluations"], own["top1"])]
    if not episodes:
        return found
    best = 0.0
    for row in episodes:
        if row["target"] == target:
            best = max(best, row["accuracy"])
            found.append((row["episode"], best))
    return found


def best_after(found: Sequence[tuple[int, float]], evaluations: int) -> float | None:
    reached = [top1 for count, top1 in found if count <= evaluations]
    return max(reached) if reached else None


def uniform_top1(folder: Path) -> dict[str, float]:
    """Held-out top-1 of uniform widths and of the policy's own answer, as plan.json of amc or camc has them."""
    candidates = json.loads((folder / "plan.json").read_text())["own"]["candidates"]
    return {name: one["top1"] for name, one in candidates.items()}


def main(options: argparse.Namespace) -> None:
    folders = {}
    for name, overrides in methods(options).items():
        if not options.methods or name in options.methods:
            folders[name] = run(name, overrides, options.targets, options)
    uniform: Found = {}
    for name, folder in folders.items():  # the tables need a row of amc or camc, whose plan.json has uniform widths
        if "amc" in name:
            for at, path, _ in runs(folder):
                uniform[at] = uniform_top1(path)["uniform"]
    if not uniform:
        return
    print_searches(folders, uniform, options)
    print_policies({name: folder for name, folder in folders.items() if "amc" in name}, uniform, options)
    if options.epochs:
        print_tested(folders, options)


def print_searches(folders: dict[str, Path], uniform: Found, options: argparse.Namespace) -> None:
    table = []
    for name, folder in folders.items():
        gains: dict[tuple[float, int], list[float | None]] = defaultdict(list)
        counts, seconds = [], []
        for at, path, summary in runs(folder):
            if at not in uniform:
                continue
            share = len(options.targets) if name.startswith("camc") else 1
            found = evaluated(path, at[0])
            for mark in options.evaluations:
                best = best_after(found, mark * share)
                gains[at[0], mark].append(None if best is None else best - uniform[at])
            stages = [summary["stages"][stage] for stage in ("sparsify", "prune") if stage in summary["stages"]]
            counts.append(sum(stage.get("evaluations", 0) for stage in stages))
            seconds.append(sum(stage["seconds"] for stage in stages))
        cells = [
            mean_and_spread(gains[target, mark], "+") for target in options.targets for mark in options.evaluations
        ]
        table.append([name, *cells, f"{statistics.mean(counts):.0f}", f"{statistics.mean(seconds):.0f}"])
    heads = [f"{target:g}: {mark}" for target in options.targets for mark in options.evaluations]
    means = {t: statistics.mean(top1 for (at, _), top1 in uniform.items() if at == t) for t in options.targets}
    print("\nheld-out top-1 of uniform widths:", ", ".join(f"{t:g}: {mean:.2f} %" for t, mean in means.items()))
    print("gain over them, points, after evaluations:")
    print(tabulate(table, ["search", *heads, "distinct", "seconds"], tablefmt="github"))


def print_policies(folders: dict[str, Path], uniform: Found, options: argparse.Namespace) -> None:
    table = []
    for name, folder in folders.items():
        own: dict[float, list[float | None]] = defaultdict(list)
        for at, path, _ in runs(folder):
            own[at[0]].append(uniform_top1(path)["policy's"] - uniform[at])
        if name.startswith("camc"):
            searched = argparse.Namespace(**{**vars(options), "epochs": 0})
            extra = run(f"{name}, unseen", methods(options)[name], UNSEEN, searched)
            for at, path, _ in runs(extra):
                answers = uniform_top1(path)
                own[at[0]].append(answers["policy's"] - answers["uniform"])
        table.append([name, *(mean_and_spread(own[target], "+") for target in sorted({*options.targets, *UNSEEN}))])
    print("\nown answer of the policy, gain over uniform widths, points:")
    print(tabulate(table, ["agent", *map(str, sorted({*options.targets, *UNSEEN}))], tablefmt="github"))


def print_tested(folders: dict[str, Path], options: argparse.Namespace) -> None:
    table = []
    for name, folder in folders.items():
        tested: dict[tuple[str, float], list[float | None]] = defaultdict(list)
        for (target, _), _, summary in runs(folder):
            for network, figures in summary["results"].items():
                tested[network, target].append(figures["top1"])
        for network in ("finetuned", UNIFORM):
            cells = [mean_and_spread(tested[network, target]) for target in options.targets]
            if any(cells):
                table.append([name if network == "finetuned" else "uniform", *cells])
    print(f"\ntest top-1 after {options.epochs} epochs of fine-tuning, %:")
    print(tabulate(table, ["search", *map(str, options.targets)], tablefmt="github"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cifar10", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--model", help="a file of conf/model; else resnet20")
    parser.add_argument("--images", type=int, help="held-out images that score a candidate; else the defaults")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[100, 200, 400])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="*", help="rows; else all")
    parser.add_argument("--report", action="store_true", help="only the tables, of the runs that are there")
    main(parser.parse_args())
