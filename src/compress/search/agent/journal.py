"""What a search by an agent tells while it runs, whatever the agent: rows, lines of the log, the progress bar."""

import logging
from collections.abc import Mapping, Sequence

from compress.io.files import JSON
from compress.io.stage_folder import StageFolder
from compress.search.agent.environment import ChannelEnv

log = logging.getLogger(__name__)


def note(
    work: StageFolder, env: ChannelEnv, episode: int, outcome: JSON, best_reward: float, sigma: float, better: bool
) -> None:
    """A row of metrics and a line of the log about an episode (from 1). `best_reward` is that of its target so far,
    `better` whether this episode brought it."""
    target = outcome["target"]
    work.row(
        stage="sparsify",
        episode=episode,
        target=target,
        ratio=round(outcome["ratio"], 6),
        reward=round(outcome["reward"], 6),
        accuracy=round(outcome["accuracy"], 4),
        best_reward=round(best_reward, 6),
        sigma=round(sigma, 6),
        widths=list(outcome["widths"]),
        evaluations=len(env.evaluated),
        seconds=round(work.seconds(), 3),
    )
    strategy = " ".join(f"{share:.4g}" for share in env.executed(outcome["widths"]))
    log.info(
        "sparsify: episode %d: top-1 %.2f %%, top-5 %.2f %%, reward %.4f%s; target %g, %.4f of the MACs, "
        "%.4f of the target; kept %s",
        episode, outcome["top1"], outcome["top5"], outcome["reward"], ", the best yet" if better else "",
        target, outcome["ratio"], outcome["ratio"] / target, strategy,
        extra={"file_only": not better},
    )  # fmt: skip


def standing(targets: Sequence[float], best: Mapping[int, JSON]) -> str:
    """The best accuracy of every target that has one: best 91.2 % at 0.3, 97.0 % at 0.5; `best` is by index."""
    told = [f"{best[task]['accuracy']:.1f} % at {target:g}" for task, target in enumerate(targets) if task in best]
    return f"best {', '.join(told)}"
