"""The law on random networks: masked equals cut for random plans, prices are counts, the network is left as it was.

A failing seed is printed with the source of its network; `random_networks` says how to look at one alone.
"""

from collections import Counter

import pytest
from network_kinds import KINDS
from random_networks import check, random_network, told

SHARD = 100
SHARDS = 20  # of 100 networks: the slow test


def hold(seeds: range, plans: int) -> Counter[str]:
    """Check the networks of these seeds; how many were cut, were moved by a plan, ..."""
    seen: Counter[str] = Counter()
    failures = []
    for seed in seeds:
        network = random_network(seed)
        found = check(network, plans)
        seen["cut"] += found.is_cut
        seen["moved"] += found.moved > 0.01
        seen["smaller"] += found.macs_left < 0.8
        if found.wrong:
            failures.append(told(network, found))
    assert not failures, f"{len(failures)} of {len(seeds)} networks:\n\n" + "\n\n".join(failures[:5])
    return seen


def test_the_law_on_a_hundred_random_networks() -> None:
    seen = hold(range(SHARD), plans=1)
    assert seen["cut"] >= 0.9 * SHARD
    assert seen["moved"] >= 0.75 * SHARD  # one plan may keep all
    assert seen["smaller"] >= 0.5 * SHARD


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_the_law_on_two_thousand_random_networks(shard: int) -> None:
    seen = hold(range(SHARD * shard, SHARD * (shard + 1)), plans=3)
    assert seen["cut"] >= 0.8 * SHARD
    assert seen["moved"] >= 0.8 * SHARD


def test_kinds_are_many_and_have_names_of_their_own() -> None:
    assert len(KINDS) >= 60
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.slow
def test_every_kind_is_in_some_of_the_networks() -> None:
    seen = Counter(kind for seed in range(SHARD * SHARDS) for kind in random_network(seed).kinds)
    assert not [kind.name for kind in KINDS if seen[kind.name] < 5]
