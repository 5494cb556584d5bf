"""The functions of `import compress`: pruning, counting and export of any network, without a config.

The channel graph of a network is cached for as long as the network exists and its tensors keep their shapes. A call
with an example always traces the network again.
"""

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from compress.config.criteria import GivenBatches, criterion_of
from compress.config.zoo import zoo_spec
from compress.data.base import Batch
from compress.errors import InputError, nearest
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.paths import MODEL
from compress.measure.counts import Counts
from compress.measure.counts import counts as count
from compress.measure.macs import UncountedOperators, count_operators, describe_uncounted
from compress.models import onnx
from compress.models.inputs import Given, Inputs, inner, inputs_of, unwrapped
from compress.prune import surgery
from compress.prune.budget import alone, ceilings_of, prices
from compress.prune.cost import CostModel, cost_model
from compress.prune.criteria.criterion import Criterion, Normalise, normalised, totals
from compress.prune.limits import Limits, limited, within_limits
from compress.prune.order import channel_orders, plan_of
from compress.prune.saved_network import load_network
from compress.prune.selection import Scope, Selection, ceilings_for, check_reach
from compress.prune.selection import select as selected
from compress.prune.widths import all_choices, ends, uniform_within
from compress.schema.bounds import Count, Seed, Share
from compress.schema.check import check_settings, check_value
from compress.schema.settings import Budget, RunSettings, budget_of
from compress.train.memory_format import unsafe_layers

if TYPE_CHECKING:
    from compress.search.gym import WidthEnv

# Images (B, C, H, W), or the shape (C, H, W) of one; another batch; the arguments of a call, or the named ones
Example = Tensor | Sequence[int] | tuple[Any, ...] | dict[str, Any]


@dataclass
class _Trace:
    inputs: Given
    tensors: dict[str, tuple[int, ...]]  # shapes of parameters and buffers when it was traced
    graph: ChannelGraph
    buffers: dict[str, Tensor] = field(default_factory=dict)  # memory for masked weights, reused by every plan
    is_masked: bool = False


_traces: "WeakKeyDictionary[nn.Module, _Trace]" = WeakKeyDictionary()


def _shape_of(example: Example) -> tuple[int, int, int]:
    """Of one image, where nothing else will do."""
    given = inputs_of(example)
    if isinstance(given, Inputs):
        raise InputError(f"example: must be images (B, C, H, W) or the shape (C, H, W) of one; got inputs of {given}")
    return given


def _network(model: nn.Module) -> nn.Module:
    """The network itself, or the one inside of DataParallel and its kind or of torch.compile.

    Raises:
        InputError: not a network, or a scripted one.
    """
    model = inner(model)
    if isinstance(model, torch.jit.ScriptModule) or not isinstance(model, nn.Module):
        raise InputError(f"{type(model).__name__}: must be an nn.Module that is not scripted")
    return model


def _trace(model: nn.Module, example: Example | None) -> _Trace:
    """Trace the network if there is an example or if its shapes have changed; else return the cached trace.

    Raises:
        InputError: the network was not traced before, and there is no example.
    """
    model = _network(model)
    tensors = {name: tuple(t.shape) for name, t in (*model.named_parameters(), *model.named_buffers())}
    trace = _traces.get(model)
    if example is None and trace is not None and trace.tensors == tensors:
        return trace
    if example is None and trace is None:
        raise InputError(
            f"{type(model).__name__}: its channels are not known yet; "
            "call compress.channel_groups(model, example) first, or give example="
        )
    inputs = trace.inputs if example is None and trace is not None else inputs_of(example)
    trace = _traces[model] = _Trace(inputs, tensors, channel_graph(model, inputs))
    return trace


def _check_plan(plan: Plan) -> None:
    if not isinstance(plan, Plan):
        raise InputError(f"plan: must be a compress.Plan, not {type(plan).__name__}")


def load(run: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The final network of a run, in eval mode, on the CPU.

    Args:
        run: a run folder, or a `model.safetensors` that a run left.
        model: the network at full width, needed if it is not from `compress.models`; it is not changed.

    Raises:
        compress.errors.InputError: no such network, or it cannot be rebuilt safely.
    """
    path = Path(run)
    path = path / MODEL if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{run}: holds no {MODEL}; give the folder of a finished run")
    return load_network(path, None if model is None else lambda: copy.deepcopy(model))[0]


def zoo(name: str, shape: Sequence[int] = (3, 32, 32), classes: int = 10, **settings: Any) -> nn.Module:
    """A network of the zoo with random weights, as `model=<name>` builds it: `zoo("vgg19_bn", conv_bias=True)`.

    Args:
        name: a file of conf/model.
        shape: of one image, (C, H, W).
        settings: replace values of that file.

    Raises:
        compress.errors.InputError: no such network or setting, or a value that is not allowed.
    """
    problems = check_value("classes", classes, Count)
    if problems:
        raise InputError(*problems)
    return zoo_spec(name, _shape_of(shape), classes, **settings).build()


def channel_groups(model: nn.Module, example: Example) -> ChannelGraph:
    """The groups of channels that can only be removed together, in order of execution; each has `.name`, `.width`.

    Args:
        model: any network that decides nothing by values of activations; it is left as it was. Of one inside
            DataParallel, DistributedDataParallel or torch.compile the network inside is looked at, and names are its.
        example: images (B, C, H, W), or the shape (C, H, W) of one; any other batch in a tensor (vectors, tokens,
            sequences, volumes), of which the first is taken; or a tuple, the arguments of a call, or a dict, its
            named ones, which may hold tensors in any nesting and are taken as they are. Of floating point only
            shapes matter; tokens and masks are data.

    Returns:
        A sequence of groups. Its `.frozen` gives, for every layer that cannot be cut, the reason.

    Raises:
        compress.errors.InputError: the network has control flow that depends on values (the message names the line),
            or does not take such images.
    """
    return _trace(model, example).graph


def cut(model: nn.Module, plan: Plan, example: Example | None = None) -> nn.Module:
    """A copy of the network with only the channels that `plan` keeps.

    Its train or eval mode and the `requires_grad` of its parameters are those of `model`.

    Args:
        example: needed only if `channel_groups` was not called on this model before.

    Raises:
        ValueError: the plan names a group or a channel that does not exist; the message lists those that do.
    """
    _check_plan(plan)
    return surgery.cut(_network(model), _trace(model, example).graph, plan)


@contextmanager
def masked(model: nn.Module, plan: Plan, example: Example | None = None) -> Iterator[nn.Module]:
    """In `with masked(model, plan):` the model computes what `cut(model, plan)` computes, at its full shapes.

    Much cheaper than a cut, so suited to searches. The weights are restored at the end, also after an error; changes
    made to them in the block are lost. Memory for a masked copy of the weights stays allocated as long as the model.
    """
    _check_plan(plan)
    trace = _trace(model, example)
    if trace.is_masked:
        raise InputError(f"{type(model).__name__}: is masked already; leave that `with` first")
    trace.is_masked = True
    try:
        with unwrapped(model), surgery.Masks(_network(model), trace.graph, trace.buffers)(plan):
            yield model
    finally:
        trace.is_masked = False


def cost(model: nn.Module, example: Example) -> CostModel:
    """The cost of any plan: `.macs(plan)`, `.params(plan)`; of many plans at once from an array of their widths,
    (plans, groups) -> (plans,).

    MACs are multiply-adds of convolutions, linear, bilinear and recurrent layers and matrix products for one image.
    An operator without a formula counts as 0; a `UserWarning` names it, and `.uncounted` lists it by layer.
    """
    trace = _trace(model, example)
    prices = cost_model(_network(model), trace.graph, trace.inputs)
    _warn_uncounted(model, prices.uncounted)
    return prices


def _warn_uncounted(model: nn.Module, uncounted: UncountedOperators) -> None:
    """Warn at the line of the user's code: `stacklevel` assumes that a public function calls this directly."""
    if uncounted:
        told = f"{type(model).__name__}: {describe_uncounted(uncounted)}"
        warnings.warn(told, UserWarning, stacklevel=3)


def uniform_plan(
    model: nn.Module,
    example: Example,
    *,
    preserve_ratio: float | None = None,
    percent: float | None = None,
    flops_limit: float | None = None,
    params_limit: float | None = None,
    round_to: int = 8,
    skip: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    keep: Mapping[str, float] | None = None,
) -> Plan:
    """Keep about the same share of the channels of every group, the largest that is within the budget.

    The channels kept are those that later layers read with the largest weights (L1 norm). Widths are never zero, and
    multiples of `round_to` unless a group has fewer channels; a larger budget never gives a narrower group.

    Args:
        preserve_ratio, percent, flops_limit, params_limit: the budget, one or several of them, which all hold: the
            share of MACs kept, the share of channels removed, MMACs left, millions of parameters left.
        skip: layers that keep all channels that they make, by name or pattern: `["conv1", "layer4.*"]`.
        only: all others keep theirs.
        keep: shares that stay at least, by layer: `{"layer1.*": 0.5}`.

    Raises:
        compress.errors.InputError: no budget, or one that cannot be reached with these widths: the message says what
            can; or a pattern names no layer.
    """
    budget = _budget(
        preserve_ratio=preserve_ratio, percent=percent, flops_limit=flops_limit, params_limit=params_limit
    )
    given: dict[str, Any] = {
        "skip": None if skip is None else list(skip),
        "only": None if only is None else list(only),
        "keep": keep,
    }
    problems = check_value("round_to", round_to, Count) + check_settings("", given, Limits)
    if problems:
        raise InputError(*problems)
    trace = _trace(model, example)
    limits = Limits(**given)
    graph = limited(trace.graph, limits)
    cost_of = cost_model(_network(model), trace.graph, trace.inputs)
    _warn_uncounted(model, cost_of.uncounted)
    ceilings = ceilings_of(budget, cost_of.full_widths, prices(cost_of))
    if not trace.graph.groups and (not ceilings.fits(cost_of.full_widths)[0] or not cost_of.full_macs):
        raise InputError(f"{type(model).__name__}: no channel of this network can be cut ({trace.graph.why_nothing})")
    options = all_choices(graph, round_to)
    with within_limits(limits):
        ceilings.check(ends(options)[0])
    widths = uniform_within(cost_of.full_widths, options, ceilings.fits)
    return plan_of(graph, channel_orders(_network(model), graph), widths)


def scores(
    model: nn.Module,
    criterion: str | Criterion = "l1",
    batches: Iterable[Batch] | None = None,
    *,
    example: Example | None = None,
    seed: int = 0,
    **settings: Any,
) -> dict[str, Tensor]:
    """How much every channel matters: (width,) float64 by name of its group, on the CPU. The network is left as it
    was.

    Args:
        criterion: a file of conf/criterion (docs/criteria.md: l1, l2, fpgm, taylor, bn_scale, osscar, random), or one
            of your own. A group that it has no scores for is missing.
        batches: (images (B, C, H, W), labels (B,)), for taylor and osscar; never of test images. All of them are
            read, whatever `images` and `batch_size` of the file say.
        example: needed only if `channel_groups` was not called on this model before.
        settings: replace values of that file: `scores(model, "taylor", batches, of="norms")`.

    Raises:
        compress.errors.InputError: no such criterion or setting, a value that is not allowed, no batches.
    """
    problems = check_value("seed", seed, Seed)
    if isinstance(criterion, str):
        made = criterion_of(criterion, **settings)
    else:
        made = criterion
        problems += [f"{name}: is no setting here; the criterion is made already" for name in settings]
    if problems:
        raise InputError(*problems)
    graph, network = _trace(model, example).graph, _network(model)
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    asks = criterion if isinstance(criterion, str) else type(criterion).__name__
    return dict(totals(made(network, graph, GivenBatches(batches, device, seed, asks))))


def select(
    groups: ChannelGraph,
    scores: Mapping[str, Tensor],
    *,
    preserve_ratio: float | None = None,
    percent: float | None = None,
    flops_limit: float | None = None,
    params_limit: float | None = None,
    prices: CostModel | None = None,
    scope: Scope = "global",
    normalise: Normalise = "mean",
    protect: float = 0.9,
    min_channels: int = 1,
    round_to: int = 1,
) -> Plan:
    """Remove the channels with the smallest scores until the budget is met. A larger budget keeps all channels that a
    smaller one keeps.

    Args:
        groups: of `channel_groups`.
        scores: (width,) by name of the group, such as those of `scores`. A group without any keeps its channels.
        preserve_ratio, percent, flops_limit, params_limit: the budget: the share of MACs kept, the share of the
            scored channels removed, MMACs left, millions of parameters left. Of several the first is the aim, and
            the others are upper limits.
        prices: `cost` of the network, for a budget in MACs or parameters.
        scope: "global": all scores in one pool; "layer": the same share of every group; "isomorphic": the same share
            of every class of groups whose layers have the same structure.
        normalise: "mean" divides the scores of each group by their mean first, to compare groups; "none".
        protect: no group loses more than this share of its channels.
        min_channels: that stay in every group, at least.
        round_to: widths are multiples of it, but for groups with fewer channels.

    Raises:
        compress.errors.InputError: no budget, or one out of reach (the message says what is in reach), scores
            or prices that do not fit the groups, or a value that is not allowed.
    """
    budget = _budget(
        preserve_ratio=preserve_ratio, percent=percent, flops_limit=flops_limit, params_limit=params_limit
    )
    values = {"protect": protect, "min_channels": min_channels, "round_to": round_to}
    rules = {"protect": Share, "min_channels": Count, "round_to": Count}
    problems = check_value("scope", scope, Scope) + check_value("normalise", normalise, Normalise)
    problems += [line for key, value in values.items() for line in check_value(key, value, rules[key])]
    problems += _unfit(groups, scores, budget, prices)
    if problems:
        raise InputError(*problems)
    how = Selection(
        scope=scope,
        select="rank",
        on_empty="keep_max",
        min_channels=min_channels,
        round_to=round_to,
        coupled="sum",
        refit_images=0,
        protect=protect,
    )
    parts = normalised({name: [score.detach().double().cpu()[:, None]] for name, score in scores.items()}, normalise)
    ceilings = ceilings_for(groups, prices, budget, scores)
    check_reach(how, groups, ceilings, set(scores))
    return selected(how, groups, ceilings, totals(parts)).plan


def _budget(**values: float | None) -> Budget:
    """
    Raises:
        InputError: no value, or one that is not allowed.
    """
    given = {key: value for key, value in values.items() if value is not None}
    if not given:
        raise InputError(f"a budget: must be one or several of {', '.join(values)}; got none")
    hints = get_type_hints(RunSettings, include_extras=True)
    problems = [line for key, value in given.items() for line in check_value(key, value, hints[key])]
    if problems:
        raise InputError(*problems)
    return budget_of(given)


def _unfit(groups: ChannelGraph, scores: Mapping[str, Tensor], budget: Budget, prices: CostModel | None) -> list[str]:
    """Problems of scores and prices that are not of these groups, or are missing."""
    widths = {group.name: group.width for group in groups}
    problems = [] if scores else ["scores: holds none, so no channel can go"]
    for name, score in scores.items():
        if name not in widths:
            problems.append(f"scores: names group {name!r}; {nearest(name, widths)}")
        elif not isinstance(score, Tensor) or score.shape != (widths[name],):
            shape = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            problems.append(f"scores: of {name} must be a tensor ({widths[name]},); got {shape}")
        elif not bool(score.isfinite().all()):
            problems.append(f"scores: of {name} hold a value that is not finite")
    priced = [each for each in budget.every if each.kind != "percent"]
    if prices is None and priced:
        what = "parameters" if priced[0].kind == "params_limit" else "MACs"
        problems.append(f"{alone(priced[0])}: counts {what}; give prices=compress.cost(model, example)")
    elif prices is not None and dict(zip(prices.names, prices.full_widths.tolist(), strict=True)) != widths:
        problems.append("prices: are not of these groups; give compress.cost of the same network")
    return problems


def unsafe_in_channels_last(model: nn.Module) -> list[str]:
    """The layers whose weight gradients may corrupt memory on a CPU, in float32 and channels_last; mostly none.

    These are narrow 1x1 convolutions with a stride, which pruning may produce. Train a network that has some in the
    contiguous memory format.
    """
    return unsafe_layers(_network(model))


def counts(model: nn.Module, example: Example) -> Counts:
    """MACs and parameters of the network as it is now, in every convention that published tables use.

    A `UserWarning` names the operators, each with its layer, that no formula counts.
    """
    model, inputs = _network(model), inputs_of(example)
    operators = count_operators(model, inputs)
    _warn_uncounted(model, operators.uncounted)
    return count(model, inputs, operators)


def export_onnx(model: nn.Module, path: str | Path, example: Example) -> float:
    """Write an ONNX file of the network in eval mode, in float32, for any batch size: input "images" (B, C, H, W),
    output "logits" (B, classes).

    Returns:
        The largest difference between the logits of onnxruntime and torch, relative to the largest logit.

    Raises:
        compress.errors.InputError: the extra `onnx` is not installed.
    """
    return onnx.export_onnx(model, Path(path), _shape_of(example))


def environment(
    *overrides: str,
    rule: Literal["projected", "walls"] = "projected",
    budgets: Sequence[float] | None = None,
    reach: float = 1.0,
) -> "WidthEnv":
    """The search for widths of a run as a `gymnasium.Env`: `environment("method=sample", "preserve_ratio=0.5")`.

    What comes before the search (the dense network, or a supernet) is taken from the cache under `outputs/`, or
    trained now and kept there. No run folder is written, and no test image is seen.

    Args:
        overrides: those of the command line; a method that searches widths: sample, amc, camc, metaprune, supernet.
            Its settings give the widths that are allowed, and the scorer.
        rule: what an action means. "projected": how much wider than the others a place is to be; all of them are
            brought to the budget at the end. "walls": the share that is kept, held to what the budget still allows.
        budgets: values of the run's kind of budget (`preserve_ratio`, if none is named), of which each episode draws
            one; the observation tells it. Without it, the budget of the run alone.
        reach: of the rule "projected": the natural logarithm of the factor that an action of 1 asks for.

    Raises:
        compress.errors.InputError: every mistake of the overrides; the extra `gym` is not installed.
    """
    from compress.config.environment import environment as made  # loads Hydra, and gymnasium, which is an extra

    return made(overrides, rule, budgets, reach)
