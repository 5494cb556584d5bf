"""What a training does, step by step: by hand in float64, and on images that are written down.

The learning rate's schedules, resuming and clear ends are in test_train.py.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, make_recipe
from torch import Tensor, nn

from compress.data.base import Batch
from compress.data.digits import digits
from compress.data.memory import MemoryData
from compress.io.stage_folder import StageFolder
from compress.models.masks import MASK, set_masks
from compress.schema.settings import Recipe
from compress.train.loop import Hooks, Training, train
from compress.train.objective import cross_entropy
from compress.train.optimizer import SGD

CLASSES, PIXELS = 3, 4


class Scripted:
    """The same batches in every epoch; held-out images that follow one another, and no test images."""

    name, classes, shape = "scripted", CLASSES, (1, 1, PIXELS)

    def __init__(self, batches: Sequence[Batch], held_out: Iterable[Batch]) -> None:
        self.batches, self.held_out = batches, iter(held_out)
        self.seeds: list[int] = []

    def fingerprint(self) -> str:
        return self.name

    def split(self) -> dict[str, Tensor]:
        return {"train": torch.arange(sum(len(labels) for _, labels in self.batches))}

    def shuffled(self, batch_size: int, seed: int, device: torch.device) -> Iterator[Batch]:
        self.seeds.append(seed)
        yield from self.batches

    def ordered(self, part: str, batch_size: int, device: torch.device) -> Iterator[Batch]:
        assert part == "held_out", f"a training that reads the {part} images"
        yield next(self.held_out)

    def drawn(self, part: str, *_: Any) -> Iterator[Batch]:
        raise AssertionError(f"a training that draws {part} images")


def drawn_batches(*sizes: int) -> list[Batch]:
    random = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 1, 1, PIXELS, dtype=torch.float64, generator=random),
            torch.randint(CLASSES, (size,), generator=random),
        )
        for size in sizes
    ]


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, CLASSES)).double()


def held_out_scores(*right: int) -> list[Batch]:
    """Four black images an epoch, so many of them labelled with what `black_is_0` says of black."""
    black = torch.zeros(4, 1, 1, PIXELS, dtype=torch.float64)
    return [(black, torch.tensor([0] * count + [1] * (4 - count))) for count in right]


def black_is_0() -> nn.Sequential:
    """Its bias stays, so that black images are class 0 however it is trained."""
    model = linear()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([2.0, 0.0, 0.0]))
    model[1].bias.requires_grad_(False)
    return model


def run(model: nn.Module, data: Any, recipe: Recipe, folder: Path, **more: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"stage": "pretrain", "seed": 3, "device": CPU, "work": StageFolder(folder)} | more
    settings = {"objective": cross_entropy(recipe)} | settings
    return train(Training(model=model, data=data, recipe=recipe, **settings))


def by_hand(
    model: nn.Sequential, batches: Sequence[Batch], recipe: Recipe, rates: Sequence[float], added: float
) -> list[Tensor]:
    """Weight and bias after one step per batch: softmax regression without autograd and without an optimizer."""
    weight, bias = (tensor.detach().clone() for tensor in model[1].parameters())
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for (images, labels), rate in zip(batches, rates, strict=True):
        x = images.flatten(1)
        exponentials = (x @ weight.T + bias).exp()
        wanted = torch.full((len(labels), CLASSES), recipe.label_smoothing / CLASSES, dtype=torch.float64)
        wanted[torch.arange(len(labels)), labels] += 1 - recipe.label_smoothing
        error = (exponentials / exponentials.sum(1, keepdim=True) - wanted) / len(labels)
        gradients = [error.T @ x, error.sum(0)]
        if recipe.clip_norm is not None:
            norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
            gradients = [gradient * min(1.0, recipe.clip_norm / norm) for gradient in gradients]
        for at, (parameter, gradient) in enumerate(zip((weight, bias), gradients, strict=True)):
            gradient = gradient + added + recipe.weight_decay * parameter
            velocity[at] = recipe.momentum * velocity[at] + gradient
            step = gradient + recipe.momentum * velocity[at] if recipe.nesterov else velocity[at]
            parameter -= rate * step
    return [weight, bias]


@pytest.mark.parametrize(
    "changes",
    [
        {"nesterov": False, "weight_decay": 0.0},
        {"nesterov": True, "weight_decay": 0.0},
        {"nesterov": False, "weight_decay": 0.3},
        {"nesterov": True, "weight_decay": 0.3, "label_smoothing": 0.3},
        {"nesterov": False, "momentum": 0.0, "weight_decay": 0.0, "label_smoothing": 0.6},
        {"nesterov": True, "weight_decay": 0.3, "label_smoothing": 0.1, "clip_norm": 0.2},
    ],
    ids=str,
)
def test_two_epochs_of_two_steps_by_hand(changes: dict[str, Any], tmp_path: Path) -> None:
    recipe = make_recipe(epochs=2, batch_size=6, lr=0.4, **changes)
    model, batches = linear(), drawn_batches(6, 5)
    rates = [0.2 * (1 + math.cos(math.pi * done)) for done in (1 / 8, 3 / 8, 5 / 8, 7 / 8)]  # in the middle of a step
    expected = by_hand(model, [*batches, *batches], recipe, rates, added=0.05)

    def add(trained: nn.Module) -> None:
        for parameter in trained.parameters():
            parameter.grad += 0.05  # what clipping must not scale

    run(model, Scripted(batches, held_out_scores(0, 0)), recipe, tmp_path, hooks=Hooks(on_gradient=add))
    for got, wanted in zip(model[1].parameters(), expected, strict=True):
        assert torch.allclose(got, wanted, rtol=0, atol=1e-6)


def test_the_row_of_an_epoch_is_a_mean_over_images(tmp_path: Path) -> None:
    """At a rate of nearly nothing, all that was seen while training is what the first weights say."""
    model, batches, rows = black_is_0(), drawn_batches(6, 3), list[Any]()
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    logits = model(images).detach()
    expected = float(nn.functional.cross_entropy(logits, labels))
    right = 100 * float((logits.argmax(1) == labels).double().mean())
    recipe = make_recipe(epochs=1, batch_size=6, lr=1e-12)
    run(model, Scripted(batches, held_out_scores(1)), recipe, tmp_path, work=StageFolder(tmp_path, rows.append))
    assert rows[0]["loss"] == pytest.approx(expected, abs=1e-6)
    assert rows[0]["train_top1"] == pytest.approx(right, abs=1e-4)
    assert rows[0]["held_out_top1"] == 25


def test_a_last_batch_of_one_image_is_left_out(tmp_path: Path) -> None:
    one, other = linear(), linear()
    recipe = make_recipe(epochs=1, batch_size=6, schedule="constant")
    run(one, Scripted(drawn_batches(6, 1), held_out_scores(0)), recipe, tmp_path / "one")
    run(other, Scripted(drawn_batches(6), held_out_scores(0)), recipe, tmp_path / "other")
    assert torch.equal(one[1].weight, other[1].weight)


# -- last and best ---------------------------------------------------------------------------------------------


def trained(folder: Path, *right: int, **changes: Any) -> tuple[nn.Sequential, dict[str, Any], list[Tensor]]:
    """The model, what is reported, and its weights after every epoch; so many of 4 held-out images are right."""
    model, after = black_is_0(), list[Tensor]()

    def look(trained: nn.Module) -> dict[str, Any]:
        after.append(trained.get_parameter("1.weight").detach().clone())
        return {}

    recipe = make_recipe(epochs=len(right), batch_size=6, lr=0.1, **changes)
    data = Scripted(drawn_batches(6, 6), held_out_scores(*right))
    return model, run(model, data, recipe, folder, hooks=Hooks(row=look)), after


def test_the_last_weights_stay_and_the_best_come_beside_them(tmp_path: Path) -> None:
    model, result, after = trained(tmp_path, 1, 3, 2, 2)
    assert (result["held_out_top1"], result["best_held_out_top1"], result["best_epoch"]) == (50, 75, 2)
    assert result["epochs"] == 4
    assert torch.equal(result["best_weights"]["1.weight"], after[1])
    assert torch.equal(model[1].weight, after[3])
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(after))


def test_of_equally_good_epochs_the_first_is_the_best(tmp_path: Path) -> None:
    assert trained(tmp_path, 1, 3, 3, 2)[1]["best_epoch"] == 2


def test_held_out_images_say_which_epoch_was_best_and_change_nothing_else(tmp_path: Path) -> None:
    one, other = (trained(tmp_path / name, *right) for name, right in (("a", (4, 0, 0)), ("b", (0, 0, 4))))
    assert (one[1]["best_epoch"], other[1]["best_epoch"]) == (1, 3)
    assert torch.equal(one[0][1].weight, other[0][1].weight)


def test_training_stops_after_so_many_epochs_without_a_better_one(tmp_path: Path) -> None:
    _, result, after = trained(tmp_path, 1, 3, 3, 2, 4, early_stop_epochs=2)
    assert result["epochs"] == len(after) == 4
    assert (result["held_out_top1"], result["best_held_out_top1"]) == (50, 75)


# -- what differs from epoch to epoch --------------------------------------------------------------------------


class Watching(nn.Module):
    """Notes what it is shown while training, its mode in between, and what dropout leaves of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.dropout = nn.Linear(64, 10), nn.Dropout(0.5)
        self.images: list[Tensor] = []
        self.kept: list[Tensor] = []
        self.held_out_modes: set[bool] = set()
        self.is_training_now = False

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            assert self.training
            self.images.append(x.detach().clone())
            self.kept.append(self.dropout(torch.ones(32)))
        else:
            self.held_out_modes.add(self.training or self.dropout.training)
        return self.head(x.flatten(1))


Epochs = list[list[Tensor]]


def watched(folder: Path, **more: Any) -> tuple[Epochs, Epochs]:
    """Images in order, and what dropout drew, of each of three epochs."""
    data = digits(image_size=None, mean=[0.0], std=[1.0], pad=1, flip=False, held_out=0.8, split_seed=0)
    model, images, kept = Watching().eval(), Epochs(), Epochs()  # as files and searches leave networks

    def row(_: nn.Module) -> dict[str, Any]:
        images.append(model.images)
        kept.append(model.kept)
        model.images, model.kept = [], []
        return {}

    run(model, data, make_recipe(epochs=3, lr=1e-6), folder, hooks=Hooks(row=row), **more)
    assert model.held_out_modes == {False}
    return images, kept


def as_sets(epochs: Epochs) -> list[set[bytes]]:
    return [{image.numpy().tobytes() for batch in epoch for image in batch} for epoch in epochs]


def same(one: Epochs, other: Epochs) -> bool:
    return all(torch.equal(torch.cat(a), torch.cat(b)) for a, b in zip(one, other, strict=True))


def test_every_epoch_has_an_order_crops_and_dropout_of_its_own(tmp_path: Path) -> None:
    images, kept = watched(tmp_path)
    assert [sum(map(len, epoch)) for epoch in images] == [269] * 3  # of which 13 are the last batch
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(torch.cat(images[a]), torch.cat(images[b]))
        assert not torch.equal(kept[a][0], kept[b][0])
    first, second, third = as_sets(images)
    assert 0.5 < len(first - second) / len(first) < 1  # of 9 crops one is the same by chance
    assert 0.5 < len(second - third) / len(second) < 1


def test_the_seed_and_the_stage_decide_what_an_epoch_is(tmp_path: Path) -> None:
    images, kept = watched(tmp_path / "a")
    again, kept_again = watched(tmp_path / "b")
    assert same(images, again)
    assert same(kept, kept_again)
    for name, change in (("c", {"seed": 4}), ("d", {"stage": "finetune"})):
        others, kept_otherwise = watched(tmp_path / name, **change)
        assert not same(images, others)
        assert not same(kept, kept_otherwise)


def test_without_shifts_an_epoch_is_the_training_images_each_once(digit_data: MemoryData, tmp_path: Path) -> None:
    data = digits(image_size=None, mean=[0.3053], std=[0.376], pad=0, flip=False, held_out=0.2, split_seed=0)
    model = Watching()
    run(model, data, make_recipe(epochs=1, batch_size=100), tmp_path)
    (seen,) = as_sets([model.images])
    (wanted,) = as_sets([[x for x, _ in digit_data.ordered("train", 100, CPU)]])
    assert seen == wanted
    assert sum(map(len, model.images)) == len(digit_data.split()["train"])


# -- masks -----------------------------------------------------------------------------------------------------


def test_a_weight_that_is_masked_on_the_way_stays_zero_against_its_momentum(tmp_path: Path) -> None:
    model, mask = linear(), torch.ones(CLASSES, PIXELS, dtype=torch.bool)
    mask[0, :2] = False
    seen: list[bool] = []

    def begin(trained: nn.Module, epoch: int) -> None:
        if epoch == 2:
            set_masks(trained, {"1": mask})

    def on_gradient(trained: nn.Module) -> None:
        if MASK in dict(trained[1].named_buffers()):  # type: ignore[index]
            seen.append(bool((trained.get_parameter("1.weight")[~mask] == 0).all()))

    recipe = make_recipe(epochs=3, batch_size=6, lr=0.4)
    hooks = Hooks(begin_epoch=begin, on_gradient=on_gradient)
    run(model, Scripted(drawn_batches(6, 6), held_out_scores(0, 0, 0)), recipe, tmp_path, hooks=hooks)
    assert seen == [True] * 4
    assert bool((model[1].weight[~mask] == 0).all())
    assert bool((model[1].weight[mask] != 0).all())


def test_masks_that_a_step_lays_on_stay_too(tmp_path: Path) -> None:
    model, mask = linear(), torch.ones(CLASSES, PIXELS, dtype=torch.bool)
    mask[0, :2] = False

    def begin(trained: nn.Module, epoch: int, step: int) -> None:
        if step == 1:
            set_masks(trained, {"1": mask})

    recipe = make_recipe(epochs=1, batch_size=6, lr=0.4)
    data = Scripted(drawn_batches(6, 6, 6), held_out_scores(0))
    run(model, data, recipe, tmp_path, hooks=Hooks(begin_step=begin))
    assert bool((model[1].weight[~mask] == 0).all())
    assert bool((model[1].weight[mask] != 0).all())


# -- resumed ---------------------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


def test_a_resumed_training_still_knows_its_best_epoch(tmp_path: Path) -> None:
    def killed_in(epoch: int) -> Callable[[Any], None]:
        def on_row(row: Any) -> None:
            if row["epoch"] == epoch:
                raise KilledError

        return on_row

    model, recipe = black_is_0(), make_recipe(epochs=4, batch_size=6, lr=0.1)
    data = Scripted(drawn_batches(6, 6), held_out_scores(1, 3, 2))
    with pytest.raises(KilledError):
        run(model, data, recipe, tmp_path, work=StageFolder(tmp_path, killed_in(3)))
    again = Scripted(drawn_batches(6, 6), held_out_scores(2, 2))
    result = run(black_is_0(), again, recipe, tmp_path, work=StageFolder(tmp_path))
    assert (result["best_epoch"], result["best_held_out_top1"], result["held_out_top1"]) == (2, 75, 50)
    whole = run(black_is_0(), Scripted(drawn_batches(6, 6), held_out_scores(1, 3, 2, 2)), recipe, tmp_path / "whole")
    assert torch.equal(result["best_weights"]["1.weight"], whole["best_weights"]["1.weight"])


@pytest.mark.parametrize("fused", [False, True], ids=["many", "fused"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_optimizer_steps_as_torchs_does_to_the_bit(momentum: float, fused: bool) -> None:
    """From the fourth step on, from what torch's has saved; one layer never has a gradient and stays as it is."""
    recipe = make_recipe(lr=0.1, momentum=momentum, nesterov=True, weight_decay=0.3)
    random = torch.Generator().manual_seed(0)
    first, unused = nn.Linear(PIXELS, CLASSES), nn.Linear(2, 2)
    ours, theirs = nn.ModuleList([first, unused]), copy.deepcopy(nn.ModuleList([first, unused]))
    by_class = torch.optim.SGD(
        theirs.parameters(), 0.1, momentum, weight_decay=0.3, nesterov=momentum > 0, fused=fused, foreach=not fused
    )
    optimizer = SGD(ours.parameters(), recipe, CPU, recorded=fused)
    for step in range(6):
        if step == 3:
            optimizer = SGD(ours.parameters(), recipe, CPU, recorded=fused)
            optimizer.load_state_dict(copy.deepcopy(by_class.state_dict()))
        images = torch.randn(5, PIXELS, generator=random)
        for modules, one in ((ours, optimizer), (theirs, by_class)):
            one.zero_grad()
            modules[0](images).square().mean().backward()
            one.step()
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    with pytest.raises(ValueError, match=r"momentum 0, of shape \(7, 7\), is of another network"):
        optimizer.load_state_dict({"state": {0: {"momentum_buffer": torch.zeros(7, 7)}}})
