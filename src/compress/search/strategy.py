"""A strategy in the form of AMC's published code, written and read: the kept input channels of every layer.

There it is a list with one entry per convolution or linear layer that is not depthwise, in order: the share of its
inputs that stays (`strategy`), or their number (`d_primes`); the first layer reads the image, all of it. One entry
per channel group does as well.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from compress.errors import OWN, SettingError
from compress.graph.types import ChannelGraph
from compress.io.files import JSON, MOST_JSON, parse_json
from compress.prune.cost import CostModel


def layer_form(graph: ChannelGraph, cost: CostModel, widths: Sequence[int]) -> JSON:
    """`strategy`, `d_primes` and the `layers` that they are of."""
    full, kept = _inputs(graph, cost, cost.full_widths.tolist()), _inputs(graph, cost, widths)
    return {
        "strategy": [kept[name] / full[name] for name in full],
        "d_primes": list(kept.values()),
        "layers": list(full),
    }


def _inputs(graph: ChannelGraph, cost: CostModel, widths: Sequence[int]) -> dict[str, int]:
    """Input channels of every layer that is not depthwise, by name, in order."""
    counts = cost.layer_inputs(widths)[0].tolist()
    pairs = zip(graph.layers, counts, strict=True)
    return {layer.name: count for layer, count in pairs if layer.in_axis is not None}


def read_strategy(given: Sequence[float] | str) -> list[float]:
    """A list as it is, or from a file: a JSON list, numbers with commas or spaces between, or a run's plan.json.

    Raises:
        InputError: no such file, or something else in it.
    """
    if not isinstance(given, str):
        return list(given)
    if not given.strip():
        raise SettingError(f"{OWN}strategy=: must be a list of shares or numbers, a file with one, or a run folder")
    path = Path(given).expanduser()
    try:
        source = path / "plan.json" if path.is_dir() else path
        if source.stat().st_size > MOST_JSON:
            raise OSError(f"larger than {MOST_JSON:,} bytes")
        text = source.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{OWN}strategy={given}: cannot be read ({error}); give a list, a file or a run") from None
    try:
        content = parse_json(text) if text.lstrip()[:1] in ("[", "{") else text.replace(",", " ").split()
        listed = content["own"]["d_primes"] if isinstance(content, dict) else content
        return [float(value) for value in listed]
    except (ValueError, TypeError, KeyError, OverflowError):
        raise SettingError(
            f"{OWN}strategy={given}: must hold a list of numbers, or be the plan.json of a run of amc or camc"
        ) from None


def widths_of(graph: ChannelGraph, cost: CostModel, listed: Sequence[float]) -> tuple[int, ...]:
    """Widths of the groups from shares (all at most 1) or numbers of channels, per layer or per group.

    Raises:
        InputError: another length, a number out of bounds, or layers that read one group and disagree.
    """
    layers = _inputs(graph, cost, cost.full_widths.tolist())
    per_layer = len(listed) == len(layers)
    if not per_layer and len(listed) != len(graph):
        raise SettingError(
            f"{OWN}strategy: has {len(listed)} entries; must have {len(layers)}, one for every layer's inputs, or "
            f"{len(graph)}, one for every group of channels"
        )
    full = layers if per_layer else dict(zip(cost.names, cost.full_widths.tolist(), strict=True))
    counts = {}
    as_shares = max(listed) <= 1
    for (name, most), value in zip(full.items(), listed, strict=True):
        count = value * most if as_shares else value
        if not (value > 0 and count <= most and (as_shares or count == int(count))):
            raise SettingError(
                f"{OWN}strategy: {value:g} for {name} must be a share in (0, 1] or a whole number in [1, {most}], "
                "and so for all"
            )
        counts[name] = max(1, round(count))
    return _of_groups(graph, cost, full, counts) if per_layer else tuple(counts.values())


def _of_groups(
    graph: ChannelGraph, cost: CostModel, full: Mapping[str, int], counts: Mapping[str, int]
) -> tuple[int, ...]:
    """From what the layers read, layer by layer: a layer that reads one group tells its width."""
    layers = {layer.name: layer for layer in graph.layers}
    told: dict[str, tuple[int, str]] = {}  # group -> width and the layer that said so
    for name, count in counts.items():
        axis = layers[name].in_axis
        mine = [group for group in graph if axis in group.positions]
        if len(mine) != 1:
            continue
        per_channel = mine[0].positions[axis].shape[1]  # type: ignore[index]
        fixed = full[name] - per_channel * mine[0].width
        width = (count - fixed) // per_channel
        if not 1 <= width <= mine[0].width:
            raise SettingError(f"{OWN}strategy: {count} for {name} leaves {width} of its {mine[0].width} channels")
        before, said = told.setdefault(mine[0].name, (width, name))
        if before != width:
            raise SettingError(
                f"{OWN}strategy: {said} and {name} read the same channels, and must keep as many of them; "
                f"got {before} and {width}"
            )
    silent = [group.name for group in graph if group.name not in told]
    if silent:
        raise SettingError(
            f"{OWN}strategy: the layers' inputs do not tell the width of {silent[0]}; give {len(graph)} entries, "
            "one for every group of channels"
        )
    widths = tuple(told[group.name][0] for group in graph)
    got = _inputs(graph, cost, widths)
    for name, count in counts.items():
        if got[name] != count:
            raise SettingError(f"{OWN}strategy: {count} for {name}; its other entries leave it {got[name]} inputs")
    return widths
