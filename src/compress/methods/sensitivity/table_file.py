"""The file of a table of sensitivities: JSON, checked when it is read."""

import math
from pathlib import Path
from typing import Any

from compress.errors import InputError
from compress.io.files import JSON, read_json, write_json
from compress.io.paths import SENSITIVITY
from compress.search.sensitivity import Curve, Table
from compress.search.space import WidthSpace


def write_table(folder: Path, table: Table) -> None:
    write_json(folder / SENSITIVITY, {"dense_top1": table.dense_top1, "groups": [*map(_to_json, table.curves)]})


def _to_json(curve: Curve) -> JSON:
    return {"group": curve.name, "width": curve.full, "widths": list(curve.widths), "top1": list(curve.top1)}


def read_table(folder: Path, space: WidthSpace, full: tuple[int, ...]) -> Table:
    """The table in a folder, which must be of the groups of `space`, `full` channels wide each, and have a score of
    the narrowest width of each that can be narrowed.

    Raises:
        InputError: it is not, or no table at all.
    """
    path = folder / SENSITIVITY
    try:
        table = _table(read_json(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: holds no table of sensitivities ({error})") from None
    ours = [
        (name, full[space.places.index(at)], int(options[0]))
        for at, (name, options) in enumerate(zip(space.names, space.options, strict=True))
    ]
    theirs = [(curve.name, curve.full, min([curve.full, *curve.widths])) for curve in table.curves]
    if ours != theirs:
        raise InputError(f"{path}: its table is of another network, or of other allowed widths")
    return table


def _table(content: Any) -> Table:
    curves = tuple(
        Curve(str(one["group"]), _whole(one["width"]), tuple(map(_whole, one["widths"])), tuple(map(_percent, one["top1"])))
        for one in content["groups"]
    )  # fmt: skip
    for curve in curves:
        ascending = [*curve.widths, curve.full]
        if ascending != sorted(set(ascending)) or ascending[0] < 1 or len(curve.widths) != len(curve.top1):
            raise ValueError(f"{curve.name}: needs ascending widths below {curve.full}, and a top-1 of each")
    return Table(_percent(content["dense_top1"]), curves)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _percent(value: Any) -> float:
    if type(value) not in (int, float) or not (math.isfinite(value) and 0 <= value <= 100):
        raise ValueError(f"{value!r} is no percentage")
    return float(value)
