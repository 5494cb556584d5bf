"""Long texts cut for tables and legends, but never where they differ from each other.

>>> lists = [f"[64,64,64,64,64,{last},128,128,128,128]" for last in (32, 48)]
>>> list(shortened([*lists, "null"], 20).values())
['…4,64,64,32,128,128…', '…4,64,64,48,128,128…', 'null']
"""

from collections.abc import Iterable, Sequence
from itertools import takewhile

CONTEXT = 7  # letters that stay on either side of what differs


def shortened(texts: Iterable[str], most: int) -> dict[str, str]:
    """Every text with a form of at most `most` letters, or as many more as it takes to tell them all apart."""
    texts = list(dict.fromkeys(texts))
    long = [text for text in texts if len(text) > most]
    forms = dict(zip(long, _without_common(long, most), strict=True)) if len(long) > 1 else _cut(long, most)
    found = {text: forms.get(text, text) for text in texts}
    return found if len(set(found.values())) == len(found) else {text: text for text in texts}


def _cut(long: Iterable[str], most: int) -> dict[str, str]:
    return {text: f"{text[: most - 1]}…" for text in long}


def _without_common(long: list[str], most: int) -> list[str]:
    """What all begin and end with is cut first at its far ends, so that the rest has room."""
    begin = _common(long)
    end = _common([text[begin:][::-1] for text in long])
    middle = max(len(text) - begin - end for text in long)
    room = max(CONTEXT, (most - 2 - middle) // 2)  # for what is common, on either side
    left, right = max(0, begin - room), max(0, end - room)
    left, right = (0 if left < 2 else left), (0 if right < 2 else right)  # a sign that says "cut" is a letter too
    return [("…" if left else "") + text[left : len(text) - right] + ("…" if right else "") for text in long]


def _common(texts: Sequence[str]) -> int:
    """How many letters all begin with."""
    return len(list(takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))))
