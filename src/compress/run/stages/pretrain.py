"""pretrain: the dense baseline: train the network, or load it from a checkpoint or pretrained weights.

Cache key: the network; the digest of the checkpoint if there is one; else, unless its weights are pretrained, the
recipe, the seed, the training images, and the number of processes if above 1.

Writes: model.safetensors; if it trained, best.safetensors (best epoch by held-out top-1) and metrics.jsonl.

Version history: 1; 2 moves the first drop of `schedule=step`, 3 counts the warm-up as part of `hold_epochs`,
4 saves how the images were normalised.
"""

import torch

from compress.data.base import normalisation_of
from compress.errors import settings_under
from compress.graph.plan import Plan
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.prune.saved_network import save_network
from compress.run.job import RunState
from compress.run.stages.stage import Stage
from compress.run.stages.training import dense_depends_on, dense_trains, train_network


def pretrain(state: RunState, work: StageFolder) -> JSON:
    """Save the dense network: from the checkpoint, with pretrained weights, or trained."""
    job = state.job
    torch.manual_seed(derive_seed(job.seed, "weights"))
    with settings_under(job.keys.model):  # its files may have changed since the job was built
        model = job.model.build()
        if job.model.checkpoint is not None:
            job.model.load_checkpoint(model)
    result: JSON
    if job.model.checkpoint is not None:
        result = {"source": job.model.checkpoint}
    elif job.model.is_pretrained:
        result = {"source": f"{job.model.args['arch']} {job.model.args['weights']}"}
    else:
        result = {"source": "trained", **train_network(state, model, job.pretrain, "pretrain", work, Plan())}
    save_network(work.model, model, job.model, Plan(), normalisation_of(job.data))
    return result


STAGE = Stage(run=pretrain, depends_on=dense_depends_on, makes="dense network", version=4, trains=dense_trains)
