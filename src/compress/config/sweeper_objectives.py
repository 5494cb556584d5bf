"""What a sweeper is to make of a run's objective: a direction for each figure, and the right one."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

HIGHER_IS_BETTER = ("held_out_top1", "top1", "top5")


def check_direction(config: DictConfig) -> list[str]:
    """Sweepers like optuna's minimise unless they are told otherwise, which would find the worst network."""
    asked: Any = OmegaConf.select(config, "hydra.sweeper.direction")
    if asked is None:
        return []
    directions = [_word(item) for item in (asked if OmegaConf.is_list(asked) else [asked])]
    figures = list(config.objective) if OmegaConf.is_list(config.objective) else [config.objective]
    if len(directions) != len(figures):
        return [
            f"hydra.sweeper.direction={','.join(directions)}: must be one for each of "
            f"objective={','.join(map(str, figures))}"
        ]
    better = {figure: "maximize" if figure in HIGHER_IS_BETTER else "minimize" for figure in figures}
    if directions == list(better.values()):
        return []
    right = ",".join(better.values())
    given = right if len(figures) == 1 else f"[{right}]"
    return [f"hydra.sweeper.direction={','.join(directions)}: would find the worst network; give {given}"]


def _word(direction: Any) -> str:
    """Of a plain word, or of an enumeration's member."""
    return str(getattr(direction, "name", direction))
