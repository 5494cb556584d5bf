"""sparsify: the learning step of a method: sparse training, iterative pruning, or training an agent.

Cache key: the dense network (by the key of `pretrain`, or its settings), those settings of the method that `learn`
reads (all but `Traits.plan_only`), the digests of files it reads, the seed, the training images, the budget if the
method learns for one (`Traits.learns_for_budget`), the teacher if it joins this stage, and, if a network is trained,
the number of processes if above 1.

Writes: metrics.jsonl; model.safetensors and best.safetensors if the run's network is trained; agent.pt for a search.

Version history: 1; 2 prunes more kinds of layers, 3 moves the first drop of `schedule=step`, 4 logs slimming's cfg as
`prune` would decide it, 5 counts recurrent layers whole, 6 counts the candidates that a search scored, 7 reports
what a constant policy would answer, 8 has a teacher join the training of a supernet, tells the gradients of slimming,
the raw terms and the agreement of a teacher, and saves how the images were normalised, 9 proposes crossovers and
mutants to an agent, 10 finds more groups (attention, shuffles, written attributes), 11 knows transposed convolutions,
recurrent layers, embeddings and mixers of tokens, 12 has amc search within its budget where that is not one of MACs.
"""

from collections.abc import Callable

from torch import nn

from compress.data.base import normalisation_of
from compress.errors import settings_under
from compress.graph.plan import Plan
from compress.io.files import JSON
from compress.io.stage_folder import StageFolder
from compress.prune.method import Learning
from compress.prune.saved_network import save_network
from compress.prune.surgery import cut
from compress.run.job import Job, RunState
from compress.run.stages.checks import check_surgery, digests_of_files, latency_of, warn_uncounted
from compress.run.stages.stage import Stage
from compress.run.stages.training import devices_settings, teaching, train_network, train_own_network, training_images
from compress.schema.settings import Recipe
from compress.train.loop import Hooks
from compress.train.objective import Objective


def sparsify(state: RunState, work: StageFolder) -> JSON:
    """Check surgery on a plan of half the width, then let the method learn; save the network if it was trained."""

    def train(
        recipe: Recipe,
        hooks: Hooks,
        network: nn.Module | None = None,
        objective: Callable[[Objective], Objective] | None = None,
    ) -> JSON:
        if network is not None:
            return train_own_network(state, network, recipe, "sparsify", work, hooks, objective)
        assert objective is None, "the run's network is trained on the labels, or by its teacher"
        return train_network(state, problem.model, recipe, "sparsify", work, Plan(), hooks)

    problem = state.problem(train)
    warn_uncounted("sparsify", problem.cost.uncounted)
    half = Plan({group.name: tuple(range((group.width + 1) // 2)) for group in problem.graph.groups})
    check_surgery(problem, cut(problem.model, problem.graph, half), half)
    method = state.job.method
    assert isinstance(method, Learning)
    with settings_under(state.job.keys.method):
        result = method.learn(problem, work)
    if method.traits.trains == "network":
        save_network(work.model, problem.model, state.job.model, Plan(), normalisation_of(state.job.data))
    return result


def depends_on(job: Job) -> JSON:
    settings = {k: v for k, v in job.asked["method"].items() if k not in job.method.traits.plan_only}
    for_budget = job.method.traits.learns_for_budget
    budget = {"budget": job.budget.to_json(), **latency_of(job)} if for_budget else {}
    # including their augmentation: a method may calibrate on augmented images
    return {
        "method": settings,
        "seed": job.seed,
        "data": training_images(job),
        **budget,
        **digests_of_files(job),
        **teaching(job, "sparsify"),
        **(devices_settings(job) if trains_network(job) else {}),
    }


def trains_network(job: Job) -> bool:
    return job.method.traits.trains != "nothing"


STAGE = Stage(run=sparsify, depends_on=depends_on, makes="knowledge", version=12, trains=trains_network)
