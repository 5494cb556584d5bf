"""What a teacher is worth on a CPU: the same pruned networks fine-tuned with and without one, for equal epochs.

    python benchmarks/distill_quality.py digits
    python benchmarks/distill_quality.py cifar10 --root DATA --checkpoint resnet20.th

digits: resnet20 cut to 0.2 of its MACs by filter_magnitude; no teacher, its dense self, or one of twice the width; by
KD and by DIST; five seeds.
cifar10: the public resnet20 (option-A shortcuts) cut to 0.5; no teacher, or its dense self by KD; three seeds.

The commands are printed; interrupted, the same one goes on. The end is a table of test top-1 of the last epoch, mean
and sample deviation over the seeds. --jobs prints the commands alone.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from compress.report.compare import main as compare

COLUMNS = "pruned,finetuned,epochs,params,macs"


def digits(options: argparse.Namespace) -> list[list[str]]:
    """A sweep without a teacher, and one for each of two teachers by two losses."""
    common = [
        "method=filter_magnitude", "preserve_ratio=0.2", f"pretrain.epochs={options.epochs or 10}",
        f"finetune.epochs={options.epochs or 10}", f"seed={seeds(options, 5)}",
    ]  # fmt: skip
    taught = [*common, "distill=kd,dist"]
    wide = ["teacher=zoo", "model@teacher.model=resnet20", "teacher.model.width=32"]
    return [common, [*taught, "teacher=self"], [*taught, *wide]]


def cifar10(options: argparse.Namespace) -> list[list[str]]:
    """One sweep over seeds, each without and with the dense network as the teacher."""
    return [
        [
            "dataset=cifar10", f"dataset.root={options.root}", "experiment=public_resnet",
            f"model.checkpoint={options.checkpoint}", "method=filter_magnitude", "preserve_ratio=0.5",
            f"finetune.epochs={options.epochs or 2}", "teacher=self", "distill=kd", f"seed={seeds(options, 3)}",
            "distill.stages=[],[finetune]",
        ]
    ]  # fmt: skip


def seeds(options: argparse.Namespace, usual: int) -> str:
    return ",".join(map(str, range(options.seeds or usual)))


def run(commands: Sequence[Sequence[str]], options: argparse.Namespace) -> int:
    """The exit code of the first sweep that fails, or 0."""
    sweep = options.out / options.part
    for settings in commands:
        arguments = [
            "-m", *settings, f"outputs={options.out}", f"hydra.sweep.dir={sweep}", f"threads={options.threads}",
            "plots=false", "tensorboard=false", "eval.latency_seconds=0.05", *options.settings,
        ]  # fmt: skip
        print(f"compress {shlex.join(arguments)}", flush=True)
        if not options.jobs and (code := subprocess.call([sys.executable, "-m", "compress", *arguments])) != 0:
            return code
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["digits", "cifar10"])
    parser.add_argument("--root", help="the folder of the official files of CIFAR-10")
    parser.add_argument("--checkpoint", help="the public resnet20")
    parser.add_argument("--epochs", type=int, help="of every training")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"))
    parser.add_argument("--jobs", action="store_true", help="only print the commands")
    parser.add_argument("settings", nargs="*", help="more settings of compress")
    options = parser.parse_intermixed_args()
    if options.part == "cifar10" and not (options.root and options.checkpoint):
        parser.error("cifar10 needs --root and --checkpoint")
    code = run(digits(options) if options.part == "digits" else cifar10(options), options)
    if code or options.jobs:
        return code
    by = "teacher,distill" if options.part == "digits" else "distill.stages"
    return compare([str(options.out / options.part), "--by", by, "--sort", by, "--columns", COLUMNS])


if __name__ == "__main__":
    raise SystemExit(main())
