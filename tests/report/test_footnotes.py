"""What is said of a row before it is compared."""

from pathlib import Path
from typing import Any

from compress.report.read.runs import Run
from compress.report.table.footnotes import footnotes_of, footnotes_of_group

RECIPE = {"epochs": 10, "lr": 0.05, "schedule": "cosine", "step_factor": 0.1}


def run(*, met: bool = True, weights: str = "last", seed: int = 0, done: int = 10, **recipe: Any) -> Run:
    row = {"top1": 90.0, "macs": 1e6, "weights": weights, "latency_threads": 1, "latency_device": "a CPU"}
    finetune = {"epochs": done, "init": "finetune", "recipe": RECIPE | recipe}
    return Run(
        folder=Path(f"run-{seed}"),
        settings={"dataset": "digits", "model": "resnet20", "seed": seed}
        | {f"finetune.{k}": v for k, v in recipe.items()},
        results={"dense": row | {"weights": "last"}, "finetuned": row},
        budget={"asked": {"percent": 0.5}, "achieved": {"percent": 0.5}, "met": met},
        stages={"pretrain": {"source": "trained"}, "finetune": finetune},
    )


def test_runs_alike_have_no_marks() -> None:
    assert footnotes_of([run(seed=seed) for seed in range(3)]) == [[], [], []]


def test_a_missed_budget_and_the_best_epoch_are_told() -> None:
    (missed,), (best,), fine = footnotes_of([run(met=False), run(weights="best"), run()])
    assert missed == "missed its budget by more than 1 % and one rounding step"
    assert best == "finetuned: top-1 of the best epoch, not of the last"
    assert fine == []


def test_another_recipe_is_named_with_that_of_most() -> None:
    marks = footnotes_of([run(), run(lr=0.1), run(), run(epochs=20, done=20)])
    assert marks == [[], ["finetune.lr 0.1, not 0.05 as in 3 of 4"], [], ["finetune.epochs 20, not 10 as in 3 of 4"]]


def test_what_the_rows_are_grouped_by_is_no_mark_unless_it_was_done_otherwise() -> None:
    runs = [run(), run(), run(lr=0.1)]
    assert footnotes_of(runs, ["finetune.lr"]) == [[], [], []]
    other = Run(**{**vars(runs[2]), "settings": {**runs[2].settings, "finetune.lr": 0.05}})  # and not as it was done
    assert len(footnotes_of([*runs[:2], other], ["finetune.lr"])[2]) == 1


def test_a_setting_without_meaning_is_no_other_recipe() -> None:
    assert footnotes_of([run(), run(step_factor=0.5), run()]) == [[], [], []]
    assert len(footnotes_of([run(), run(schedule="step", step_factor=0.5), run()])[1]) == 1


def test_only_runs_of_the_same_network_and_images_are_row_mates() -> None:
    other = run(lr=0.1)
    other = Run(**{**vars(other), "settings": {**other.settings, "model": "vgg16_bn"}})
    assert footnotes_of([run(), other, run()]) == [[], [], []]


def test_no_fine_tuning_and_an_early_stop_are_told() -> None:
    plain = run()
    bare = Run(**{**vars(plain), "results": {"dense": plain.results["dense"]}, "stages": {"pretrain": {}}})
    assert footnotes_of([plain, bare, run(done=7)]) == [
        [],
        ["not fine-tuned"],
        ["finetune stopped after 7 of 10 epochs"],
    ]


def test_a_latency_of_another_machine_is_told() -> None:
    slow = run()
    rows = {name: row | {"latency_device": "a GPU"} for name, row in slow.results.items()}
    assert footnotes_of([run(), Run(**{**vars(slow), "results": rows}), run()])[1] == [
        "latency on a GPU, not a CPU as in 2 of 3"
    ]


def test_a_group_says_how_many_of_its_runs_have_a_mark_and_what_differs() -> None:
    runs = [run(seed=0), run(seed=1, met=False), run(seed=2, lr=0.1)]
    marks = footnotes_of_group(runs, [[], ["missed"], []], ["method"])
    assert marks == ["1 of 3: missed", "runs differ in finetune.lr (0.1, null)"]
    assert footnotes_of_group(runs[:1] * 2, [["missed"], ["missed"]], [])[0] == "missed"


def test_the_same_run_twice_is_no_seed() -> None:
    assert footnotes_of_group([run(seed=0), run(seed=1)], [[], []], []) == []
    (mark,) = footnotes_of_group([run(seed=0), run(seed=0)], [[], []], [])
    assert mark == "2 runs, but 1 different settings: the spread is not that of seeds"
