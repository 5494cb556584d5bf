"""What a run leaves beside its summary: what each layer kept, and its rows of every epoch and episode."""

from compress.errors import InputError, first_line
from compress.io.files import JSON, read_json, read_rows
from compress.io.paths import METRICS
from compress.report.read.runs import Run


def kept_ratios(run: Run) -> dict[str, float]:
    """Share of every layer that is left: of its outputs, or of its weights where single ones went.

    Raises:
        InputError: there is no plan, or it is damaged.
    """
    try:
        plan = read_json(run.plan)
        if plan.get("sparsity"):
            return {name: layer["nonzero"] / layer["total"] for name, layer in plan["sparsity"]["layers"].items()}
        return {name: layer["kept_width"] / layer["width"] for name, layer in plan["layers"].items()}
    except FileNotFoundError:
        raise InputError(f"{run.plan}: no such file; a run without the stage prune has no plan") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{run.plan}: damaged ({first_line(error)})") from None


def rows_of(run: Run) -> list[JSON]:
    """
    Raises:
        InputError: metrics.jsonl is damaged.
    """
    try:
        return read_rows(run.folder)
    except (ValueError, OSError) as error:
        raise InputError(f"{run.folder / METRICS}: damaged ({first_line(error)})") from None
