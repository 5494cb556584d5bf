"""Multiply-adds of an einsum, contracted pair by pair as torch contracts it.

A pair of operands costs the product of the sizes of all labels that the two have, where a label is summed or both
have labels of their own (a product of matrices, of a matrix and a vector, or an outer product). Where nothing is
summed and one only scales the other, that is pointwise arithmetic. What only one operand has and nobody needs is
summed before.
"""

from collections.abc import Mapping, Sequence
from math import prod


def einsum_macs(equation: str, shapes: Sequence[Sequence[int]], path: Sequence[int] | None = None) -> int:
    """
    Args:
        equation: such as "bik,bkj->bij"; dots stand for the dimensions that are not named.
        shapes: of the operands.
        path: pairs of operands in the order of contraction, flat, each result put last; None: from left to right.
    """
    operands, output = _labels(equation, [len(sizes) for sizes in shapes])
    sizes = _sizes(operands, shapes)
    held = [
        {label for label, size in zip(labels, of, strict=True) if size > 1 or sizes[label] == 1}
        for labels, of in zip(operands, shapes, strict=True)
    ]  # a dimension of one that broadcasts is as good as none
    total = 0
    steps = [*zip(path[::2], path[1::2], strict=True)] if path is not None else [(0, 1)] * (len(held) - 1)
    for one, other in steps:
        first, second = (held.pop(at) for at in sorted((one, other), reverse=True))
        needed = set(output).union(*held)
        macs, result = _pair(first, second, needed, sizes)
        total += macs
        held = [result, *held] if path is None else [*held, result]
    return total


def _pair(first: set[str], second: set[str], needed: set[str], sizes: Mapping[str, int]) -> tuple[int, set[str]]:
    """Multiply-adds of one contraction, and the labels of its result."""
    first, second = first & (second | needed), second & (first | needed)
    every = first | second
    is_product = bool(every - needed) or (first - second and second - first)
    return prod(sizes[label] for label in every) if is_product else 0, every & needed


def _labels(equation: str, dims: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Labels of every operand and of the output; those of the dots are numbers, counted from the last dimension."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    operands = [_term(term, count) for term, count in zip(terms, dims, strict=True)]
    if arrow:
        most = max(sum(label.isdigit() for label in labels) for labels in operands)
        return operands, _term(right, len(right.replace("...", "")) + most)
    letters = left.replace(",", "").replace(".", "")
    once = [letter for letter in letters if letters.count(letter) == 1]
    return operands, [*{label for labels in operands for label in labels if label.isdigit()}, *once]


def _term(term: str, dims: int) -> list[str]:
    before, dots, after = term.partition("...")
    hidden = range(dims - len(before) - len(after) - 1, -1, -1) if dots else ()
    return [*before, *(str(number) for number in hidden), *after]


def _sizes(operands: Sequence[Sequence[str]], shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for labels, of in zip(operands, shapes, strict=True):
        for label, size in zip(labels, of, strict=True):
            sizes[label] = size if sizes.get(label, 1) == 1 else sizes[label]
    return sizes
