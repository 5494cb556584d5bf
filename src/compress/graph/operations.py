"""Every operation on tensors that a run on channel ids knows, by name.

To add one: write a function of the run and the `Operation` that gives the ids of the result, beside those of its
kind, and enter it there. What is in no table freezes what it touches (`Run.unknown`).
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from compress.graph import ops_elementwise, ops_layers, ops_products, ops_reduce, ops_shape, ops_shuffle, ops_sizes
from compress.graph.values import Operation

if TYPE_CHECKING:
    from compress.graph.run import Run

Handler = Callable[["Run", Operation], Any]

SIZES = ops_sizes.SIZES
ATTRIBUTES: Mapping[str, Handler] = ops_sizes.ATTRIBUTES  # of a tensor: nothing is computed
ON_TENSORS: Mapping[str, Handler] = ops_layers.ON_TENSORS  # which have to know a parameter by its name
ON_IDS: Mapping[str, Handler] = {
    **ops_elementwise.ON_IDS,
    **ops_layers.ON_IDS,
    **ops_products.ON_IDS,
    **ops_reduce.ON_IDS,
    **ops_shape.ON_IDS,
    **ops_shuffle.ON_IDS,
}
