"""The grid of experiment=distill_grid on CIFAR-100, in portions of a few minutes of one GPU.

    python benchmarks/distill_grid.py --root DATA               # ten minutes; again: goes on
    python benchmarks/distill_grid.py --root DATA --minutes 0   # only the tables and figures of what is finished
    python benchmarks/distill_grid.py --dataset digits --minutes 5 --device cpu model=resnet20 model.width=8 \\
        model@teacher.model=resnet20 pretrain.epochs=8 pretrain.hold_epochs=4 pretrain.step_epochs=1

The networks and the loss are those of the experiment. Trainings have --epochs epochs: half of them at the full rate,
then a drop every eighth, as in the recipe of 240. One seed, the percentages 0.1 and 0.2, batches of 256 in bf16 with
four times the rate; further settings on the command line replace these. The teacher is trained first, then the sparse
network that it joins, then the rest.

When the time is over the command is interrupted, which costs at most the epoch that was running; what is finished
stays in --out. The end are three tables (main, random control, distillation), each also as a booktabs file (.tex),
and figures in --out/figures. So short trainings say nothing about figures of the published recipe.
"""

import argparse
import contextlib
import io
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from compress.report.compare import main as compare

COLUMNS = "achieved,sparsified,pruned,finetuned,epochs,params,macs"
FINETUNED, PLAIN = ("--where", "init=finetune"), ("--where", "distill.stages=[]")
TABLES = {
    "main": (*PLAIN, "--by", "init,percent", "--sort", "init,percent"),
    "random": (*PLAIN, *FINETUNED, "--controls", "--by", "percent,control", "--sort", "percent"),
    "distillation": (*FINETUNED, "--by", "distill.stages,percent", "--sort", "percent,distill.stages"),
}
INTERRUPT_SECONDS = 60  # for the command to end by itself after it was interrupted


def settings(options: argparse.Namespace) -> list[str]:
    root = [f"dataset.root={options.root}"] if options.root else []
    return [
        "experiment=distill_grid", f"dataset={options.dataset}", *root, f"device={options.device}",
        f"outputs={options.out}", f"pretrain.epochs={options.epochs}", f"pretrain.hold_epochs={options.epochs // 2}",
        f"pretrain.step_epochs={max(1, options.epochs // 8)}", "pretrain.batch_size=256", "pretrain.lr=0.2",
        "pretrain.amp=bf16", "seed=0", "percent=0.1,0.2", "plots=false", "tensorboard=false",
    ]  # fmt: skip


def joined(given: Sequence[str], more: Sequence[str]) -> list[str]:
    """Settings, of which those in `more` replace those of the same key."""
    found = {text.partition("=")[0]: text for text in (*given, *more)}
    return list(found.values())


def commands(given: Sequence[str]) -> list[list[str]]:
    """What to run in order: the teacher and the sparse training that it joins, then the sweep."""
    first = (
        "percent=0.1", "distill.stages=[sparsify]", "finetune.init=finetune", "stages=[pretrain,sparsify]",
        "control=null", "hydra.sweep.dir=${outputs}/first",
    )  # fmt: skip
    return [["-m", *joined(given, first)], ["-m", *given]]


def run_until(deadline: float, arguments: Sequence[str]) -> int | None:
    """The exit code of `compress`; None if it was interrupted at the deadline."""
    process = subprocess.Popen([sys.executable, "-m", "compress", *arguments])
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(INTERRUPT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
    return None


def report(sweep: Path, out: Path) -> None:
    """Print the tables, write them for LaTeX, and draw the figures."""
    for name, wanted in TABLES.items():
        print(f"\n== {name}", flush=True)
        arguments = [str(sweep), *wanted, "--columns", COLUMNS]
        if compare(arguments) == 0:
            text = io.StringIO()
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()):
                compare([*arguments, "--format", "latex"])
            (out / f"{name}.tex").write_text(text.getvalue())
    with contextlib.redirect_stdout(io.StringIO()):
        compare([str(sweep), *FINETUNED, "--plot", str(out / "figures")])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="the folder of the official files of CIFAR-100")
    parser.add_argument("--dataset", default="cifar100")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="of training; the tables come after them")
    parser.add_argument("--epochs", type=int, default=16, help="of every training, the teacher's too")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"))
    parser.add_argument("settings", nargs="*", help="more settings of compress")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    code: int | None = 0
    for arguments in commands(joined(settings(options), options.settings)) if options.minutes > 0 else []:
        code = run_until(deadline, arguments)
        if code != 0:
            break
    if code is None:
        print("the time is over; the same command goes on from here", flush=True)
    report(options.out / "distill_grid", options.out)
    return code or 0


if __name__ == "__main__":
    raise SystemExit(main())
