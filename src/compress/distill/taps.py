"""Where feature maps are read: the ends of a network's stages, found by a forward pass, and the shapes there."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import pooling

from compress.distill.adapters import Shape
from compress.errors import InputError
from compress.measure.macs import in_eval_mode
from compress.train.objective import check_taps, tapped

POOLS = (pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveAvgPoolNd, pooling._AdaptiveMaxPoolNd)


def stage_ends(network: nn.Module, image: tuple[int, int, int]) -> list[str]:
    """Paths of the modules that give the last map of each height and width, in the order in which they are called.

    Looked at are the modules that follow each other in a chain of blocks: the members of `nn.Sequential`, not what is
    inside of a block (where a bottleneck, say, has maps of the size before), nor a stem outside of any chain; of a
    network without such chains its own children. Poolings end no stage. A module that ends a chain goes by the name
    of the chain: layer1, not layer1.2. The network is not changed.
    """
    steps = list(_steps(network))
    chained = [path for path in steps if "." in path or _is_chain(network)]
    last: dict[tuple[int, int], str] = {}
    for path, size in _map_sizes(network, chained or steps, image):
        last.pop(size, None)
        last[size] = path
    return [_name_of_chain(network, path) for path in last.values()]


def shapes_of(network: nn.Module, taps: Sequence[str], image: tuple[int, int, int]) -> list[Shape]:
    """Shape of the map of each tapped module for an image (C, H, W). The network is not changed.

    Raises:
        InputError: no module of this path, one that is not called, or one that does not return a map.
    """
    check_taps(network, tuple(taps))
    with tapped(network, tuple(taps)) as features:
        _call(network, image)
    for path in taps:
        if path not in features:
            raise InputError(f"{path}: is not called by this network")
        if features[path].dim() != 4:
            raise InputError(f"{path}: returns {tuple(features[path].shape)}; must be a map (B, C, H, W)")
    return [Shape(*features[path].shape[1:]) for path in taps]


def _is_chain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module) > 0


def _steps(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Paths of the children, of a chain those of its members, in place of the chain."""
    for name, child in module.named_children():
        if _is_chain(child):
            yield from _steps(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _map_sizes(
    network: nn.Module, paths: Sequence[str], image: tuple[int, int, int]
) -> list[tuple[str, tuple[int, int]]]:
    """Path, height and width of every map that these modules return, call by call; without poolings."""
    found: list[tuple[str, tuple[int, int]]] = []

    def hook(path: str) -> Any:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and not isinstance(module, POOLS):
                found.append((path, (output.shape[2], output.shape[3])))

        return note

    handles = [network.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
    try:
        _call(network, image)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _name_of_chain(network: nn.Module, path: str) -> str:
    while "." in path:
        parent, _, name = path.rpartition(".")
        if next(reversed(network.get_submodule(parent)._modules)) != name:
            break
        path = parent
    return path


def _call(network: nn.Module, image: tuple[int, int, int]) -> None:
    """On two black images; no buffer changes in eval mode."""
    like = next(network.parameters(), torch.empty(0))
    with torch.no_grad(), in_eval_mode(network):
        network(like.new_zeros(2, *image))
