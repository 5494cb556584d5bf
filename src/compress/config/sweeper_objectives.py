"""Checks that a sweeper that optimises (optuna) minimises or maximises each objective in the right direction."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

HIGHER_IS_BETTER = ("held_out_top1", "top1", "top5")


def check_direction(config: DictConfig) -> list[str]:
    """Report directions that are wrong, or more or fewer than there are objectives. optuna minimises by default, and
    would then search for the lowest accuracy."""
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
    """A direction as text; the sweeper's config has it as text or as a member of an enumeration."""
    return str(getattr(direction, "name", direction))
