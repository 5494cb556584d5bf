"""A supernet learns, is resumed, runs on several devices, and scores a candidate the same whenever it is asked."""

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, make_recipe
from test_skeleton import numbers
from torch import Tensor, nn
from torch.nn import functional as F

from compress.data.memory import MemoryData
from compress.distill.distill import Distill, WeightedTerm
from compress.distill.losses import kd
from compress.graph.build import channel_graph
from compress.io.files import JSON
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import accuracy
from compress.parallel import ddp
from compress.parallel.collectives import ALONE, Team
from compress.parallel.helper_processes import Crew
from compress.search.space import WidthSpace, multiples_space
from compress.search.supernet import rules
from compress.search.supernet.hypernetwork import Generated
from compress.search.supernet.skeleton import Skeleton
from compress.search.supernet.supernet import NARROWER, Supernet
from compress.search.supernet.weights import Shared
from compress.train.loop import Hooks, Training, train
from compress.train.objective import CrossEntropy, Objective, Outputs, Tapped, figures_of, outputs_of

SHAPE = (1, 8, 8)
UNSCORED = Hooks(score=lambda _: None, keep_best=False)


def supernet_of(model: nn.Module, kind: str = "shared") -> Supernet:
    skeleton = Skeleton(model, channel_graph(model, SHAPE))
    return Supernet(skeleton, Shared(model, skeleton) if kind == "shared" else Generated(model, skeleton, 8))


def fresh(kind: str = "shared", width: int = 8) -> Supernet:
    """Three convolutions with batch norm."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for c_in, c_out, stride in ((1, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)):
        layers += [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
    return supernet_of(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10)), kind)


def space_of(network: Supernet, multiple: int = 2) -> WidthSpace:
    return multiples_space(network.skeleton.crops.graph, multiple)


def fit(
    network: Supernet,
    data: MemoryData,
    folder: Path,
    rule: rules.Rule | None = None,
    objective: Objective | None = None,
    work: StageFolder | None = None,
    team: Team = ALONE,
    hooks: Hooks = UNSCORED,
    **changes: Any,
) -> JSON:
    folder.mkdir(exist_ok=True)
    recipe = make_recipe(**({"clip_norm": 5.0, "nesterov": False, "weight_decay": 1e-4} | changes))
    return train(
        Training(
            model=network,
            data=data,
            recipe=recipe,
            objective=objective or CrossEntropy(),
            work=work or StageFolder(folder),
            stage="sparsify",
            seed=3,
            device=CPU,
            hooks=rules.hooks(rule or rules.single(space_of(network), 3), hooks),
            team=team,
        )
    )


def images_of(data: MemoryData, count: int = 500) -> list[Tensor]:
    return [images for images, _ in data.drawn("train", count, 50, 0, CPU)]


# -- learning --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "width"), [("shared", 16), pytest.param("generated", 8, marks=pytest.mark.slow)])
def test_half_of_the_widths_and_all_of_them_learn_the_digits(
    kind: str, width: int, digit_data: MemoryData, tmp_path: Path
) -> None:
    """Some 200 steps, each of one drawn candidate."""
    network = fresh(kind, width)
    fit(network, digit_data, tmp_path, rules.single(space_of(network, 4), 3), epochs=12, lr=0.1)
    full, held_out = network.skeleton.crops.full_widths, list(digit_data.ordered("held_out", 512, CPU))
    top1 = {
        share: accuracy(network.calibrated([width // share for width in full], images_of(digit_data)), held_out).top1
        for share in (1, 2)
    }
    assert top1[1] > 50
    assert top1[2] > 60


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("kind", "how"), [("shared", "single"), ("generated", "sandwich")])
def test_a_resumed_training_equals_the_uninterrupted_one(
    kind: str, how: str, digit_data: MemoryData, tmp_path: Path
) -> None:
    def fitted(folder: str, work: StageFolder | None = None) -> Supernet:
        network = fresh(kind, width=4)
        rule = getattr(rules, how)(space_of(network), 5)
        objective = rules.Sandwich("mean") if how == "sandwich" else None
        fit(network, digit_data, tmp_path / folder, rule, objective, work, epochs=3, batch_size=256, lr=0.05)
        return network

    def die(row: Any) -> None:
        if row["epoch"] == 2:
            raise KilledError

    whole = fitted("whole")
    (tmp_path / "killed").mkdir()
    with pytest.raises(KilledError):
        fitted("killed", StageFolder(tmp_path / "killed", die))
    resumed = fitted("killed")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


class NoNorms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu().mean((2, 3)))  # type: ignore[no-any-return]


def _trains_along(meet: Any, data: MemoryData, folder: Path) -> None:
    group = meet(CPU)
    group.serve(lambda order, team: _trained(data, folder, team))
    group.leave()


def _trained(data: MemoryData, folder: Path, team: Team) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = supernet_of(NoNorms(), "generated")
    rule = rules.sandwich(space_of(network), 5)
    work = folder / str(team.rank)
    fit(network, data, work, rule, rules.Sandwich("mean"), team=team, epochs=2, batch_size=359)
    return network.state_dict()


@pytest.mark.slow
def test_two_devices_draw_the_same_and_train_the_weights_of_one(digit_data: MemoryData, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    alone = _trained(digit_data, tmp_path / "one", ALONE)
    with (
        Crew(2, CPU, 1, _trains_along, digit_data, tmp_path / "two") as crew,
        crew.guarded(),
        crew.together("train") as team,
    ):
        together = _trained(digit_data, tmp_path / "two", team)
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        assert float((together[name] - tensor).norm() / tensor.norm()) < 1e-5, name


# -- forward passes --------------------------------------------------------------------------------------------


def test_the_first_widths_answer_and_the_others_can_be_tapped(tiny: nn.Module) -> None:
    network, images = supernet_of(tiny).train(), torch.randn(8, *SHAPE)
    full = network.skeleton.crops.full_widths
    several = [full, tuple(width // 2 for width in full), (1,) * len(full)]
    alone = []
    for widths in several:
        network.use([widths])
        alone.append(network(images))
    assert not torch.equal(alone[0], alone[1])
    network.use(several)
    outputs = outputs_of(*Tapped(network, rules.Sandwich("sum"))(images))
    assert torch.equal(outputs.logits, alone[0])
    assert torch.equal(outputs.features[NARROWER], torch.stack(alone[1:]))
    network.eval()
    assert NARROWER not in outputs_of(*Tapped(network, rules.Sandwich("sum"))(images)).features


def test_a_copy_with_synchronised_norms_runs_the_widths_that_are_set(tiny: nn.Module) -> None:
    """DDP on GPUs calls such a copy, while hooks get the bare network."""
    network, images = supernet_of(tiny).eval(), torch.randn(8, *SHAPE)
    copied = ddp.with_sync_batch_norm(network)
    full = network.skeleton.crops.full_widths
    assert any(isinstance(module, nn.SyncBatchNorm) for module in copied.modules())
    for widths in (full, [width // 2 for width in full]):
        network.use([widths])
        assert torch.allclose(copied(images), network(images), atol=1e-5)


def test_widths_that_are_none_are_refused(tiny: nn.Module) -> None:
    network = supernet_of(tiny)
    for call in (lambda widths: network.use([widths]), lambda widths: network.calibrated(widths, [])):
        with pytest.raises(ValueError, match=r"width of conv1: must be in \[1, 8\], got 9"):
            call([9, *network.skeleton.crops.full_widths[1:]])


# -- scores ----------------------------------------------------------------------------------------------------


def few_widths(network: Supernet) -> Iterator[tuple[int, ...]]:
    random = np.random.default_rng(0)
    return (rules.drawn(space_of(network), random) for _ in range(4))


@pytest.mark.parametrize("kind", ["shared", "generated"])
def test_candidates_score_the_same_in_any_order_and_leave_the_network_as_it_was(
    kind: str, digit_data: MemoryData
) -> None:
    network, images = fresh(kind).train(), torch.randn(4, *SHAPE)
    network.skeleton.get_submodule("network.1").eval()
    network.use([(2,) * len(network.skeleton.crops.full_widths)])
    network(images)
    genes, calibration = list(few_widths(network)), images_of(digit_data, 150)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes, answer = [numbers(module) for module in network.modules()], network(images)
    forth = [network.calibrated(gene, calibration)(images) for gene in genes]
    candidates = [network.calibrated(gene, calibration) for gene in reversed(genes)]  # all before one is used
    back = [candidate(images) for candidate in candidates]
    for one, other in zip(forth, reversed(back), strict=True):
        assert torch.equal(one, other)
    assert len({tuple(logits.flatten().tolist()) for logits in forth}) == len(genes)
    assert torch.equal(network(images), answer)
    assert [numbers(module) for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(logits.requires_grad for logits in forth)


def test_statistics_are_means_over_the_batches() -> None:
    """By hand: of the convolution's outputs, mean and unbiased variance of each batch, then their means."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))
    network = supernet_of(model)
    batches = [torch.randn(size, *SHAPE) for size in (5, 7, 20)]
    with torch.no_grad():
        outputs = [F.conv2d(images, model[0].weight[:2], model[0].bias[:2]) for images in batches]
        candidate = network.calibrated([2], batches)
    mean = torch.stack([x.mean((0, 2, 3)) for x in outputs]).mean(0)
    var = torch.stack([x.var((0, 2, 3)) for x in outputs]).mean(0)
    with torch.no_grad():
        x = (outputs[0] - mean[:, None, None]) / (var + model[2].eps).sqrt()[:, None, None]
        expected = F.linear(x.flatten(1), model[4].weight[:, : 2 * 36], model[4].bias)
    assert torch.allclose(candidate.train()(batches[0]), expected, atol=1e-5)


def test_a_candidate_needs_images(tiny: nn.Module) -> None:
    network = supernet_of(tiny)
    with pytest.raises(ValueError, match="batches: must be one at least"):
        network.calibrated(network.skeleton.crops.full_widths, [])


def test_a_candidate_keeps_its_weights_and_training_goes_on_after_inference(tiny: nn.Module) -> None:
    network, images = supernet_of(tiny).train(), torch.randn(8, *SHAPE)
    half = [width // 2 for width in network.skeleton.crops.full_widths]
    with torch.inference_mode():
        candidate = network.calibrated(half, [images])
    before = candidate(images)
    network.use([half])
    network(images).sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    assert torch.equal(candidate(images), before)


# -- rules -----------------------------------------------------------------------------------------------------


def test_every_step_draws_anew_and_always_the_same(tiny: nn.Module) -> None:
    network = supernet_of(tiny)
    space = space_of(network)
    single, again, other = rules.single(space, 1), rules.single(space, 1), rules.single(space, 2)
    steps = [(epoch, step) for epoch in (1, 2) for step in range(5)]
    drawn = [single(*at) for at in steps]
    assert [again(*at) for at in reversed(steps)] == drawn[::-1]
    assert [other(*at) for at in steps] != drawn
    assert len({widths for (widths,) in drawn}) > 8
    for widths, narrowest, *two in (rules.sandwich(space, 1)(*at) for at in steps):
        assert widths == network.skeleton.crops.full_widths
        assert narrowest == tuple(allowed[0] for allowed in space.options)
        assert len(two) == 2
        assert two[0] != two[1]
        assert all(width in allowed for each in two for width, allowed in zip(each, space.options, strict=True))


def test_options_are_drawn_uniformly_by_index() -> None:
    """A width that two options share is drawn twice as often."""
    random = np.random.default_rng(0)
    space = WidthSpace(("narrow", "fixed"), [np.array([1, 1, 2]), np.array([5])], (0, 1))
    found = [rules.drawn(space, random) for _ in range(3000)]
    assert abs(found.count((1, 5)) / 3000 - 2 / 3) < 0.04
    assert set(found) == {(1, 5), (2, 5)}


@pytest.mark.parametrize(("reduction", "scale"), [("sum", 1.0), ("mean", 0.25)])
def test_the_sandwich_by_hand(reduction: rules.Reduction, scale: float) -> None:
    torch.manual_seed(0)
    widest, others = torch.randn(5, 3, requires_grad=True), torch.randn(3, 5, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1])
    terms = rules.Sandwich(reduction)(Outputs(widest, {NARROWER: others}), labels, torch.empty(0), 0.0)
    assert list(terms) == ["widest", "narrowest", "drawn_1", "drawn_2"]
    assert torch.allclose(terms["widest"], scale * F.cross_entropy(widest, labels))
    for name, logits in zip(list(terms)[1:], others, strict=True):
        by_hand = -(widest.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        assert torch.allclose(terms[name], scale * by_hand)
    sum(list(terms.values())[1:]).backward()  # type: ignore[union-attr]
    assert widest.grad is None  # a teacher is not taught
    assert others.grad is not None


def test_a_teacher_from_outside_teaches_the_widest_of_a_sandwich(tiny: nn.Module) -> None:
    """And changes nothing of what the widest tells the others."""
    torch.manual_seed(0)
    widest, others = torch.randn(5, 10), torch.randn(3, 5, 10)
    images, labels = torch.randn(5, 1, 8, 8), torch.arange(5)
    loss = partial(kd, temperature=4.0)
    distill = Distill(stages=["sparsify"], ce_weight=0.1, terms={"kd": WeightedTerm(weight=0.9, loss=loss)})
    of_run = distill.objective(make_recipe(), tiny, nn.Identity(), (1, 8, 8))
    outputs = Outputs(widest, {NARROWER: others})
    taught, alone = (
        rules.Sandwich("mean", of_widest)(outputs, labels, images, 0.0) for of_widest in (of_run, CrossEntropy())
    )
    assert list(taught) == ["widest", "kd", "narrowest", "drawn_1", "drawn_2"]
    assert torch.allclose(taught["widest"], 0.1 * alone["widest"])
    with torch.no_grad():
        assert torch.allclose(taught["kd"], 0.25 * 0.9 * loss(widest, tiny.eval()(images), labels))
    assert all(torch.equal(taught[name], alone[name]) for name in ("narrowest", "drawn_1", "drawn_2"))
    assert "teacher_agreement" in figures_of(taught)
    assert not figures_of(alone)


def test_other_hooks_of_a_training_stay(tiny: nn.Module) -> None:
    network = copy.deepcopy(supernet_of(tiny))
    given = Hooks(keep_best=False)
    both = rules.hooks(rules.single(space_of(network), 0), given)
    assert both.keep_best is False
    both.begin_step(network, 1, 0)
    assert network._chosen.widths == tuple(rules.single(space_of(network), 0)(1, 0))
