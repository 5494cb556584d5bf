"""The file of a table of sensitivities: JSON, checked when it is read."""

import math
from pathlib import Path
from typing import Any

from compress.errors import InputError
from compress.io.files import JSON, read_json, write_json
from compress.io.paths import SENSITIVITY
from compress.measure.accuracy import Score
from compress.search.sensitivity import Curve, Table
from compress.search.space import WidthSpace


def write_table(folder: Path, table: Table) -> None:
    write_json(folder / SENSITIVITY, {"dense": table.dense._asdict(), "groups": [*map(_to_json, table.curves)]})


def _to_json(curve: Curve) -> JSON:
    scores = {key: [getattr(score, key) for score in curve.scores] for key in Score._fields}
    return {"group": curve.name, "width": curve.full, "widths": list(curve.widths), **scores}


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
    curves = tuple(map(_curve, content["groups"]))
    dense = [content["dense"][key] for key in Score._fields]
    return Table(Score(*map(_number, dense)), curves)


def _curve(one: Any) -> Curve:
    full, widths = _whole(one["width"]), tuple(map(_whole, one["widths"]))
    ascending = [*widths, full]
    if ascending != sorted(set(ascending)) or ascending[0] < 1:
        raise ValueError(f"{one['group']}: widths must ascend from at least 1 to below {full}")
    columns = [[_number(value) for value in one[key]] for key in Score._fields]
    scores = tuple(Score(*row) for row in zip(*columns, strict=True))
    if len(scores) != len(widths):
        raise ValueError(f"{one['group']}: {len(scores)} scores of {len(widths)} widths")
    return Curve(str(one["group"]), full, widths, scores)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)
