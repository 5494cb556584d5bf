"""Strategies in the format of AMC's published code, written and read: the kept input channels of every layer.

The format is a list with one entry per convolution or linear layer that is not depthwise, in order: the share of its
input channels that is kept (`strategy`), or their number (`d_primes`); the first layer reads the whole image. A list
with one entry per channel group is read too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from compress.errors import OWN, SettingError
from compress.graph.types import ChannelGraph
from compress.io.files import JSON, MOST_JSON, parse_json
from compress.prune.cost import CostModel


def layer_form(graph: ChannelGraph, cost: CostModel, widths: Sequence[int]) -> JSON:
    """Widths of all groups in the published format: `strategy`, `d_primes`, and `layers`, the names of their
    layers."""
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
    """A list unchanged, or read from a path: a file with a JSON list, one with numbers separated by commas or spaces,
    a run's plan.json, or a run folder.

    Raises:
        InputError: no such file, or its content is none of these.
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
    """Widths of all groups from kept shares (if all entries are <= 1) or numbers of channels, per layer or per group.

    Raises:
        InputError: a wrong length, an entry out of bounds, or contradicting entries of layers that read the same
        group.
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
    """Widths of all groups from the input channels of the layers, `counts`; `full` are those of the uncut network.

    A layer whose inputs are of one group determines that group's width. The other layers (behind a concatenation) are
    checked at the end.
    """
    layers = {layer.name: layer for layer in graph.layers}
    found: dict[str, tuple[int, str]] = {}  # group -> its width, and the layer that determined it
    for name, count in counts.items():
        axis = layers[name].in_axis
        groups = [group for group in graph if axis in group.positions]
        if len(groups) != 1:
            continue
        group = groups[0]
        per_channel = group.positions[axis].shape[1]  # type: ignore[index]
        frozen = full[name] - per_channel * group.width
        width = (count - frozen) // per_channel
        if not 1 <= width <= group.width:
            raise SettingError(f"{OWN}strategy: {count} for {name} leaves {width} of its {group.width} channels")
        before, first = found.setdefault(group.name, (width, name))
        if before != width:
            raise SettingError(
                f"{OWN}strategy: {first} and {name} read the same channels, and must keep as many of them; "
                f"got {before} and {width}"
            )
    missing = [group.name for group in graph if group.name not in found]
    if missing:
        raise SettingError(
            f"{OWN}strategy: the layers' inputs do not tell the width of {missing[0]}; give {len(graph)} entries, "
            "one for every group of channels"
        )
    widths = tuple(found[group.name][0] for group in graph)
    got = _inputs(graph, cost, widths)
    for name, count in counts.items():
        if got[name] != count:
            raise SettingError(f"{OWN}strategy: {count} for {name}; its other entries leave it {got[name]} inputs")
    return widths
