"""Networks of other people's zoos: is each understood, is its cut right, what share of its MACs can go, how fast.

    pip install -e ".[dev,zoo-tests]"
    python benchmarks/zoos.py timm                       # one or two of every family: benchmarks/timm_networks.txt
    python benchmarks/zoos.py transformers ultralytics torchvision
    python benchmarks/zoos.py timm --only vit_tiny_patch16_224 --peer

Every network has a process of its own, one thread, and limits on time and memory. All its tensors of one dimension
and all that are zero are perturbed, so that the law below says something.

    groups    how many groups of channels were found, and of how many layers all outputs stay
    share     MACs left (by our count) at half the width of every group
    law       largest |masked - cut| over the largest output, in float64, of two plans with random widths and channels
    moved     how far these plans move the outputs, in the same unit: a law about nothing would say nothing
    changed   what `channel_graph` changed: tensors, attributes, modes, the random generator; nothing, that is
    seconds   CPU seconds of graph and cut; with --peer of torch-pruning's constructor and step beside them
"""

import argparse
import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from own_process import limit, result_of
from surgery import pruner_of
from tabulate import tabulate
from torch import Tensor, nn

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.models.inputs import call, tensors_in
from compress.prune.cost import cost_model
from compress.prune.surgery import Masks, cut

SECONDS, GIBIBYTES = 240, 14
DETECTORS = [
    "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large", "ssd300_vgg16",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
]  # fmt: skip
NAMES = Path(__file__).with_name("timm_networks.txt")
Made = tuple[nn.Module, tuple[int, int, int]]


# -- the zoos --------------------------------------------------------------------------------------------------


def of_timm(name: str) -> Made:
    import timm

    model = timm.create_model(name, num_classes=10)
    channels, height, width = model.default_cfg["input_size"]
    whole, small = (channels, height, width), (channels, 96, 96)
    if model.default_cfg.get("fixed_input_size") or height < 96:
        return model, whole
    try:
        with torch.no_grad():
            copy.deepcopy(model).eval()(torch.zeros(1, *small))
    except Exception:  # some want a size that their windows divide
        return model, whole
    return model, small


def of_transformers(name: str) -> Made:
    import transformers

    small: dict[str, dict[str, Any]] = {
        "ResNet": {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
        "ViT": {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "image_size": 96},
        "ConvNext": {"hidden_sizes": [48, 96, 192, 384], "depths": [2, 2, 4, 2]},
        "MobileNetV2": {},
        "Swin": {"image_size": 128, "window_size": 4, "embed_dim": 48},
        "Segformer": {},
    }
    config = getattr(transformers, f"{name}Config")(num_labels=10, **small[name])
    size = small[name].get("image_size", 96)
    return getattr(transformers, f"{name}ForImageClassification")(config), (3, size, size)


def of_ultralytics(name: str) -> Made:
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel(f"{name}.yaml", verbose=False), (3, 128, 128)


class Detector(nn.Module):
    """What of a detector of torchvision is a network of images, from the backbone to its heads. The rest looks at
    what was found; of one in two stages that includes the box heads, which read the maps that come out here too."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.backbone, self.in_two_stages = whole.backbone, hasattr(whole, "rpn")
        self.head = whole.rpn.head if self.in_two_stages else whole.head  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> Any:
        maps = list(self.backbone(images).values())  # type: ignore[operator]
        found = self.head(maps)  # type: ignore[operator]
        return (found, maps) if self.in_two_stages else found


def of_torchvision(name: str) -> Made:
    from torchvision import models

    model = models.get_model(name, weights=None, weights_backbone=None)
    return (Detector(model), (3, 320, 320)) if name in DETECTORS else (model, (3, 128, 128))


ZOOS: dict[str, tuple[Callable[[str], Made], Callable[[], list[str]]]] = {
    "timm": (of_timm, lambda: NAMES.read_text().split()),
    "transformers": (of_transformers, lambda: ["ResNet", "ViT", "ConvNext", "MobileNetV2", "Swin", "Segformer"]),
    "ultralytics": (of_ultralytics, lambda: ["yolov8n", "yolo11n"]),
    "torchvision": (
        of_torchvision,
        lambda: ["deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large", *DETECTORS],
    ),
}


# -- one network -----------------------------------------------------------------------------------------------


def perturb(model: nn.Module) -> None:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and (tensor.dim() < 2 or not tensor.any()):
                tensor += 0.2 * torch.rand(tensor.shape, generator=random).to(tensor)


def state(model: nn.Module) -> dict[str, Any]:
    """What looking at a network must leave alone."""
    tensors = {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    plain = {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float | str | tuple)
    }
    hooks = {name: (len(module._forward_hooks), "forward" in vars(module)) for name, module in model.named_modules()}
    return {"generator": torch.get_rng_state(), **tensors, **plain, **hooks}


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    def same(one: Any, other: Any) -> bool:
        return bool(torch.equal(one, other)) if isinstance(one, Tensor) else bool(one == other)

    return [
        key for key in before | after if key not in after or key not in before or not same(before[key], after[key])
    ]


def random_plan(graph: Any, seed: int) -> Plan:
    random = torch.Generator().manual_seed(seed)

    def kept(width: int) -> list[int]:
        count = int(torch.randint(max(1, width // 3), width + 1, (), generator=random))
        return sorted(torch.randperm(width, generator=random)[:count].tolist())

    return Plan({group.name: kept(group.width) for group in graph})


def answers(model: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [tensor.double() for tensor in tensors_in(model(images))]


def apart(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in zip(one, other, strict=True))


def measure(zoo: str, name: str, peer: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    model, shape = ZOOS[zoo][0](name)
    model = model.eval()
    perturb(model)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    before = state(model)
    began = time.process_time()
    graph = channel_graph(model, shape)
    found = time.process_time() - began
    result: dict[str, Any] = {
        "changed": changed(before, state(model)), "groups": len(graph), "frozen": len(graph.frozen), "law": 0.0,
        "reasons": sorted(set(graph.frozen.values())), "moved": 0.0, "share": 1.0, "layers": len(graph.layers),
    }  # fmt: skip
    if not len(graph):
        return result
    half = Plan({group.name: range(max(1, group.width // 2)) for group in graph})
    began = time.process_time()
    small = cut(model, graph, half)
    result["seconds"] = found + time.process_time() - began
    prices = cost_model(model, graph, shape)
    result["share"] = prices.macs(half) / prices.full_macs
    call(small, shape)
    precise = copy.deepcopy(model).double()
    dense = answers(precise, images)
    for seed in (0, 1):
        plan = random_plan(graph, seed)
        cut_answers = answers(cut(precise, graph, plan), images)
        with Masks(precise, graph)(plan):
            result["law"] = max(result["law"], apart(answers(precise, images), cut_answers))
        same_shapes = all(a.shape == b.shape for a, b in zip(cut_answers, dense, strict=True))
        result["moved"] = max(result["moved"], apart(cut_answers, dense) if same_shapes else float("inf"))
    if peer:
        result["peer"] = _peer(ZOOS[zoo][0](name)[0].eval(), shape)
    return result


def _peer(model: nn.Module, shape: tuple[int, int, int]) -> float | None:
    """CPU seconds of torch-pruning; None if it gives up or leaves a network that does not run."""
    try:
        began = time.process_time()
        pruner_of(model, shape).step()
        taken = time.process_time() - began
        with torch.no_grad():
            model(torch.randn(1, *shape))
        return taken
    except Exception:
        return None


# -- all of them -----------------------------------------------------------------------------------------------


def in_a_process(zoo: str, name: str, peer: bool) -> dict[str, Any]:
    asked = [zoo, "--child", name, *(["--peer"] if peer else [])]
    return result_of(__file__, *asked, seconds=6 * SECONDS, most=300)


def summary(results: dict[str, dict[str, Any]]) -> str:
    understood = [one for one in results.values() if "error" not in one and one["groups"]]
    wrong = [name for name, one in results.items() if one.get("law", 0.0) > 1e-9]
    both = [one for one in understood if one.get("peer") is not None]
    lines = [
        f"{len(understood)} of {len(results)} understood, median share of the MACs at half widths "
        f"{statistics.median(one['share'] for one in understood):.3f}" if understood else "none understood",
        f"law broken: {', '.join(wrong) or 'none'}; changed by looking: "
        f"{', '.join(name for name, one in results.items() if one.get('changed')) or 'none'}",
    ]  # fmt: skip
    if both:
        slower = [name for name, one in results.items() if one.get("peer") and one["seconds"] > one["peer"]]
        ours, theirs = (sum(one[key] for one in both) for key in ("seconds", "peer"))
        lines.append(f"both run {len(both)}: {ours:.1f} s beside torch-pruning's {theirs:.1f}; slower on {slower}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoos", nargs="+", choices=list(ZOOS))
    parser.add_argument("--only", nargs="*", help="names; else all of the zoo's list")
    parser.add_argument("--peer", action="store_true", help="torch-pruning's seconds too")
    parser.add_argument(
        "--out", type=Path, help="a file of JSON lines, one per network; those in it are not run again"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if asked.child:
        limit(2 * SECONDS, GIBIBYTES)
        print(json.dumps(measure(asked.zoos[0], asked.child, asked.peer)))
        return
    for zoo in asked.zoos:
        done: dict[str, dict[str, Any]] = {}
        if asked.out and asked.out.exists():
            rows = [json.loads(line) for line in asked.out.read_text().splitlines()]
            done = {row["name"]: row for row in rows if row["zoo"] == zoo}
        results = {}
        for name in asked.only or ZOOS[zoo][1]():
            results[name] = done.get(name) or in_a_process(zoo, name, asked.peer)
            if asked.out and name not in done:
                with asked.out.open("a") as file:
                    file.write(json.dumps({"zoo": zoo, "name": name, **results[name]}) + "\n")
            print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
        columns = ("groups", "frozen", "share", "law", "moved", "seconds", "peer")
        table = [
            [name, *(one.get(key) for key in columns), "; ".join(one.get("changed", []))[:40] or one.get("error", "")]
            for name, one in results.items()
        ]
        print(tabulate(table, [zoo, *columns, ""], tablefmt="github", floatfmt=".3g"))
        print(f"\ntorch {torch.__version__}\n{summary(results)}\n", flush=True)


if __name__ == "__main__":
    main()
