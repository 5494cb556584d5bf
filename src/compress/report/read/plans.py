"""What the plan of a run kept of every layer."""

from compress.errors import InputError, first_line
from compress.io.files import read_json
from compress.report.read.runs import Run


def kept_shares(run: Run) -> dict[str, float]:
    """Of every layer the share of output channels that is left; of a network with masks, that of the weights.

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
