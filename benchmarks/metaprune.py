"""Supernets and searches by numbers: what a candidate costs, what its score is worth, what a search adds.

    python benchmarks/metaprune.py candidate          # each subcommand prints a table; --help lists its options
    python benchmarks/metaprune.py tau --out tau.json
    python benchmarks/metaprune.py tau --dataset cifar10 --root DATA --device cuda --out tau-cifar10.json

candidate  Seconds to score one candidate with generated weights. "As published" is the arithmetic of the code of Liu
           et al. 2019, arXiv:1903.10258: in every forward pass all weights are generated, then cropped; 100 batches
           for moving averages with momentum 0.1, then the validation batches. "Ours": generated once, without what
           would be cropped away; 20 batches for plain averages; the same validation batches. --scale divides all
           three numbers. Random images; a pass that is not measured comes first, as shapes new to oneDNN are slow.
           The ratio beside that of the forward passes alone tells what the generating takes. The second table: do
           both rank the genes of one trained supernet alike, as far as other calibration images would?
price      Seconds for the prices of random genes, and for 100 uniform draws at a tight limit: the least published of
           ResNet-50 and MobileNetV2, a tenth of resnet20's MACs; counted as the published search does.
step       A training step (forward, backward, SGD) of supernets beside the dense network. Both kinds of weights run
           the same drawn genes, in an order by which each is the first with half of them.
tau        Which score foretells the retrained network? Genes of nearly the same MACs are drawn, and each is trained
           from scratch several times. A row is Kendall's tau-b between a score and the mean test accuracy; the last
           rows are the yardstick: what some of the retrainings foretell of the others. A bootstrap over genes gives
           the sd (of "random": random orders). Supernets and the dense network are trained for as many forward
           passes. Every result goes into the file --out at once; run again, the command goes on from there.
search     Evolution beside uniform draws, at equal evaluations by the same scorer: the best held-out score per seed.

Seconds are of one CPU thread, user + system (of `tau` on a GPU: wall time), measured in turns (A-B-A-B): the median,
and from least to most.
"""

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from itertools import combinations, count, islice, permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F

from compress.config.zoo import zoo_spec
from compress.data.base import Batch, Data
from compress.data.cifar import cifar
from compress.data.digits import digits
from compress.graph.build import channel_graph
from compress.io.files import json_round_trip, read_json, write_json
from compress.io.seeds import derive_seed
from compress.measure.accuracy import Score, score_of
from compress.measure.macs import in_eval_mode
from compress.models.layers import initialise_convolutions
from compress.models.resnet_cifar import resnet
from compress.prune.cost import cost_model
from compress.prune.counters import Counter
from compress.prune.method import Problem
from compress.prune.surgery import cut
from compress.schema.settings import Budget
from compress.search.candidates import is_better
from compress.search.evolution import Evolution
from compress.search.feasible import Feasible, feasible
from compress.search.outcome import price_of
from compress.search.sample import Sample, different_genes
from compress.search.sampling import draw
from compress.search.scorers.recalibrate import Recalibration
from compress.search.scorers.refit import CalibrationSettings, Refit
from compress.search.scorers.scorer import Scorer, Widths
from compress.search.scorers.supernet import SupernetScorer, SupernetScoring, prefix_plan
from compress.search.space import shares_space
from compress.search.supernet.hypernetwork import Encoding, Generated, encodings
from compress.search.supernet.rules import Sandwich, sandwich, single
from compress.search.supernet.skeleton import Skeleton
from compress.search.supernet.supernet import Supernet
from compress.search.supernet.weights import Shared
from compress.train.objective import CrossEntropy, Objective, Tapped, outputs_of, total

# The defaults of conf/
SUPERNET = SupernetScoring(calibration_images=500, calibration_batch=50, score_images=5000)
RECALIBRATE = Recalibration(images=1000, batch_size=50, score_images=5000)
FLAGS = {"augmented": False, "repeats": False, "doubles_bias": False}
REFIT = Refit(calibration=CalibrationSettings(images=3000, batch_size=250, points=10, **FLAGS), score_images=5000)
OFFSPRING = {
    "select": 15, "parents": 10, "mutation": 6, "mutation_prob": 0.1, "crossover": 6, "random": 2,
    "critic": "none", "proposals": 32, "optimism": 0.5,
}  # fmt: skip
SIZES = {  # of `--dataset`, where no option says otherwise
    "digits": {"depth": 14, "batch": 50, "steps": 100, "forwards": 1600},
    "cifar10": {"depth": 20, "batch": 128, "steps": 500, "forwards": 2000},
}
NETWORKS = {"resnet50": 32, "mobilenetv2": 64, "resnet20": 32}  # published units of a hypernetwork
TIGHTEST = {
    "resnet50": Budget("flops_limit", 1000),
    "mobilenetv2": Budget("flops_limit", 44),
    "resnet20": Budget("preserve_ratio", 0.1),
}
RATE, CLIP, SGD = 0.1, 5.0, {"momentum": 0.9, "weight_decay": 1e-4}
BAND = 0.1  # how far below a limit genes are drawn
CPU = torch.device("cpu")

Pairs = Sequence[tuple[np.ndarray, np.ndarray]]


def in_turns(named: Mapping[str, Callable[[int], Any]], times: int) -> dict[str, list[float]]:
    """CPU seconds of each, called with the number of the turn."""
    taken: dict[str, list[float]] = {name: [] for name in named}
    for turn in range(times):
        for name, function in named.items():
            start = time.process_time()
            function(turn)
            taken[name].append(time.process_time() - start)
    return taken


def spread(values: Sequence[float], unit: float = 1.0) -> str:
    middle, low, high = (unit * of(values) for of in (statistics.median, min, max))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def show(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> None:
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True), end="\n\n", flush=True)


def head(options: argparse.Namespace) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    chips = [*named[:1], *([torch.cuda.get_device_name()] if options.device.startswith("cuda") else [])]
    packages = [f"{name} {version(name)}" for name in ("torch", "numpy", "compress-lab")]
    asked = [f"{key}={value}" for key, value in vars(options).items() if key not in ("run", "root", "out")]
    return f"{', '.join([*asked, f'Python {platform.python_version()}', *packages, *chips])}\n"


# -- networks and their trainings ------------------------------------------------------------------------------------


def problem_of(model: nn.Module, data: Any, budget: Budget, device: torch.device = CPU, seed: int = 0) -> Problem:
    """Of `data` nothing but the shape is read."""
    graph = channel_graph(model, data.shape)
    return Problem(model.to(device), graph, cost_model(model, graph, data.shape), data, budget, device, seed)


def published_problem(name: str, budget: Budget, **settings: Any) -> Problem:
    """A network of the paper, or resnet20 for images of 32 px, without images."""
    shape, classes = ((3, 32, 32), 10) if name == "resnet20" else ((3, 224, 224), 1000)
    model = zoo_spec(name, shape, classes, **settings).build(check_forward=False)
    return problem_of(model, SimpleNamespace(shape=shape), budget)


def within(problem: Problem, counter: Counter = "macs", band: float | None = BAND) -> Feasible:
    """What the budget allows of the published 31 shares."""
    space = shares_space(problem.model, problem.graph)
    return feasible(space, problem.ceilings(price_of(problem, counter)), band)


def widths_of(allowed: Feasible, genes: np.ndarray) -> list[Widths]:
    return [tuple(widths) for widths in allowed.space.widths(genes).tolist()]


def supernet_of(problem: Problem, kind: str, hidden: int = 32) -> Supernet:
    skeleton = Skeleton(problem.model, problem.graph)
    weights = Shared(problem.model, skeleton) if kind == "shared" else Generated(problem.model, skeleton, hidden)
    return Supernet(skeleton, weights).to(problem.device)


def fit(
    network: nn.Module,
    batches: Iterator[Batch],
    steps: int,
    prepare: Callable[[int], None] = lambda step: None,
    objective: Objective | None = None,
) -> None:
    """SGD with a cosine to 0, in place."""
    aim = objective or CrossEntropy()
    trained = Tapped(network, aim).train()
    optimizer = torch.optim.SGD(trained.parameters(), RATE, **SGD)
    for step, (images, labels) in enumerate(islice(batches, steps)):
        prepare(step)
        optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad(set_to_none=True)
        total(aim(outputs_of(*trained(images)), labels, images, 0.0)).backward()
        nn.utils.clip_grad_norm_(trained.parameters(), CLIP)
        optimizer.step()


@dataclass(frozen=True, eq=False)
class Bench:
    """A network of resnet20's family, an image set, genes of nearly the same MACs, and what is trained on them."""

    problem: Problem
    within: Feasible
    options: argparse.Namespace

    @cached_property
    def genes(self) -> list[Widths]:
        return widths_of(self.within, different_genes(self.within, self.options.genes, self.options.seed))

    def seed(self, *purpose: object) -> int:
        return derive_seed(self.options.seed, *purpose)

    def images(self, *purpose: object) -> Iterator[Batch]:
        """Augmented training images, epoch after epoch, in whole batches."""
        problem, size = self.problem, self.options.batch
        for epoch in count():
            batches = problem.data.shuffled(size, self.seed(*purpose, epoch), problem.device)
            yield from (batch for batch in batches if len(batch[1]) == size)

    def supernet(self, kind: str, rule: str) -> Supernet:
        """A step of `sandwich` has four forward passes."""
        torch.manual_seed(self.seed(kind))
        found, space, forwards = supernet_of(self.problem, kind), self.within.space, self.options.forwards
        draws = (single if rule == "single" else sandwich)(space, self.seed("widths"))
        steps, objective = (forwards, None) if rule == "single" else (max(1, forwards // 4), Sandwich("mean"))
        fit(found, self.images("supernet"), steps, lambda step: found.use(draws(1, step)), objective)
        return found

    @cached_property
    def dense(self) -> Problem:
        """Of the network trained alone."""
        network = fresh_resnet(self.options, self.problem.data, self.seed("dense")).to(self.problem.device)
        fit(network, self.images("dense"), self.options.forwards)
        return replace(self.problem, model=network.eval())

    def scorer(self, kind: str, rule: str = "") -> Scorer:
        """Trains the network that it scores by."""
        if kind in ("shared", "generated"):
            return SupernetScorer(self.problem, self.supernet(kind, rule), SUPERNET, remember=False)
        return (REFIT if kind == "refitted" else RECALIBRATE)(self.dense)

    def retrained(self, widths: Widths, number: int) -> Score:
        """The test score of new weights, trained at these widths."""
        problem, purpose = self.problem, ("retrain", widths, number)
        new = fresh_resnet(self.options, problem.data, self.seed(*purpose))
        small = cut(new, problem.graph, prefix_plan(problem, widths))
        initialise_convolutions(small)  # by the fan of the narrow layers
        fit(small.to(problem.device), self.images(*purpose), self.options.steps)
        return certain(score_of(small.eval(), list(problem.data.ordered("test", 1000, problem.device))))


def certain(score: Score | None) -> Score:
    assert score is not None
    return score


def fresh_resnet(options: argparse.Namespace, data: Data, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    kind = {"depth": options.depth, "width": 16, "shortcut": "conv"}
    return resnet(**kind, in_channels=data.shape[0], num_classes=data.classes)


def bench_of(options: argparse.Namespace) -> Bench:
    shared = {"image_size": None, "split_seed": 0}
    if options.dataset == "digits":
        data = digits(mean=[0.3053], std=[0.376], pad=1, flip=False, held_out=0.3, **shared)
    else:
        normal = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}
        source = {"classes": 10, "root": options.root, "download": False}
        data = cifar(pad=4, flip=True, held_out=0.1, **source, **normal, **shared)
    model, budget = fresh_resnet(options, data, options.seed), Budget("preserve_ratio", options.share)
    problem = problem_of(model, data, budget, torch.device(options.device), options.seed)
    return Bench(problem, within(problem), options)


# -- candidate -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def score_as_published(
    groups: Mapping[str, Encoding],
    net: Supernet,
    widths: Widths,
    calibration: Sequence[Tensor],
    held_out: list[Batch],
) -> Score:
    skeleton, crops = net.skeleton, net.skeleton.crops
    statistics_of_batches = skeleton.fresh_statistics(widths, calibration[0].device)
    norms = [skeleton.network.get_submodule(path) for path in skeleton.norms]

    def run(images: Tensor) -> Tensor:
        tensors = net.weights.shared.at(widths) | statistics_of_batches
        for key, network in net.weights.hypernetworks.items():
            name = key.replace("/", ".")
            shares = torch.tensor([widths[group] / crops.full_widths[group] for group in groups[name]])
            tensors[name] = crops(name, network(shares.to(images), network.shape[0]), widths)
        return skeleton.run(images, tensors, widths)

    for norm in norms:
        norm.momentum = 0.1
    with skeleton.measuring():
        for images in calibration:
            run(images)
    for norm in norms:
        norm.momentum = None
    with in_eval_mode(skeleton):
        return certain(score_of(run, held_out))


def published_scoring(problem: Problem) -> Callable[..., Score]:
    return partial(score_as_published, encodings(problem.model, problem.graph))


def score_as_ours(net: Supernet, widths: Widths, calibration: Sequence[Tensor], held_out: list[Batch]) -> Score:
    return certain(score_of(net.calibrated(widths, calibration), held_out))


def candidate_row(name: str, batch: int, options: argparse.Namespace) -> list[Any]:
    variant = {"variant": "paper"} if name == "mobilenetv2" else {}
    problem = published_problem(name, Budget("preserve_ratio", 0.5), **variant)
    net, allowed = supernet_of(problem, "generated", options.hidden or NETWORKS[name]), within(problem)
    genes = widths_of(allowed, different_genes(allowed, options.times, options.seed))
    images, as_published = torch.randn(batch, *problem.data.shape), published_scoring(problem)
    theirs, ours, last = (max(1, round(number / options.scale)) for number in (100, 20, options.validation))
    held_out = [(images, torch.zeros(batch, dtype=torch.int64))] * last
    ways = {
        "not measured": lambda turn: score_as_ours(net, genes[turn], [images], held_out[:1]),
        "published": lambda turn: as_published(net, genes[turn], [images] * theirs, held_out),
        "ours": lambda turn: score_as_ours(net, genes[turn], [images] * ours, held_out),
    }
    _, *taken = in_turns(ways, options.times).values()
    ratios = statistics.median(taken[0]) / statistics.median(taken[1]), (theirs + last) / (ours + last)
    counts = f"{theirs} + {last}, {ours} + {last}"
    return [name, batch, counts, *map(spread, taken), *(f"{ratio:.2f}" for ratio in ratios)]


def same_ranking(options: argparse.Namespace) -> None:
    bench = bench_of(options)
    net, data, genes = bench.supernet("generated", "single"), bench.problem.data, bench.genes
    held_out = list(data.ordered("held_out", 512, CPU))
    ways, scores = (("published", published_scoring(bench.problem), 100), ("ours", score_as_ours, 20)), {}
    for which in ("some calibration images", "others"):
        drawn = [data.drawn("train", 900, 50, bench.seed(which, number), CPU) for number in range(6)]
        images = [x for batches in drawn for x, _ in batches]  # the digits have only 943: they come again
        for way, function, batches in ways:
            scores[f"{way}, {which}"] = [function(net, gene, images[:batches], held_out) for gene in genes]
    rows = []
    for one, other in combinations(scores, 2):
        a, b = np.array(scores[one]), np.array(scores[other])  # (genes, 3): top-1, top-5, loss
        taus = [foretold([(a[:, column], b[:, column])])[0] for column in (0, 2)]
        rows.append([one, other, *(f"{tau:.3f}" for tau in taus), f"{np.abs(a - b)[:, 0].max():.2f}"])
    size = sum(len(labels) for _, labels in held_out)
    print(
        f"{len(genes)} genes at {options.share} of the MACs, {size} held-out images of {data.name}; Kendall's tau-b"
    )
    show(rows, ["score", "and", "by accuracy", "by loss", "largest difference of accuracy, points"])


def candidate(options: argparse.Namespace) -> None:
    rows = [candidate_row(name, batch, options) for name in options.networks for batch in options.images]
    headers = ["", "batch", "batches: published, ours", "as published, s", "ours, s", "ratio", "of forward passes"]
    show(rows, headers)
    if options.genes:
        same_ranking(options)


# -- price, step -----------------------------------------------------------------------------------------------------


def price(options: argparse.Namespace) -> None:
    rows, random = [], np.random.default_rng(options.seed)
    for name in options.networks:
        variant = {"variant": "seed"} if name == "mobilenetv2" else {}
        allowed = within(published_problem(name, TIGHTEST[name], **variant), "search", band=None)
        genes = allowed.space.random(options.genes, random)
        ways = {
            "prices": lambda turn, of=allowed.prices, genes=genes: of(genes),
            "draws": lambda turn, allowed=allowed: draw(allowed, 100, random),
        }
        prices, draws = in_turns(ways, options.times).values()
        each = f"{1e6 * statistics.median(prices) / options.genes:.2f}"
        rows.append([name, spread(prices), each, TIGHTEST[name], spread(draws)])
    show(rows, ["", f"{options.genes:,} prices, s", "of one, us", "limit", "100 draws, s"])


def stepping(network: nn.Module, batch: Batch) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.train().parameters(), 0.01, **SGD)

    def one() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(batch[0]), batch[1]).backward()
        optimizer.step()

    return one


def step(options: argparse.Namespace) -> None:
    problem = published_problem("resnet20", Budget("preserve_ratio", 0.5))
    allowed, random = within(problem), np.random.default_rng(options.seed)
    genes = widths_of(allowed, allowed.space.random(options.times, random))
    batch = torch.randn(options.batch, *problem.data.shape), torch.randint(10, (options.batch,))
    full = [tuple(group.width for group in problem.graph)] * len(genes)

    def of_supernet(kind: str, widths: Sequence[Widths]) -> Callable[[int], None]:
        net = supernet_of(problem, kind)
        run = stepping(net, batch)
        return lambda turn: (net.use([widths[turn]]), run())

    half, dense_step = len(genes) // 2, stepping(problem.model, batch)
    ways = {
        "dense": lambda turn: dense_step(),
        "shared, drawn widths": of_supernet("shared", genes),
        "generated, drawn widths": of_supernet("generated", [*genes[half:], *genes[:half]]),
        "shared, full width": of_supernet("shared", full),
    }
    for name in ("dense", "shared, full width"):  # not measured: shapes that come again
        ways[name](0)
    taken = in_turns(ways, options.times)
    dense = statistics.median(taken["dense"])
    rows = [[name, spread(each, 1000), f"{statistics.median(each) / dense:.2f}"] for name, each in taken.items()]
    share = float(np.mean(problem.cost.macs(genes))) / problem.cost.full_macs
    print(f"resnet20, 32 px, batch {options.batch}; drawn widths have {100 * share:.0f} % of the MACs on average")
    show(rows, ["a training step", "ms", "x dense"])


# -- tau -------------------------------------------------------------------------------------------------------------


def tau_b(one: np.ndarray, other: np.ndarray) -> float:
    """Kendall's, of the signs of all differences, two of (n, n); 0 where all are equal."""
    scale = math.sqrt((one * one).sum() * (other * other).sum())
    return float((one * other).sum() / scale) if scale else 0.0


def signs(values: np.ndarray) -> np.ndarray:
    return np.sign(values[:, None] - values).astype(float)


def foretold(pairs: Pairs, draws: int = 1000) -> tuple[float, float]:
    """The mean tau-b over pairs of (scores, what they foretell), and its sd over genes, by a bootstrap."""
    matrices, size = [(signs(one), signs(other)) for one, other in pairs], len(pairs[0][0])
    random, means = np.random.default_rng(0), []
    for chosen in [np.arange(size), *random.integers(0, size, (draws, size))]:
        at = np.ix_(chosen, chosen)
        means.append(np.mean([tau_b(one[at], other[at]) for one, other in matrices]))
    return float(means[0]), float(np.std(means[1:]))


def opened(path: Path, settings: Any) -> Any:
    """What a former run left in the file."""
    found = read_json(path) if path.exists() else {"settings": settings, "retrained": {}, "scores": {}}
    if found["settings"] != settings:
        raise SystemExit(f"{path}: made with other settings, {found['settings']}; name another file")
    return found


def scored(scorer: Scorer, genes: Sequence[Widths], device: torch.device) -> list[list[float]]:
    """Top-1, loss and seconds of every gene; the first one's have what is made once for all."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    rows = []
    for gene in genes:
        start = clock()
        score = certain(scorer.score(gene))
        rows.append([score.top1, score.loss, clock() - start])
    return rows


SCORERS = {
    **{f"{kind}, {rule}": (kind, rule) for kind in ("shared", "generated") for rule in ("single", "sandwich")},
    "dense, recalibrated": ("recalibrated",),
    "dense, refitted": ("refitted",),
}


def tau(options: argparse.Namespace) -> None:
    bench, path = bench_of(options), options.out
    others = ("run", "out", "root", "threads", "retrain")
    kept = opened(path, json_round_trip({key: value for key, value in vars(options).items() if key not in others}))
    genes = bench.genes
    kept["genes"] = [list(widths) for widths in genes]
    for number in range(options.retrain):
        for gene, widths in enumerate(genes):
            if f"{gene}, {number}" not in kept["retrained"]:
                score = bench.retrained(widths, number)
                kept["retrained"][f"{gene}, {number}"] = [score.top1, score.loss]
                write_json(path, kept)
    for name, kind in SCORERS.items():
        if name not in kept["scores"]:
            kept["scores"][name] = scored(bench.scorer(*kind), genes, bench.problem.device)
            write_json(path, kept)
    runs = [
        [kept["retrained"][f"{gene}, {number}"] for number in range(options.retrain)] for gene in range(len(genes))
    ]
    tau_table(bench, np.array(runs), {name: np.array(scores) for name, scores in kept["scores"].items()})


def retrainings(runs: np.ndarray, part: int) -> tuple[Pairs, Pairs]:
    """What any `part` retrainings, by their mean accuracy or loss, foretell of any other `part`."""
    orders = permutations(range(runs.shape[1]), 2 * part)
    parts = [(list(order[:part]), list(order[part:])) for order in orders]
    parts = [(one, other) for one, other in parts if one == sorted(one) and other == sorted(other)]
    top1, loss = (lambda at, column=column: runs[:, at, column].mean(1) for column in (0, 1))
    by_accuracy = [(top1(one), top1(other)) for one, other in parts]
    return by_accuracy, [(-loss(one), top1(other)) for one, other in parts]


def tau_table(bench: Bench, runs: np.ndarray, scores: Mapping[str, np.ndarray]) -> None:
    """`runs` (genes, retrainings, 2) and `scores` (genes, 3) begin with top-1 and loss."""
    truth, genes, cost = runs[:, :, 0].mean(1), np.array(bench.genes), bench.problem.cost

    def cells(*columns: Pairs) -> list[str]:
        return [f"{value:.2f} ± {sd:.2f}" for value, sd in map(foretold, columns)] + ["-"] * (2 - len(columns))

    def missed(first: int) -> str:
        return f"{truth.max() - truth[first]:.1f}"

    rows = []
    for name, (top1, loss, seconds) in ((name, found.T) for name, found in scores.items()):
        first = int(np.lexsort((loss, -top1))[0])
        taken = f"{statistics.median(seconds):.3f}"
        rows.append([name, *cells([(top1, truth)], [(-loss, truth)]), missed(first), taken])
    for name, sizes in (("MACs", cost.macs(genes)), ("parameters", cost.params(genes))):
        rows.append([name, *cells([(sizes, truth)]), missed(int(sizes.argmax())), "0"])
    random = np.random.default_rng(0)
    by_chance = np.std([tau_b(signs(random.permutation(len(truth))), signs(truth)) for _ in range(1000)])
    rows.append(["random", f"0 ± {by_chance:.2f}", "-", f"{truth.max() - truth.mean():.1f}", "0"])
    parts = {"half of the retrainings, of the rest": runs.shape[1] // 2, "one retraining, of another": 1}
    for name, part in parts.items():
        if 0 < part <= runs.shape[1] // 2:
            rows.append([name, *cells(*retrainings(runs, part)), "-", "-"])
    noise = runs[:, :, 0].std(1, ddof=1).mean() if runs.shape[1] > 1 else math.nan
    print(
        f"{len(truth)} genes, {runs.shape[1]} retrainings each: test accuracy, means of genes {spread(truth)}, ",
        end="",
    )
    print(f"sd over genes {truth.std():.1f}, over retrainings of a gene {noise:.1f}")
    show(rows, ["score", "tau by accuracy", "tau by loss", "its first below the best, points", "s per gene"])


# -- search ----------------------------------------------------------------------------------------------------------


def search_table(name: str, scorer: Scorer, bench: Bench) -> None:
    options, best, rows = bench.options, [], []
    evolution = Evolution(generations=options.generations, population=options.population, **OFFSPRING)
    for number in range(options.seeds):
        seed = bench.seed("search", number)
        evolved = evolution(bench.within, scorer, seed, 1)
        drawn = Sample(draws=evolved.evaluations)(bench.within, scorer, seed, 1)
        best.append((evolved.best[0], drawn.best[0]))
        told = [f"{one.score.top1:.2f}, {one.score.loss:.3f}" for one in best[-1]]
        rows.append([number, told[0], evolved.evaluations, told[1], drawn.evaluations])
    scores = np.array([[one.score for one in pair] for pair in best])  # (seeds, 2, 3): top-1, top-5, loss
    means, sds = scores.mean(0), scores.std(0, ddof=int(len(best) > 1))
    told = [f"{mean[0]:.2f} ± {sd[0]:.2f}, {mean[2]:.3f} ± {sd[2]:.3f}" for mean, sd in zip(means, sds, strict=True)]
    rows.append(["mean ± sd", told[0], "", told[1], ""])
    ahead, behind = (
        sum(f(is_better(a), is_better(b)) for a, b in best) for f in (lambda a, b: a < b, lambda a, b: a > b)
    )
    print(f"{name}: evolution ahead in {ahead} of {len(best)}, behind in {behind} (ties of accuracy by loss)")
    show(rows, ["seed", "evolution: best top-1, loss", "evaluations", "sample: best top-1, loss", "evaluations"])


def search(options: argparse.Namespace) -> None:
    bench = bench_of(options)
    search_table("supernet of shared weights", bench.scorer("shared", "single"), bench)
    search_table("dense network, recalibrated", bench.scorer("recalibrated"), bench)


# -- the command -----------------------------------------------------------------------------------------------------


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    made = {}
    for run in (candidate, price, step, tau, search):
        made[run] = one = commands.add_parser(run.__name__)
        one.set_defaults(run=run, device="cpu")
        one.add_argument("--threads", type=int, default=1)
        one.add_argument("--seed", type=int, default=0)
    for run in (candidate, tau, search):
        made[run].set_defaults(dataset="digits", root="data", genes=0)
        made[run].add_argument("--share", type=float, default=0.1, help="of the MACs; up to a tenth less")
        made[run].add_argument("--depth", type=int, help="of the family of resnet20")
        made[run].add_argument("--batch", type=int)
        made[run].add_argument("--forwards", type=int, help="forward passes of a batch that train a supernet")
    for run in (tau, search):
        made[run].add_argument("--dataset", choices=SIZES, help="also gives the defaults of the sizes; see SIZES")
        made[run].add_argument("--root", help="folder of CIFAR-10")
        made[run].add_argument("--device")
    for run, times in ((candidate, 3), (price, 5), (step, 20)):
        made[run].add_argument("--times", type=int, default=times)
    for run in (candidate, price):
        made[run].add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    for run, genes in ((candidate, 20), (price, 100_000), (tau, 20)):
        made[run].add_argument("--genes", type=int, default=genes)
    made[candidate].add_argument("--images", type=int, nargs="+", default=[16], help="in a batch; a row each")
    made[candidate].add_argument("--scale", type=float, default=10.0)
    made[candidate].add_argument("--validation", type=int, default=50, help="batches; published: 50")
    made[candidate].add_argument("--hidden", type=int, help="units of a hypernetwork; else the published ones")
    made[step].add_argument("--batch", type=int, default=128)
    made[tau].add_argument("--retrain", type=int, default=4, help="how often each gene")
    made[tau].add_argument("--steps", type=int, help="of a retraining")
    made[tau].add_argument("--out", type=Path, required=True)
    made[search].add_argument("--seeds", type=int, default=8)
    made[search].add_argument("--population", type=int, default=30)
    made[search].add_argument("--generations", type=int, default=5)
    options = parser.parse_args()
    for name, size in SIZES.get(getattr(options, "dataset", ""), {}).items():
        if getattr(options, name, 0) is None:
            setattr(options, name, size)
    return options


if __name__ == "__main__":
    options = parsed()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    print(head(options), flush=True)
    options.run(options)
