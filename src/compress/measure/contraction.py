"""Multiply-adds of an einsum, contracted pair by pair as torch does.

Contracting two operands costs the product of the sizes of all their labels, if a label is summed over or each operand
has a label that the other lacks (matrix times matrix, matrix times vector, outer product). If neither holds, one
operand only scales the other: pointwise arithmetic, which counts 0. A label that only one operand has and that is not
needed later is summed over first, which counts 0 too.
"""

from collections.abc import Mapping, Sequence
from math import prod


def einsum_macs(equation: str, shapes: Sequence[Sequence[int]], path: Sequence[int] | None = None) -> int:
    """Multiply-adds of `torch.einsum(equation, ...)` with operands of these shapes.

    Args:
        equation: such as "bik,bkj->bij"; an ellipsis is allowed.
        path: pairs of operands in the order of contraction, as one flat list, each result being appended to the
            operands; None: from left to right.
    """
    operands, output = _labels(equation, [len(sizes) for sizes in shapes])
    sizes = _sizes(operands, shapes)
    held = [
        {label for label, size in zip(labels, of, strict=True) if size > 1 or sizes[label] == 1}
        for labels, of in zip(operands, shapes, strict=True)
    ]  # without dimensions of size one that broadcast
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
    """Multiply-adds of contracting two operands, given as sets of labels, and the labels of the result. `needed` are
    the labels of the output and of the operands that are left."""
    first, second = first & (second | needed), second & (first | needed)
    every = first | second
    is_product = bool(every - needed) or (first - second and second - first)
    return prod(sizes[label] for label in every) if is_product else 0, every & needed


def _labels(equation: str, dims: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Labels of every operand and of the output. The dimensions of an ellipsis are labelled "0", "1", ... from the
    last to the first, so that they align as in broadcasting. `dims`: number of dimensions of each operand."""
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
    """The labels of one operand of `dims` dimensions."""
    before, dots, after = term.partition("...")
    hidden = range(dims - len(before) - len(after) - 1, -1, -1) if dots else ()
    return [*before, *(str(number) for number in hidden), *after]


def _sizes(operands: Sequence[Sequence[str]], shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """The size of every label after broadcasting."""
    sizes: dict[str, int] = {}
    for labels, of in zip(operands, shapes, strict=True):
        for label, size in zip(labels, of, strict=True):
            sizes[label] = size if sizes.get(label, 1) == 1 else sizes[label]
    return sizes
