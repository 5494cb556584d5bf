"""`compress plan`: what a run would do, told without doing it."""

import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, compose_config
from torch import Tensor, nn

from compress.config.build import build
from compress.errors import InputError
from compress.graph.plan import Plan
from compress.preview.command import split
from compress.preview.network import Outlook, outlook
from compress.preview.seconds import estimated
from compress.preview.stages import planned_steps
from compress.preview.text import layer_table
from compress.prune.surgery import cut
from compress.run.job import Job, RunState


def job_of(*overrides: str) -> Job:
    return build(compose_config(*overrides))


def outlook_of(*overrides: str) -> Outlook:
    job = job_of(*overrides)
    return outlook(RunState(job, {}).problem(), job.method)


class Slow(nn.Module):
    """Takes 20 ms for every batch, whatever its size."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3)
        self.read = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(0.02)
        return self.read(self.conv(images).relu()).mean((2, 3))


def test_an_epoch_is_its_batches_times_the_seconds_of_one() -> None:
    own = ("model=custom", f"model._target_={Slow.__module__}.Slow")
    job = job_of("method=filter_magnitude", "device=cpu", *own, "pretrain.epochs=40", "pretrain.batch_size=64")
    steps = planned_steps(job, Path("no-cache"))
    times = estimated(job, steps, outlook(RunState(job, {}).problem(), job.method))
    found = times["pretrain"]
    assert found is not None
    assert (found.count, found.unit) == (40, "epoch")
    least = 0.02 * (len(job.data.split()["train"]) / 64)
    assert least < found.each < 6 * least
    assert found.seconds == pytest.approx(40 * found.each)


@pytest.mark.parametrize("method", ["sample", "sensitivity", "supernet", "slimming"])
def test_a_search_is_estimated_by_a_moment_of_it(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.preview.seconds.MOMENT", 0.0)  # a step is enough
    job = job_of(f"method={method}", "experiment=quick", "device=cpu", "model.width=8")
    steps = planned_steps(job, Path("no-cache"))
    times = estimated(job, steps, outlook(RunState(job, {}).problem(), job.method))
    units = {name: found.unit for name, found in times.items() if found is not None and found.count > 1}
    where, unit = {
        "sample": ("prune", "candidate"),
        "sensitivity": ("sparsify", "candidate"),
        "supernet": ("sparsify", "epoch"),
        "slimming": ("sparsify", "epoch"),
    }[method]
    assert units[where] == unit
    assert all(found is None or found.seconds >= 0 for found in times.values())


def test_layers_add_up_and_are_those_of_the_cut_network() -> None:
    ahead = outlook_of("method=filter_magnitude", "model.width=8", "preserve_ratio=0.4")
    layers, problem = ahead.layers(), ahead.problem
    assert len(layers) == len(problem.graph.layers) > 20
    assert sum(layer.macs[0] for layer in layers) + problem.cost.fixed_macs == problem.cost.full_macs
    assert ahead.alike is not None
    plan = Plan({g.name: range(int(w)) for g, w in zip(problem.graph, ahead.alike, strict=True)})
    small = cut(problem.model, problem.graph, plan)
    modules = dict(small.named_modules())
    for layer in layers:
        module = modules[layer.name]
        assert sum(parameter.numel() for parameter in module.parameters()) == layer.params[1]
        assert module.weight.shape[0] == layer.outputs[1]
    assert 0.35 < problem.cost.macs(plan) / problem.cost.full_macs <= 0.4


def test_what_the_budget_allows_of_a_group_is_what_some_plan_within_it_has() -> None:
    ahead = outlook_of("method=sample", "model.depth=8", "model.width=8", "preserve_ratio=0.5", "method.round_to=4")
    within = ahead.allowed
    assert within is not None
    genes = np.array(list(product(*(range(len(options)) for options in within.space.options))))
    widths = within.space.widths(genes[within.prices(genes) <= within.high])
    assert [high for _, high in ahead.reach] == widths.max(0).tolist()
    above = within.space.widths(genes[within.prices(genes) >= within.low])
    assert [low for low, _ in ahead.reach] == above.min(0).tolist()


def test_what_stays_whole_is_named_with_its_reason() -> None:
    text = layer_table(outlook_of("method=filter_magnitude", "method.skip=[layer1]", "model.width=8"), wide=False)
    assert "  linear: what it writes is the network's output" in text
    assert "  layer1.0.conv1: it is to keep everything" in text
    assert max(map(len, text.splitlines())) <= 80


def test_words_that_are_no_settings_are_told() -> None:
    assert split(["--layers", "method=camc", "--config-dir", "mine"]) == ({"--layers"}, "mine", ["method=camc"])
    for word, told in (("-m", "one run"), ("--layer", "there are --layers")):
        with pytest.raises(InputError, match=told):
            split([word])


def test_a_wrong_value_is_told_as_by_the_run(command: Command) -> None:
    done = command("plan", "preserve_ration=0.5")
    assert (done.returncode, done.stderr) == (
        2,
        "compress: unknown key preserve_ration; did you mean preserve_ratio?\n",
    )
