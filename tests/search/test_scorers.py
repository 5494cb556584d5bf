"""Laws of the scorers `recalibrate` and `refit`, and of what they remember."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import CPU, livened
from torch import nn

from compress.config.criteria import criterion_of
from compress.data.memory import MemoryData
from compress.graph.build import channel_graph
from compress.measure.accuracy import Score, accuracy, score_of
from compress.prune.cost import cost_model
from compress.prune.criteria.criterion import totals
from compress.prune.method import Problem
from compress.prune.surgery import cut
from compress.schema.settings import Budget
from compress.search.scorers.memory import ScoreMemory
from compress.search.scorers.recalibrate import RecalibrateScorer, Recalibration, recalibrate
from compress.search.scorers.refit import CalibrationSettings, Refit, RefitScorer

SETTINGS = Recalibration(images=200, batch_size=50, score_images=1000)
REFIT = Refit(
    calibration=CalibrationSettings(
        images=200, batch_size=50, points=4, augmented=False, repeats=False, doubles_bias=False
    ),
    score_images=1000,
)
MAKERS = (SETTINGS, REFIT)
Scorer = RecalibrateScorer | RefitScorer


@pytest.fixture
def problem(tiny: nn.Module, digit_data: MemoryData, tmp_path: Path) -> Problem:
    model = livened(tiny).eval()
    graph = channel_graph(model, digit_data.shape)
    cost = cost_model(model, graph, digit_data.shape)
    return Problem(model, graph, cost, digit_data, Budget("preserve_ratio", 0.5), CPU, 0, scores=tmp_path / "cache")


def halves(problem: Problem) -> tuple[int, ...]:
    return tuple((group.width + 1) // 2 for group in problem.graph)


def test_statistics_are_the_plain_average_over_the_calibration_batches() -> None:
    norm = nn.BatchNorm2d(2)
    norm.running_mean.fill_(7.0)
    norm.num_batches_tracked.fill_(10)  # as after a training
    network = nn.Sequential(norm, nn.Dropout(0.5)).train()
    batches = [torch.full((2, 2, 1, 1), 1.0), torch.full((2, 2, 1, 1), 4.0)]
    batches[1][0] = 0.0
    recalibrate(network, batches)
    assert norm.running_mean.tolist() == [1.5, 1.5]  # of means 1 and 2, not of 7
    assert norm.running_var.tolist() == [4.0, 4.0]  # unbiased: 0 and 8
    assert norm.momentum == 0.1
    assert network.training
    assert norm.training


@pytest.mark.parametrize("make", MAKERS)
def test_a_score_is_that_of_the_network_that_is_realised(make: Recalibration | Refit, problem: Problem) -> None:
    before = {name: value.clone() for name, value in problem.model.state_dict().items()}
    scorer = make(problem)
    widths = halves(problem)
    got = scorer.score(widths)
    assert got is not None
    plan, weights = scorer.realise(widths)
    small = cut(problem.model, problem.graph, plan, weights).eval()
    held_out = list(problem.data.ordered("held_out", 512, CPU))
    expected = accuracy(small, held_out)
    assert problem.graph.widths(plan) == list(widths)
    assert abs(got.top1 - expected.top1) < 0.5  # a rounding of float sums may move an image
    assert all(torch.equal(value, before[name]) for name, value in problem.model.state_dict().items())


@pytest.mark.parametrize("make", MAKERS)
def test_a_score_does_not_depend_on_the_candidates_before(make: Recalibration | Refit, problem: Problem) -> None:
    problem = replace(problem, scores=None)
    full = tuple(group.width for group in problem.graph)
    candidates = [full, halves(problem), tuple(1 for _ in full)]
    forwards, backwards = make(problem), make(problem)
    scores = [forwards.score(widths) for widths in candidates]
    assert scores == [backwards.score(widths) for widths in reversed(candidates)][::-1]
    assert len(set(scores)) == 3


def test_a_controls_statistics_are_of_its_own_plan(problem: Problem) -> None:
    scorer = SETTINGS(problem)
    plan, weights = scorer.realise(halves(problem))
    small = cut(problem.model, problem.graph, plan)
    recalibrate(small, scorer._batches)
    own = cut(problem.model, problem.graph, plan, weights)
    for name, buffer in small.named_buffers():
        assert torch.equal(buffer, own.get_buffer(name)), name


@pytest.mark.parametrize("make", MAKERS)
def test_the_criterion_of_the_run_says_which_channels_stay_and_shares_no_scores(
    make: Recalibration | Refit, problem: Problem, tmp_path: Path
) -> None:
    widths = halves(problem)
    by_name = {name: make(replace(problem, criterion=criterion_of(name))) for name in ("l1", "random", "fpgm")}
    by_name["none"] = make(problem)
    plans = {name: scorer.realise(widths)[0] for name, scorer in by_name.items()}
    assert plans["l1"] == plans["none"] != plans["random"] != plans["fpgm"]
    scores = totals(criterion_of("random")(problem.model, problem.graph, problem.sample))
    for (name, kept), width in zip(plans["random"].kept.items(), widths, strict=True):
        assert list(kept) == scores[name].sort(descending=True).indices[:width].sort().values.tolist()
    for scorer in by_name.values():
        scorer.score(widths)
    assert len(list((tmp_path / "cache").glob("scores-*.jsonl"))) == 4


@pytest.mark.parametrize("make", MAKERS)
def test_no_widths_are_scored_twice_by_this_or_a_later_scorer(
    make: Recalibration | Refit, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = halves(problem)
    first = make(problem).score(widths)

    def fail(*_: object) -> None:
        raise AssertionError("scored again")

    again = make(problem)
    monkeypatch.setattr(type(again), "realise", fail)
    monkeypatch.setattr(type(again), "_held_out", property(fail))
    assert again.score(widths) == first


def test_another_network_calibration_or_seed_has_scores_of_its_own(problem: Problem) -> None:
    def remembered(problem: Problem, settings: Recalibration) -> Path:
        path = settings(problem)._memory._path
        assert path is not None
        return path

    first = remembered(problem, SETTINGS)
    assert remembered(problem, SETTINGS) == first
    assert remembered(problem, replace(SETTINGS, images=100)) != first
    assert remembered(replace(problem, seed=1), SETTINGS) != first
    with torch.no_grad():
        next(problem.model.parameters()).add_(1e-3)
    assert remembered(problem, SETTINGS) != first


def test_damaged_lines_are_ignored_and_the_others_kept(tmp_path: Path) -> None:
    memory = ScoreMemory(tmp_path, {})
    scores = {(number, 2): Score(50.0 + number, 90.0, 1.0) for number in range(4)}
    for widths, score in scores.items():
        assert memory.score(widths, 0.0, lambda score=score: score) == score
    path = next(tmp_path.iterdir())
    lines = [line for line in path.read_text().split("\n") if line]
    lines[1] = lines[1].replace("51.0", "99.0")  # a flipped digit
    lines[2] = "null"
    lines.insert(0, json.dumps({"widths": ["x"], "top1": 1}))
    path.write_text("\n".join(lines)[:-3])  # the last line cut short by a kill
    again = ScoreMemory(tmp_path, {})
    assert again._scores == {(0, 2): scores[(0, 2)]}
    assert again.score((3, 2), 0.0, lambda: scores[(3, 2)]) == scores[(3, 2)]
    assert ScoreMemory(tmp_path, {})._scores == {(0, 2): scores[(0, 2)], (3, 2): scores[(3, 2)]}


def test_what_was_given_up_is_not_tried_again_unless_less_is_asked(tmp_path: Path) -> None:
    asked: list[float] = []

    def scored(memory: ScoreMemory, least: float) -> Score | None:
        def compute() -> Score | None:
            asked.append(least)
            return Score(50.0, 90.0, 1.0) if least <= 50 else None

        return memory.score((1,), least, compute)

    memory = ScoreMemory(tmp_path, {})
    assert [scored(memory, least) for least in (70.0, 80.0, 70.0, 60.0)] == [None] * 4
    assert asked == [70.0, 60.0]
    again = ScoreMemory(tmp_path, {})
    assert scored(again, 60.0) is None
    assert scored(again, 50.0) == scored(again, 99.0) == Score(50.0, 90.0, 1.0)
    assert asked == [70.0, 60.0, 50.0]


def test_giving_up_is_told_as_soon_as_it_is_certain() -> None:
    """Of 4 images 2 are wrong in the first batch: a top-1 of 50 is still possible, 75 is not."""
    seen = []

    def logits(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return torch.eye(2)[images.long().flatten()]

    batches = [(torch.tensor([0, 0]), torch.tensor([1, 1])), (torch.tensor([1, 0]), torch.tensor([1, 0]))]
    assert score_of(logits, batches, 75.0) is None
    assert seen == [2]
    score = score_of(logits, batches, 50.0)
    assert score is not None
    assert score.top1 == 50.0
    assert score.loss == pytest.approx(0.5 * (1.3132617 + 0.3132617))
