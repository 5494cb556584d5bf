"""The quality tables of benchmarks/gpu.py: every row by one recipe, each row of a seed a process of its own.

All rows start from the same dense network (of a checkpoint, or trained) and are fine-tuned for the same epochs by the
same recipe; "scratch E" has new weights at the widths of filter_magnitude and the recipe of pretrain for as many.
Slimming trains its scales besides, which the column of epochs tells. Numbers are of the last epoch; whatever searches
or selects, the choice of the best row for the teacher too, sees held-out images only; test images are read once.
"""

import importlib.util
import shutil
import statistics
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_plan import Job, ends, epochs_that_fit
from gpu_processes import COMPRESS, Process, script, start
from gpu_results import card, read_or, write
from gpu_rows import L1, L1_EPOCHS, METHODS, PEER, PUBLIC, ROWS, TAUGHT, Preset, Table, sparse_epochs, trained_epochs
from safetensors import safe_open
from safetensors.torch import save_file

LARGEST = 16 * 2**20  # bytes of a file that is kept
START_SECONDS = 20.0  # of a process before its first training, and for measuring after the last: an estimate
SERVED = 2.5  # processes that a GPU serves as it would one, since small networks leave it idle: an estimate


@dataclass(frozen=True)
class Quality:
    """The tables of one folder."""

    preset: Preset
    out: Path
    device: str
    workers: int
    seeds: int
    root: str | None = None
    checkpoint: str | None = None
    settings: tuple[str, ...] = ()  # of the command line, for all rows

    @property
    def plan(self) -> Path:
        return self.out / "quality" / "plan.json"

    @property
    def store(self) -> Path:
        return self.out / "store"

    def run_folder(self, job: Job) -> Path:
        return self.store / "runs" / job.name

    # -- the plan ----------------------------------------------------------------------------------------------------

    def epoch_seconds(self) -> float:
        """Of the first table's network while the workers share the device: measured by former rows, else by steps."""
        first = self.preset.tables[0]
        measured = [one["epoch_seconds"] for one in self.results() if one["table"] == first.name]
        if measured:
            return statistics.median(measured)
        speed = read_or(self.out / "speed.json", {}).values()
        steps = [one["ms"] for one in speed if one["network"] == first.network and one["way"] in ("eager", "graph")]
        on_gpu = self.device.startswith("cuda")
        shared = max(1.0, self.workers / SERVED) if on_gpu else 1.0
        return shared * self.preset.steps * min(steps, default=self.preset.step_ms) / 1000

    def cost(self, job: Job, epochs: int) -> float:
        """Estimated seconds."""
        row = ROWS.get(job.row, ROWS["filter_magnitude"])
        trained = 0 if job.row == "base" else trained_epochs(job.row, epochs)
        return START_SECONDS + self.preset.search_scale * row.search + trained * self.epoch_seconds()

    def epochs(self, seconds: float) -> int:
        """As many as the rows of the first table can have in the time; kept for all later runs of this folder."""
        if (kept := self.kept_epochs()) is None:
            jobs = [job for job in self.jobs_of(self.preset.tables[0], 0) if job.row != "base"]
            kept = epochs_that_fit(lambda n: [self.cost(job, n) for job in jobs], seconds, self.workers)
            write(self.plan, {"epochs": kept, **self.recipe()})
        return kept

    def kept_epochs(self) -> int | None:
        """None: no run of this folder has planned its tables yet."""
        epochs: int | None = read_or(self.plan, {}).get("epochs")
        return epochs

    def recipe(self) -> dict[str, Any]:
        """What all rows of a folder must have in common, besides the epochs."""
        names = [table.name for table in self.preset.tables]
        return {"settings": list(self.settings), "checkpoint": self.checkpoint is not None, "tables": names}

    def clash(self) -> str | None:
        """What differs from the rows that an earlier run left; None: nothing."""
        kept = read_or(self.plan, self.recipe())
        found = [f"{key} {kept[key]}, not {value}" for key, value in self.recipe().items() if kept[key] != value]
        return f"holds rows with {'; '.join(found)}" if found else None

    def foretold(self, seconds: float) -> list[str]:
        """Names of the rows that should end in the time, by the estimates."""
        epochs, finished = self.epochs(seconds), self.finished()
        jobs = [job for job in self.jobs() if job not in finished]
        at = ends([self.cost(job, epochs) for job in jobs], self.workers)
        return [job.name for job, end in zip(jobs, at, strict=True) if end <= seconds and job.row != "base"]

    # -- jobs --------------------------------------------------------------------------------------------------------

    def jobs_of(self, table: Table, seed: int) -> Iterator[Job]:
        for name, row in ROWS.items():
            if name != PEER or self.no_peer(table) is None:
                yield Job(table.name, name, seed, row.after)

    def no_peer(self, table: Table) -> str | None:
        """Why torch-pruning has no row in a table."""
        if importlib.util.find_spec("torch_pruning") is None:
            return "torch-pruning is not installed"
        return None if table.network.startswith("resnet") else f"not told which layers of {table.network} to leave"

    def jobs(self, failed: Collection[Job] = ()) -> list[Job]:
        """All, table by table and seed by seed; the row with a teacher once it is known which is the best."""
        found, results = list[Job](), self.results()
        for table in self.preset.tables:
            taught = best_method(table, results, failed) is not None
            for seed in range(self.seeds):
                found += self.jobs_of(table, seed)
                found += [Job(table.name, TAUGHT, seed, ("base",))] if taught else []
        return found

    def shared_settings(self, table: Table, seed: int, epochs: int) -> list[str]:
        """Of every row of a table."""
        public = self.checkpoint is not None and table.network == PUBLIC
        return [
            *self.preset.settings, *([f"dataset.root={self.root}"] if self.root else []), f"model={table.network}",
            *(["experiment=public_resnet", f"model.checkpoint={self.checkpoint}"] if public else []),
            f"pretrain.epochs={epochs}", f"finetune.epochs={epochs}", "finetune.lr=0.02",
            "finetune.warmup_epochs=0.1", "eval.latency_seconds=0.05", "plots=false", "tensorboard=false",
            f"seed={seed}", f"device={self.device}", "threads=1", f"outputs={self.store}", *self.settings,
        ]  # fmt: skip

    def row_settings(self, table: Table, row: str, epochs: int) -> list[str]:
        sparse = sparse_epochs(epochs)
        sparsely = [
            f"method.training.epochs={sparse}", "method.training.lr=0.02", "method.training.warmup_epochs=0.1",
            f"method.l1={L1 * L1_EPOCHS / sparse:g}",
        ]  # fmt: skip
        if row == TAUGHT:
            best = best_method(table, self.results())
            assert best is not None
            return [*self.row_settings(table, best, epochs), "teacher=self", "distill=kd"]
        of_row = ROWS[row].settings
        budget = [] if row == "dense" else [f"preserve_ratio={1 / table.times:.5f}"]
        return [*of_row, *budget, *(sparsely if row == "slimming" else [])]

    def command(self, job: Job, epochs: int) -> list[str]:
        table = self.table(job)
        settings = [*self.row_settings(table, job.row, epochs), *self.shared_settings(table, job.seed, epochs)]
        if job.row == PEER:
            base = self.run_folder(Job(job.table, "base", job.seed))
            return [*script("gpu_peer.py"), str(base), str(self.run_folder(job)), *settings]
        return [*COMPRESS, *settings, f"hydra.run.dir={self.run_folder(job)}"]

    def table(self, job: Job) -> Table:
        return next(table for table in self.preset.tables if table.name == job.table)

    def begin(self, job: Job, epochs: int) -> Process:
        """What was computed before lies in the store, not in the run's folder, which may name another data folder."""
        shutil.rmtree(self.run_folder(job), ignore_errors=True)
        return start(self.command(job, epochs), self.log_of(job))

    def log_of(self, job: Job) -> Path:
        return self.out / "logs" / f"{job.name.replace('/', '-')}.log"

    # -- results -----------------------------------------------------------------------------------------------------

    def result_file(self, job: Job) -> Path:
        return self.out / "quality" / f"{job.name}.json"

    def finished(self) -> set[Job]:
        """Those with a result, and those without one of their own whose network is in the store."""
        has = {(one["table"], one["row"], one["seed"]) for one in self.results()}
        based = {job for job in self.jobs() if job.row == "base" and self._is_done(job)}
        return {job for job in self.jobs() if (job.table, job.row, job.seed) in has} | based

    def _is_done(self, job: Job) -> bool:
        summary = read_or(self.run_folder(job) / "summary.json", {})
        return bool(summary.get("status") == "done")

    def end(self, job: Job, epochs: int, seconds: float) -> bool:
        """Keep the result of a job and its network in bf16; False: there is none."""
        if job.row == "base":
            return True
        row, folder = ROWS.get(job.row, ROWS["filter_magnitude"]), self.run_folder(job)
        summary = read_or(folder / "summary.json", None)
        if summary is None:
            return False
        figures, tuned = summary["results"][row.network], summary["stages"][row.stage]
        pruned = (
            row.network.replace("finetuned", "pruned") if "finetuned" in row.network else ""
        )  # not of new weights
        before = summary["results"].get(pruned, {})
        write(self.result_file(job), {
            "table": job.table, "row": job.row, "seed": job.seed, "epochs": trained_epochs(job.row, epochs),
            "method": best_method(self.table(job), self.results()) if job.row == TAUGHT else job.row,
            "top1": figures["top1"], "pruned_top1": before.get("top1"), "held_out_top1": tuned["held_out_top1"],
            "dense_top1": summary["results"].get("dense", {}).get("top1"), "macs": figures["macs"],
            "params": figures["params"], "seconds": seconds, "epoch_seconds": tuned["seconds"] / epochs,
            **card(self.device),
        })  # fmt: skip
        network = folder / row.folder / "model.safetensors"
        if network.is_file():
            keep_in_bf16(network, self.out / "networks" / f"{job.name}.safetensors")
        return True

    def results(self) -> list[dict[str, Any]]:
        files = sorted((self.out / "quality").glob("*/*.json"))
        return [read_or(file, None) for file in files]


def best_method(table: Table, results: Sequence[dict[str, Any]], failed: Collection[Job] = ()) -> str | None:
    """That of the largest held-out top-1 at seed 0; None before all have one or failed."""
    first = (table.name, 0)
    top1 = {one["row"]: one["held_out_top1"] for one in results if (one["table"], one["seed"]) == first}
    lost = {job.row for job in failed if (job.table, job.seed) == first}
    if not set(METHODS) <= {*top1, *lost}:
        return None
    return max((row for row in METHODS if row in top1), key=lambda row: top1[row], default=None)


def keep_in_bf16(network: Path, to: Path) -> None:
    """A copy of a saved network with its description, weights rounded; not if it is larger than `LARGEST`."""
    with safe_open(network, "pt") as file:
        description = file.metadata()
        names = list(file.keys())
        weights = {name: file.get_tensor(name) for name in names}
    small = {name: value.bfloat16() if value.dtype == torch.float32 else value for name, value in weights.items()}
    if sum(value.nbytes for value in small.values()) < LARGEST:
        to.parent.mkdir(parents=True, exist_ok=True)
        save_file(small, to, description)
