"""One episode of AMC: this package beside the published code's arithmetic, on the same images, rows and strategies.

    python benchmarks/amc_episode.py                     # MobileNetV1 on digits at 32 px, trained here: some minutes
    python benchmarks/amc_episode.py --cifar10 ~/data --checkpoint mobilenetv1.safetensors
    python benchmarks/amc_episode.py --search 800        # and a whole search with the published rules
    python benchmarks/amc_episode.py --device cuda       # episodes per second, with the share of each part

One thread, CPU seconds; numpy's least squares take all cores unless OMP_NUM_THREADS=1 is set. The published
arithmetic is written down here as it reads, without its data loader and without the wrappers that it leaves on while
it validates:

    once       activations of 60 x 50 training images at 10 pixels per layer, inputs X and outputs Y, are kept
    fit        per layer and episode: lstsq(X[:, kept], Y), LAPACK's gelsd in single precision
    validate   5,000 images in batches of 50 through the dense network with zeros in it
    learn      15 updates of the agent: a list of transitions, Adam, target networks parameter by parameter
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F

from compress.agents.ddpg import DDPG, DDPGSettings, actor_network
from compress.agents.ddpg import Critic as CriticNetwork
from compress.agents.replay import Replay
from compress.data.cifar import cifar
from compress.data.digits import digits
from compress.graph.build import channel_graph
from compress.graph.types import ChannelGraph
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import Accuracy, accuracy
from compress.models.mobilenetv1 import mobilenetv1
from compress.models.weights import load_strictly, read_checkpoint
from compress.prune.cost import CostModel, cost_model
from compress.prune.order import channel_orders, plan_of
from compress.prune.refit import Reconstructor, input_moments, sampled_rows
from compress.prune.widths import all_choices
from compress.search.agent.action_bounds import PublishedBounds, bias_macs
from compress.search.agent.environment import ChannelEnv
from compress.search.agent.episodes import Search, SearchSettings
from compress.search.agent.observations import PublishedObserver
from compress.search.agent.rewards import acc
from compress.search.scorers.evaluate import HeldOutScore

CALIBRATION, VALIDATION, POINTS, SMALL_BATCH, STEPS = 3000, 5000, 10, 50, 15
AGENT = DDPGSettings(
    hidden=300, actor_lr=1e-4, critic_lr=1e-3, discount=1.0, tau=0.01, batch_size=64, baseline_rate=0.5
)
Batches = list[tuple[Tensor, Tensor]]


class Clock:
    """Seconds by part: of the CPU, or of the GPU's work too where there is one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def __call__(self, part: str, function: Callable[..., Any], *arguments: Any) -> Any:
        start = self.now()
        result = function(*arguments)
        self.seconds[part] = self.seconds.get(part, 0.0) + self.now() - start
        return result


# -- images and the network ------------------------------------------------------------------------------------


def shifted_digits(count: int, seed: int, part: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Digits at 32 px, moved by up to four pixels, with noise: (count, 1, 32, 32), (count,)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(part), (count,), generator=generator)
    dy, dx = torch.randint(9, (2, count), generator=generator)
    crops = F.pad(part, (4, 4, 4, 4)).unfold(2, 32, 1).unfold(3, 32, 1)
    images = crops[chosen, :, dy, dx]
    return images + 0.5 * torch.randn(images.shape, generator=generator), labels[chosen]


def of_digits() -> tuple[nn.Module, Batches, Batches]:
    data = digits(image_size=32, mean=[0.3053], std=[0.376], pad=0, flip=False, held_out=0.2, split_seed=0)
    parts = {}
    for name in ("train", "held_out"):
        batches = list(data.ordered(name, 2000, torch.device("cpu")))
        parts[name] = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    torch.manual_seed(0)
    model = mobilenetv1(width=1.0, stem_stride=2, in_channels=1, num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=4e-5)
    epochs = 4
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - epoch / epochs)
        x, y = shifted_digits(6000, epoch, *parts["train"])
        for images, labels in zip(x.split(64), y.split(64), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    cut_up = [shifted_digits(n, 100 + n, *parts[p]) for n, p in ((CALIBRATION, "train"), (VALIDATION, "held_out"))]
    calibration, validation = (list(zip(x.split(SMALL_BATCH), y.split(SMALL_BATCH), strict=True)) for x, y in cut_up)
    return model.eval(), calibration, validation


def of_cifar10(root: str, checkpoint: str) -> tuple[nn.Module, Batches, Batches]:
    data = cifar(
        classes=10, root=root, download=False, image_size=None, mean=[0.4914, 0.4822, 0.4465],
        std=[0.2470, 0.2435, 0.2616], pad=4, flip=True, held_out=0.1, split_seed=0,
    )  # fmt: skip
    model = mobilenetv1(width=1.0, stem_stride=2, in_channels=3, num_classes=10)
    load_strictly(model, read_checkpoint(Path(checkpoint)), checkpoint)
    cpu = torch.device("cpu")
    calibration = list(data.drawn("train", CALIBRATION, SMALL_BATCH, 0, cpu))
    return model.eval(), calibration, list(data.drawn("held_out", VALIDATION, SMALL_BATCH, 0, cpu))


# -- the published arithmetic ----------------------------------------------------------------------------------


class Published:
    """Least squares on kept activations, the dense network with zeros in it."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, calibration: Batches, validation: Batches) -> None:
        self.model, self.graph, self.validation = model, graph, validation
        self.orders = channel_orders(model, graph)
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}
        self.rows: dict[str, tuple[Any, Any]] = {}
        kept: dict[str, list[Tensor]] = {}
        generator = torch.Generator().manual_seed(0)

        def watch(name: str, layer: nn.Module) -> Any:
            def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                rows = sampled_rows(layer, inputs[0].detach(), POINTS, generator, repeats=True)
                assert rows is not None
                kept.setdefault(name, []).append(rows.clone())

            return layer.register_forward_pre_hook(keep)

        readers = [group.consumers[-1] for group in graph]
        hooks = [watch(name, model.get_submodule(name)) for name in readers]
        with torch.no_grad():
            for images, _ in calibration:
                model(images)
        for hook in hooks:
            hook.remove()
        for name, rows in kept.items():
            inputs = torch.cat(rows)
            outputs = inputs @ model.get_parameter(f"{name}.weight").detach().flatten(1).T
            self.rows[name] = inputs.numpy(), outputs.numpy()

    def fit(self, widths: tuple[int, ...]) -> None:
        self.model.load_state_dict(self.weights)
        for group, width in zip(self.graph, widths, strict=True):
            if width == group.width:
                continue
            name = group.consumers[-1]
            inputs, outputs = self.rows[name]
            kept = np.sort(self.orders[group.name][:width].numpy())
            solution, *_ = np.linalg.lstsq(inputs[:, kept], outputs, rcond=None)
            weight = self.model.get_parameter(f"{name}.weight")
            full = torch.zeros(weight.shape[0], weight.shape[1])
            full[:, kept] = torch.from_numpy(solution.T.copy())
            weight.data.copy_(full.view(weight.shape))

    def validate(self) -> Accuracy:
        return accuracy(self.model, self.validation)


class PublishedAgent:
    """DDPG as it reads: a list of transitions, stacked for every batch."""

    def __init__(self, state_size: int) -> None:
        made = [actor_network(state_size, 1, 300) for _ in range(2)]
        self.actor, self.actor_target = made
        self.critic, self.critic_target = (CriticNetwork(state_size, 1, 300) for _ in range(2))
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), 1e-4)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), 1e-3)
        self.memory: list[tuple[Any, ...]] = []

    def learn(self) -> None:
        for _ in range(STEPS):
            self._update()

    def _update(self) -> None:
        batch = random.sample(self.memory, 64)
        state, action, reward, following, end = (
            torch.tensor(np.stack([entry[at] for entry in batch]), dtype=torch.float32) for at in range(5)
        )
        with torch.no_grad():
            value = self.critic_target(following, self.actor_target(following))
            wanted = reward - reward.mean() + (1 - end) * value
        self.critic_optimizer.zero_grad()
        F.mse_loss(self.critic(state, action), wanted).backward()
        self.critic_optimizer.step()
        self.actor_optimizer.zero_grad()
        (-self.critic(state, self.actor(state)).mean()).backward()
        self.actor_optimizer.step()
        for target, learned in ((self.actor_target, self.actor), (self.critic_target, self.critic)):
            for old, new in zip(target.parameters(), learned.parameters(), strict=True):
                old.data.copy_(old.data * 0.99 + new.data * 0.01)


# -- side by side ----------------------------------------------------------------------------------------------


def transitions(size: int) -> list[tuple[Any, ...]]:
    """A full memory of made-up transitions: its size is what costs time."""
    draw = np.random.default_rng(0).random
    return [
        (
            draw(size).astype(np.float32), draw(1).astype(np.float32), draw(),
            draw(size).astype(np.float32), float(at % STEPS == STEPS - 1),
        )
        for at in range(100 * STEPS)
    ]  # fmt: skip


def strategies(graph: ChannelGraph, count: int) -> list[tuple[int, ...]]:
    """Shares drawn from U(0.35, 1), rounded to multiples of 8."""
    draw = np.random.default_rng(0).uniform
    return [tuple(8 * round(group.width * draw(0.35, 1) / 8) for group in graph) for _ in range(count)]


def side_by_side(model: nn.Module, calibration: Batches, validation: Batches, episodes: int) -> None:
    graph = channel_graph(model, tuple(validation[0][0].shape[1:]))  # type: ignore[arg-type]
    tried = strategies(graph, episodes)
    memory = transitions(10)
    clocks = {"published": Clock(torch.device("cpu")), "ours": Clock(torch.device("cpu"))}

    clock = clocks["ours"]
    orders = channel_orders(model, graph)
    generator = torch.Generator().manual_seed(0)
    moments = clock("once", input_moments, model, graph, (x for x, _ in calibration), POINTS, generator, True)
    maker = clock("once", Reconstructor, model, graph, moments, orders)
    full = {group.name: orders[group.name][: group.width - 1].sort().values for group in graph}
    clock("once", maker.weights, full)  # the factors
    joined = [torch.cat([pair[at] for pair in validation]) for at in (0, 1)]
    scores = HeldOutScore(model, graph, zip(joined[0].split(256), joined[1].split(256), strict=True))
    agent, replay = DDPG(10, 1, AGENT, 0), Replay(100 * STEPS, 10, 1)
    for state, action, reward, following, end in memory:
        replay.add(*(torch.from_numpy(x) for x in (state, action)), reward, torch.from_numpy(following), end, 0)

    def learn() -> None:
        draws = torch.Generator().manual_seed(0)
        for _ in range(STEPS):
            agent.update(replay.sample(64, draws))

    found: dict[str, list[Accuracy]] = {"published": [], "ours": []}
    for widths in tried:
        kept = {g.name: orders[g.name][:width].sort().values for g, width in zip(graph, widths, strict=True)}
        weights = clock("fit", maker.weights, kept)
        found["ours"].append(clock("validate", scores, plan_of(graph, orders, widths), weights))
        clock("learn", learn)

    clock = clocks["published"]
    published = clock("once", Published, model, graph, calibration, validation)
    old = PublishedAgent(10)
    old.memory = memory
    for widths in tried:
        clock("fit", published.fit, widths)
        found["published"].append(clock("validate", published.validate))
        clock("learn", old.learn)
    model.load_state_dict(published.weights)

    rows: list[list[Any]] = []
    for part in ("once", "fit", "validate", "learn"):
        of = {name: clock.seconds[part] / (1 if part == "once" else episodes) for name, clock in clocks.items()}
        rows.append([part, of["published"], of["ours"], of["published"] / of["ours"]])
    total = [sum(row[at] for row in rows[1:]) for at in (1, 2)]
    rows.append(["episode", *total, total[0] / total[1]])
    print(tabulate(rows, ["CPU seconds", "published", "ours", "ratio"], floatfmt=("", ".3f", ".3f", ".1f")))
    top1 = {name: [round(score.top1, 2) for score in scores] for name, scores in found.items()}
    images = sum(len(y) for _, y in validation)
    apart = max(abs(a - b) * images / 100 for a, b in zip(top1["published"], top1["ours"], strict=True))
    print(f"top-1 of {episodes} strategies: published {top1['published']}, ours {top1['ours']}")
    print(f"they differ by at most {apart:.0f} of {images} images")


# -- a whole search --------------------------------------------------------------------------------------------


def whole_search(model: nn.Module, calibration: Batches, validation: Batches, episodes: int, device: str) -> None:
    where = torch.device(device)
    model = model.to(where)
    shape: tuple[int, int, int] = tuple(validation[0][0].shape[1:])  # type: ignore[assignment]
    graph = channel_graph(model, shape)
    cost: CostModel = cost_model(model, graph, shape)
    clock = Clock(where)
    orders = channel_orders(model, graph)
    images = (x.to(where) for x, _ in calibration)
    generator = torch.Generator().manual_seed(0)
    moments = clock("once", input_moments, model, graph, images, POINTS, generator, True)
    maker = Reconstructor(model, graph, moments, orders)
    joined = [torch.cat([pair[at] for pair in validation]).to(where) for at in (0, 1)]
    scores = HeldOutScore(model, graph, zip(joined[0].split(256), joined[1].split(256), strict=True))
    seen: dict[tuple[int, ...], Accuracy] = {}

    def score(widths: tuple[int, ...]) -> Accuracy:
        if widths not in seen:
            kept = {g.name: orders[g.name][:width].sort().values for g, width in zip(graph, widths, strict=True)}
            weights = clock("fit", maker.weights, kept)
            seen[widths] = clock("validate", scores, plan_of(graph, orders, widths), weights)
        return seen[widths]

    bounds = PublishedBounds(cost, bias_macs(model, graph), lbound=0.2, rbound=1.0, round_to=8, mode="upper")
    state = PublishedObserver(model, graph, bounds, "none", [0.5], lbound=0.2)
    env = ChannelEnv(cost, all_choices(graph, 8, 0.2), state, bounds, score, acc)
    settings = SearchSettings(
        episodes=episodes, warmup=100, warmup_inclusive=True, warmup_sigma=None,
        sampling="cycle", sigma=0.5, sigma_decay=0.95,
        decay_per_target=True, replay_episodes=100, replay_per_target=True, replay_skips_first=True,
        baseline_per_target=True, store_action="raw", wall_first_episode=True, uniform_first=False,
    )  # fmt: skip
    search = Search(env, DDPG(10, 1, AGENT, 0), [0.5], settings, 0)
    start, wall = clock.now(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        best = search.run(StageFolder(Path(folder)))[0.5]
    total, wall = clock.now() - start, time.perf_counter() - wall
    parts = {name: f"{100 * spent / total:.0f} %" for name, spent in clock.seconds.items() if name != "once"}
    unit = "CPU seconds" if where.type == "cpu" else "seconds"
    print(
        f"{episodes} episodes, published rules, target 0.5: {total:.0f} {unit} ({wall:.0f} s of wall time), "
        f"{episodes / total:.2f} per second, calibration {clock.seconds['once']:.1f} s before; share of "
        f"{json.dumps(parts)}, the rest is the agent; {len(seen)} different strategies; best {best['top1']:.2f} % "
        f"at {best['ratio']:.4f} of the MACs"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", help="folder of the official files")
    parser.add_argument("--checkpoint", help="MobileNetV1 trained on them")
    parser.add_argument("--episodes", type=int, default=6, help="strategies side by side")
    parser.add_argument("--search", type=int, default=0, help="episodes of a whole search")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made = of_cifar10(options.cifar10, options.checkpoint) if options.cifar10 else of_digits()
    print(f"MobileNetV1, 32 px, dense top-1 {accuracy(made[0], made[2]).top1:.2f} % of {VALIDATION} images held out")
    if options.device == "cpu":
        side_by_side(*made, options.episodes)
    if options.search or options.device != "cpu":
        whole_search(*made, options.search or 200, options.device)


if __name__ == "__main__":
    main()
