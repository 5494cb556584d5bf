"""The five stages, one file each: what the stage does, what its cache key depends on, what it writes, its version."""

from compress.errors import OWN, SettingError
from compress.prune.method import Method
from compress.run.stages import evaluate, finetune, pretrain, prune, sparsify
from compress.run.stages.stage import Stage
from compress.schema.settings import STAGE_ORDER

PAGES = (pretrain, sparsify, prune, finetune, evaluate)
STAGES: dict[str, Stage] = {name: page.STAGE for name, page in zip(STAGE_ORDER, PAGES, strict=True)}


def needs(name: str, before: tuple[str, ...], method: Method) -> None:
    """
    Raises:
        SettingError: the stage `name` needs the result of a stage that is not among those before it.
    """
    traits = method.traits
    required = ["pretrain"] if name != "pretrain" and traits.begins == "trained" else []
    if traits.begins == "fresh" and name in ("finetune", "eval"):
        required = ["prune"]  # which writes the first network of such a run
    if name == "prune" and traits.needs_learned:
        required.append("sparsify")
    missing = [stage for stage in required if stage not in before]
    if missing:
        raise SettingError(f"{OWN}stages=[{', '.join((*before, name))}]: {name} needs {missing[0]} before it")
