"""Which stages of a run the teacher joins, as the schematic has it."""

from pathlib import Path
from typing import Any

from compress.report.plot.labels import labels_of
from compress.report.plot.stage_chart import Pipeline, pipeline, stage_chart
from compress.report.read.runs import Run


def run(joined: list[str] | None, init: str = "finetune", seed: int = 0, **more: Any) -> Run:
    """Of one that the teacher `joined`; None: no teacher."""
    taught = {"teacher": "zoo", "teacher.model": "resnet56", "distill": "kd", "distill.stages": joined}
    return Run(
        folder=Path(f"{joined}{init}{seed}"),
        settings={
            "method": "slimming",
            "finetune.init": init,
            "seed": seed,
            **(taught if joined is not None else {}),
        },
        stages={
            "teacher": {"epochs": 9},
            "pretrain": {"epochs": 4},
            "sparsify": {"epochs": 1},
            "prune": {},
            "finetune": {"epochs": 2, "init": init},
            **more,
        },
    )


def test_a_box_per_stage_in_order_with_its_epochs() -> None:
    boxes = dict(pipeline(run(None)).boxes)
    assert list(boxes) == ["pretrain", "sparsify", "prune", "finetune"]
    assert list(boxes.values()) == ["pretrain\n4 epochs", "sparsify\n1 epoch", "prune", "finetune\n2 epochs"]
    assert dict(pipeline(run(None, "scratch")).boxes)["finetune"] == "from scratch\n2 epochs"


def test_the_teacher_joins_the_stages_that_the_run_names() -> None:
    for joined in (["sparsify"], ["finetune"], ["sparsify", "finetune"]):
        found = pipeline(run(joined))
        assert found.joined == tuple(joined)
        assert found.teacher == "teacher resnet56\nkd"
    assert pipeline(run([])) == pipeline(run(None)) == Pipeline(pipeline(run(None)).boxes, (), "")


def test_one_row_for_all_seeds_and_none_without_a_teacher() -> None:
    runs = [run(joined, seed=seed) for joined in ([], ["finetune"]) for seed in (0, 1)]
    figure = stage_chart(runs, labels_of(runs))
    texts = [text.get_text() for text in figure.axes[0].texts if text.get_text()]
    assert texts.count("pretrain\n4 epochs") == 2
    assert texts.count("teacher resnet56\nkd") == 1
    assert [text for text in texts if text.startswith("slimming, distill.stages")] == [
        "slimming, distill.stages []", "slimming, distill.stages [finetune]",
    ]  # fmt: skip
    plain = [run(None), run(None, seed=1)]
    assert stage_chart(plain, labels_of(plain)) is None
