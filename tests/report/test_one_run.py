"""Pictures of one run: labels that name one layer each, ticks at whole epochs, a threshold where it belongs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot

from compress.methods.amc.plots import plots as plots_of_search
from compress.methods.slimming.slimming import Slimming
from compress.report.plot import one_run
from compress.report.plot.axes import layer_labels
from compress.report.plot.one_run import draw_run


def test_layer_labels_are_told_apart() -> None:
    dense = [f"features.denseblock{b}.denselayer{n}.conv{c}" for b in (1, 2) for n in (1, 2) for c in (1, 2)]
    labels = layer_labels(["features.conv0", *dense, "features.transition1.conv", "classifier"])
    assert len(set(labels.values())) == len(labels)
    assert labels["features.conv0"] == "features.conv0"
    assert labels["features.denseblock2.denselayer1.conv2"] == "…denseblock2.denselayer1.conv2"
    assert labels["features.transition1.conv"] == "…transition1.conv"


def test_layer_labels_keep_as_many_parts_as_fit() -> None:
    names = ["backbone.body.layer1.0.conv1", "backbone.body.layer2.0.conv1", "a_single_part_that_is_far_too_long"]
    assert list(layer_labels(names).values()) == [
        "…body.layer1.0.conv1", "…body.layer2.0.conv1", "a_single_part_that_is_far_too_long",
    ]  # fmt: skip
    # the whole of one may be the end of another
    assert layer_labels(["outer.a_block_of_a_long_name.conv", "a_block_of_a_long_name.conv"]) == {
        "outer.a_block_of_a_long_name.conv": "outer.a_block_of_a_long_name.conv",
        "a_block_of_a_long_name.conv": "a_block_of_a_long_name.conv",
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The figures that a run draws, by file name."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(one_run, "save", lambda figure, path: found.setdefault(path.name, figure) and path)
    yield found
    pyplot.close("all")


def rows(epochs: int) -> list[dict[str, Any]]:
    scales = {"edges": [0.0, 0.5, 1.0], "counts": [3, 5]}
    watched = {"scales": scales, "scale_median": 0.6, "scale_small_share": 0.0}
    found = {"stage": "sparsify", "loss": 1.0, "held_out_top1": 50.0, **watched}
    return [{**found, "epoch": epoch} for epoch in range(1, epochs + 1)]


@pytest.mark.parametrize(("epochs", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3])])
def test_ticks_are_whole_epochs(epochs: int, expected: Sequence[int], drawn: dict[str, Any], tmp_path: Path) -> None:
    draw_run(tmp_path, rows(epochs), None, None, Slimming.plots)
    for name in ("training.png", "scales.png"):
        axis = drawn[name].axes[1]
        low, high = axis.get_xlim()
        assert [tick for tick in axis.get_xticks() if low <= tick <= high] == expected, name


@pytest.mark.parametrize(("coupled", "lines"), [([], 1), (["conv1"], 0)])
def test_a_threshold_of_coupled_scores_has_no_place_among_scales(
    coupled: list[str], lines: int, drawn: dict[str, Any], tmp_path: Path
) -> None:
    layers = {"conv1": {"width": 8, "kept_width": 5, "groups": ["conv1"]}}
    own = {"thresholds": {"all": 0.4}, "coupled": coupled}
    draw_run(tmp_path, rows(1), {"own": own, "layers": layers}, None, Slimming.plots)
    assert len(drawn["scales.png"].axes[0].lines) == lines


def test_a_method_adds_figures_of_its_own_and_needs_none(drawn: dict[str, Any], tmp_path: Path) -> None:
    """Rows that count by an epoch without being those of a training are no part of its figure."""
    sparsify_report = {"best": 3}

    def plots(*given: Any) -> dict[str, Any]:
        assert given == (mine, None, sparsify_report)
        return {"mine.png": pyplot.figure()}

    mine = [*rows(1), {"stage": "sparsify", "epoch": 2, "candidates": 5}]
    draw_run(tmp_path, mine, None, sparsify_report, plots)
    assert set(drawn) == {"training.png", "mine.png"}
    drawn.clear()
    draw_run(tmp_path, mine, None, sparsify_report)
    assert set(drawn) == {"training.png"}
    assert [len(line.get_xdata()) for line in drawn["training.png"].axes[0].lines] == [1]


def test_every_target_of_a_search_has_a_colour(drawn: dict[str, Any], tmp_path: Path) -> None:
    tried = [
        {"stage": "sparsify", "episode": at + 1, "target": (0.5, 0.3)[at % 2], "reward": -at, "accuracy": 10.0 * at}
        for at in range(6)
    ]
    draw_run(tmp_path, tried, None, {"made": "agent"}, plots_of_search)
    (reward, accuracy) = drawn["search.png"].axes
    assert set(drawn) == {"search.png"}
    assert [line.get_color() for line in reward.lines] == ["C0", "C0", "C1", "C1"]
    assert [list(line.get_ydata()) for line in reward.lines[2:]] == [[0, -2, -4], [0, 0, 0]]
    assert list(accuracy.lines[1].get_ydata()) == [10.0, 30.0, 50.0]
