"""What a search by preferences proposes: strategies around its policy's answer and around the best ones so far.

Noise around one of the best, by a spread per place: Rubinstein and Kroese, "The Cross-Entropy Method", Springer 2004,
chapter 5. Mutants and crossovers of them reach further, as in Liu et al., "MetaPruning", ICCV 2019, arXiv:1903.10258,
algorithm 1: with noise alone, what is proposed stays near the policy, which imitates what was proposed.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from compress.errors import OWN, SettingError
from compress.schema.bounds import Bound, NonNegative, Positive, Share
from compress.search.projection import Preferences, preferences_of
from compress.search.proposals import crossovers, mutants
from compress.search.space import Genes, WidthSpace

Random = np.random.Generator


@dataclass(frozen=True)
class Moves:
    """Of how many proposals in all which share is made in which way; the four need not add up to 1."""

    policy: NonNegative  # noise around the policy's answer
    elite: NonNegative  # noise around one of the best strategies
    crossovers: NonNegative  # each place from one of two of the best
    mutants: NonNegative  # one of the best, some places of which are drawn anew

    def __post_init__(self) -> None:
        if not sum(astuple(self)):
            raise SettingError(
                f"{OWN}policy, {OWN}elite, {OWN}crossovers and {OWN}mutants are all 0: nothing is proposed"
            )

    def drawn(self, count: int, random: Random) -> NDArray[np.int64]:
        """Which move makes each of `count` proposals: index of a field, (count,)."""
        weights = np.array(astuple(self))
        return random.choice(len(weights), count, p=weights / weights.sum())


@dataclass(frozen=True, kw_only=True)
class ProposalSettings:
    """Settings of proposals; conf/method/amc.yaml explains each."""

    draw_sigmas: list[Positive]
    proposals: Annotated[int, Bound(ge=1, most=10**5)]
    moves: Moves
    changed: list[Share]
    mutation_prob: Annotated[float, Bound(ge=0, le=1)]

    def __post_init__(self) -> None:
        if not self.changed:
            raise SettingError(f"{OWN}changed=[]: must name at least one share of the groups, such as 1.0")
        if not self.draw_sigmas:
            raise SettingError(f"{OWN}draw_sigmas=[]: must name at least one, such as 0.35")


def drawn(settings: ProposalSettings, places: int, wider: float, random: Random) -> Preferences:
    """Preferences around none, each by one of `draw_sigmas` times `wider`: (proposals, places)."""
    sigmas = random.choice(np.array(settings.draw_sigmas), (settings.proposals, 1))
    drawn: Preferences = sigmas * wider * random.normal(size=(settings.proposals, places))
    return drawn


def around(
    settings: ProposalSettings, space: WidthSpace, own: Preferences, elite: Genes, sigmas: Preferences, random: Random
) -> Preferences:
    """Preferences around the policy's `own` (places,) and around the `elite` (n, places), with noise of `sigmas`
    (places,) where a move has noise: (proposals, places)."""
    count, places = settings.proposals, len(own)
    parents = elite[random.integers(0, len(elite), count)]
    crossed = crossovers(elite, count, random) if len(elite) > 1 else parents
    mutated = mutants(parents, space.sizes, settings.mutation_prob, random)
    noise = _noise(settings.changed, sigmas, count, random)
    moved = [
        own + noise,
        preferences_of(space, parents) + noise,
        *(preferences_of(space, g) for g in (crossed, mutated)),
    ]
    moves: Preferences = np.stack(moved)[settings.moves.drawn(count, random), np.arange(count)]
    assert moves.shape == (count, places)
    return moves


def _noise(changed: Sequence[float], sigmas: Preferences, count: int, random: Random) -> Preferences:
    """Noise on some of the places of each proposal, at least on one: (count, places)."""
    places = len(sigmas)
    shares = random.choice(np.array(changed), (count, 1))
    changes = random.random((count, places)) < shares
    changes[np.arange(count), random.integers(0, places, count)] = True
    noise: Preferences = np.where(changes, random.normal(size=changes.shape) * sigmas, 0.0)
    return noise
