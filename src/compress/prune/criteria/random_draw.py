"""`random`: a draw, without which no criterion proves anything.

Li et al., "Revisiting Random Channel Pruning for Neural Network Compression", CVPR 2022, arXiv:2205.05676.
"""

from dataclasses import dataclass

import torch
from torch import nn

from compress.graph.types import ChannelGraph
from compress.io.seeds import derive_seed
from compress.prune.criteria.criterion import Parts, Sample


@dataclass(frozen=True, kw_only=True)
class RandomDraw:
    """Scores from U(0, 1), by the seed of the run."""

    def __call__(self, model: nn.Module, graph: ChannelGraph, sample: Sample) -> Parts:
        parts = {}
        for group in graph:
            random = torch.Generator().manual_seed(derive_seed(sample.seed, group.name))
            parts[group.name] = [torch.rand(group.width, 1, dtype=torch.float64, generator=random)]
        return parts
