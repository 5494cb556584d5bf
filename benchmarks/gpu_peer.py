"""One row of the tables of benchmarks/gpu.py that another library prunes: torch-pruning's norm of groups.

    python benchmarks/gpu_peer.py FOLDER_OF_THE_DENSE_RUN OUT SETTINGS...

Fang et al. 2023, arXiv:2301.12900 (DepGraph), without its sparse training; the residual stream is left whole, which
torch-pruning cannot follow here (see structured.py). The network is fine-tuned through the training loop of
`compress` by the recipe of SETTINGS, and OUT/summary.json has the figures under the names that a run gives them.
"""

import sys
import time
from pathlib import Path

import torch
import torch_pruning
from gpu_results import write
from structured import job_of, pruned_by_torch_pruning

import compress
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import accuracy
from compress.measure.macs import count_macs
from compress.train.loop import Training, train
from compress.train.objective import cross_entropy


def main(base: Path, out: Path, settings: list[str]) -> None:
    torch.set_num_threads(1)
    job, dense = job_of(settings), compress.load(base)
    torch.manual_seed(job.seed)
    assert job.budget.kind == "preserve_ratio"
    by = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    network = pruned_by_torch_pruning(job, dense, job.budget.value, by=by).to(job.device)

    def top1() -> float:
        return accuracy(network, job.data.ordered("test", 512, job.device)).top1

    work, objective, began = out / "work", cross_entropy(job.finetune), time.perf_counter()
    work.mkdir(parents=True, exist_ok=True)
    pruned = top1()
    recipe = {"recipe": job.finetune, "objective": objective, "work": StageFolder(work)}
    found = train(
        Training(model=network, data=job.data, **recipe, stage="finetune", seed=job.seed, device=job.device)
    )
    seconds, tuned = time.perf_counter() - began, {"top1": top1()}
    tuned |= {"macs": count_macs(network, job.data.shape), "params": sum(p.numel() for p in network.parameters())}
    stage = {"held_out_top1": found["held_out_top1"], "seconds": seconds}
    results = {"pruned": {"top1": pruned}, "finetuned": tuned}
    write(out / "summary.json", {"status": "done", "results": results, "stages": {"finetune": stage}})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
