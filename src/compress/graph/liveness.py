"""Liveness: does a network's output still depend on its images when some of its layers output only a constant?

A layer whose input channels are all cut is *dead*: it outputs zeros and its bias, whatever the image.
"""

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterator

from compress.graph.tape import IMAGES, Call, Tape, users

SUMS = frozenset({"add", "sub", "cat"})  # a constant operand does no harm
CONSTANT, LIVE, DEAD = range(3)  # computed from parameters only; from the images; from dead layers, not from images
MIXED = "without which a constant would meet other channels in another way than a sum"
CUT_OFF = "without which the output would not depend on the images"


class Liveness:
    """Of one tape, for any layers. Only the calls between a dead layer and the sums that its constant ends in are
    looked at, so all groups of a deep network take little longer than one."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._readers = users(tape)
        self._states: list[int] = []  # of every call, if no layer is dead
        self._places: defaultdict[str, list[int]] = defaultdict(list)  # of the calls of a layer
        for at, call in enumerate(tape):
            self._states.append(_state(call, {self._states[before] for before in call.inputs}))
            self._places[call.layer].append(at)
        self._until = [max(readers, default=at) for at, readers in enumerate(self._readers)]  # last read there
        self._passing = list(self._live_values_that_pass())

    def _live_values_that_pass(self) -> Iterator[int]:
        """For each place of the tape, how many of the values that come from the images are read after it."""
        ends: defaultdict[int, int] = defaultdict(int)
        now = 0
        for at, (state, until) in enumerate(zip(self._states, self._until, strict=True)):
            if state == LIVE and until > at:
                now += 1
                ends[until] += 1
            now -= ends[at]
            yield now

    def error(self, dead_layers: Collection[str]) -> str | None:
        """Why these layers may not all be dead, as a relative clause; None where the output stays live.

        A dead value may be added to a live one, and may pass through anything by itself. Where the two meet in
        another operation (a gate, a scale), the constant could be a factor of zero: refused.
        """
        dead: set[int] = set()  # places of values that are dead
        lost: list[int] = []  # where those of them that were live are read last, a heap
        pending = [at for name in dead_layers for at in self._places.get(name, ())]
        heapq.heapify(pending)
        last = -1
        while pending:
            at = heapq.heappop(pending)
            if at == last:
                continue
            last, call = at, self._tape[at]
            states = {DEAD if before in dead else self._states[before] for before in call.inputs}
            if call.layer not in dead_layers:
                if {LIVE, DEAD} <= states and call.op not in SUMS:
                    return MIXED
                if _state(call, states) == self._states[at]:
                    continue
            dead.add(at)
            for reader in self._readers[at]:
                heapq.heappush(pending, reader)
            if self._states[at] == LIVE:
                heapq.heappush(lost, self._until[at])
            while lost and lost[0] <= at:
                heapq.heappop(lost)
            if len(lost) == self._passing[at]:
                return CUT_OFF  # no value that comes from the images passes this place
        return CUT_OFF if self._states[-1] != LIVE else None


def _state(call: Call, inputs: Collection[int]) -> int:
    if call.op == IMAGES or LIVE in inputs:
        return LIVE
    return max(inputs, default=CONSTANT)
