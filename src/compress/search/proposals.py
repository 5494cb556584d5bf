"""New genes for a search: mutants, crossovers and uniform draws that the budget allows and that were not scored yet.

Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV 2019, arXiv:1903.10258,
algorithm 1.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from compress.search.candidates import Candidates
from compress.search.feasible import Feasible
from compress.search.sampling import draw
from compress.search.space import Genes

ROUNDS = 50  # of proposing; a parent's neighbourhood may hold fewer feasible genes than are asked for
PROPOSALS = 16  # per round and gene that is still missing: about one in ten fits a tight budget

Random = np.random.Generator
Propose = Callable[[int, Random], Genes]  # how many -> that many genes, feasible or not


def mutants(parents: Genes, sizes: NDArray[np.int64], probability: float, random: Random) -> Genes:
    """Copies of genes (n, places) in which every entry, with this probability, became another of its `sizes`
    options, all of them equally likely."""
    change = (random.random(parents.shape) < probability) & (sizes > 1)
    step = 1 + random.integers(0, np.maximum(sizes - 1, 1), parents.shape)
    return np.where(change, (parents + step) % sizes, parents)


def crossovers(parents: Genes, count: int, random: Random) -> Genes:
    """(count, places): each entry from one of two different parents, by a coin."""
    first = random.integers(0, len(parents), count)
    second = (first + random.integers(1, len(parents), count)) % len(parents)
    return np.where(random.random((count, parents.shape[1])) < 0.5, parents[first], parents[second])


def proposed(
    propose: Propose,
    wanted: int,
    feasible: Feasible,
    candidates: Candidates,
    random: Random,
    made: Sequence[Genes] = (),
) -> Genes:
    """Up to `wanted` new feasible genes; fewer where `ROUNDS` rounds of proposals have no more."""
    found = np.zeros((0, len(feasible.space.options)), dtype=np.int64)
    for _ in range(ROUNDS):
        if len(found) >= wanted:
            break
        proposals = propose(PROPOSALS * (wanted - len(found)), random)
        found = _new(np.concatenate([found, proposals[feasible.holds(proposals)]]), candidates, made)[:wanted]
    return found[:wanted]


def drawn(
    feasible: Feasible, candidates: Candidates, wanted: int, random: Random, made: Sequence[Genes] = ()
) -> Genes:
    """Up to `wanted` new genes, uniformly; fewer where the feasible set is exhausted."""
    found = np.zeros((0, len(feasible.space.options)), dtype=np.int64)
    for _ in range(ROUNDS):
        if len(found) >= wanted:
            break
        found = _new(np.concatenate([found, draw(feasible, wanted - len(found), random)]), candidates, made)
    return found


def _new(genes: Genes, candidates: Candidates, made: Sequence[Genes]) -> Genes:
    """Those of genes that were neither tested nor made for this generation, each once."""
    new = candidates.without_tested(genes)
    taken = {tuple(gene) for part in made for gene in part.tolist()}
    return new[[at for at, gene in enumerate(map(tuple, new.tolist())) if gene not in taken]]
