"""Liveness: does a network's output still depend on its images when some of its layers output only a constant?

A layer whose input channels are all cut is *dead*: it outputs zeros and its bias, whatever the image.
"""

from collections.abc import Collection

from compress.graph.tape import IMAGES, Tape

SUMS = frozenset({"add", "sub", "cat"})  # a constant operand does no harm
CONSTANT, LIVE, DEAD = range(3)  # computed from parameters only; from the images; from dead layers, not from images


def liveness_error(tape: Tape, dead_layers: Collection[str]) -> str | None:
    """Why these layers may not all be dead, as a relative clause; None where the output stays live.

    A dead value may be added to a live one, and may pass through anything by itself. Where the two meet in another
    operation (a gate, a scale), the constant could be a factor of zero: refused.
    """
    states: list[int] = []
    for call in tape:
        inputs = {states[at] for at in call.inputs} - {CONSTANT}
        if call.op == IMAGES:
            states.append(LIVE)
        elif call.layer in dead_layers:
            states.append(DEAD)
        elif inputs == {LIVE, DEAD} and call.op not in SUMS:
            return "without which a constant would meet other channels in another way than a sum"
        else:
            states.append(LIVE if LIVE in inputs else max(inputs, default=CONSTANT))
    return None if states[-1] == LIVE else "without which the output would not depend on the images"
