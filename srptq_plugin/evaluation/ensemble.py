"""Self-ensemble: the mean of a network's outputs for an image that is rotated and flipped in all eight ways."""

from collections.abc import Iterator
from functools import reduce
from itertools import product

import numpy as np

from srptq_plugin.graph.types import Array
from srptq_plugin.runs.run import Forward

SYMMETRIES = 8


def ensembled(forward: Forward) -> Forward:
    """Wrap a network: run it eight times an image, turn each output back, and average before rounding.

    >>> darkest_left = ensembled(lambda image: image + np.arange(2, dtype=np.float32))
    >>> darkest_left(np.zeros((1, 1, 2, 2), np.float32)).tolist()
    [[[[0.5, 0.5], [0.5, 0.5]]]]
    """

    def mean(image: Array) -> Array:
        return np.divide(reduce(np.add, _outputs(forward, image)), SYMMETRIES, dtype=np.float32)

    return mean


def _outputs(forward: Forward, image: Array) -> Iterator[Array]:
    # each symmetry is a flip of the width, then a rotation, and is undone in the reverse order
    for turns, mirrored in product(range(4), (False, True)):
        flipped = np.flip(image, 3) if mirrored else image
        output = forward(np.ascontiguousarray(np.rot90(flipped, turns, (2, 3))))
        upright = np.rot90(output, -turns, (2, 3))
        yield np.flip(upright, 3) if mirrored else upright
