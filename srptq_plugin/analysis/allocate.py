"""The choice of bits under a budget, as an integer linear program that is solved to optimality.

The variables are all 0 or 1:

* One *option* for each choice and each number of bits that it may have. It is 1 if the choice gets these bits.
* One *pair* for each product of a weight and an activation and for the bits of both. It is 1 if both have these bits.

Rounding noise is a sum over options, as is the size in bits. BitOPs are the MACs times the bits of both factors, which
is a product of two choices. The pairs make it linear: BitOPs are a sum over pairs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array

from srptq_plugin.costs.memory import FLOAT

Measure = Literal["size", "bops"]
Reals = NDArray[np.float64]
Entry = tuple[int, int, float]
"""Row, column and value of a sparse matrix."""


@dataclass(frozen=True)
class Choice:
    """Something that gets a number of bits: the noise at each, and how many stored numbers have these bits."""

    name: str
    noise: Mapping[int, float]
    elements: int = 0


@dataclass(frozen=True)
class Product:
    """The multiplications of a layer, and the names of the choices for its two factors. None is a float factor."""

    macs: int
    weight: str | None
    activation: str | None


@dataclass(frozen=True)
class Problem:
    """The choices to make, and the products whose cost depends on them.

    >>> two = [Choice("a", {4: 9.0, 8: 1.0}, 100), Choice("b", {4: 2.0, 8: 1.0}, 100)]
    >>> Problem(two, []).least_noise("size", 12 * 100)
    {'a': 8, 'b': 4}
    """

    choices: Sequence[Choice]
    products: Sequence[Product]

    def cost(self, measure: Measure, bits: Mapping[str, int]) -> int:
        """Return the cost of bits by choice: bits stored, or operations on bits."""
        if measure == "size":
            return sum(choice.elements * bits[choice.name] for choice in self.choices)
        return sum(
            layer.macs * _factor_bits(bits, layer.weight) * _factor_bits(bits, layer.activation)
            for layer in self.products
        )

    def noise(self, bits: Mapping[str, int]) -> float:
        """Return the noise of bits by choice, if the noises of all choices add up."""
        return sum(choice.noise[bits[choice.name]] for choice in self.choices)

    def least(self) -> dict[str, int]:
        """Return the fewest bits of every choice."""
        return {choice.name: min(choice.noise) for choice in self.choices}

    def most(self) -> dict[str, int]:
        """Return the most bits of every choice."""
        return {choice.name: max(choice.noise) for choice in self.choices}

    def least_noise(self, measure: Measure, limit: float) -> dict[str, int] | None:
        """Return the bits of least noise whose cost is at most a limit, or None if all cost more."""
        return self._solve(self._noises, self._costs(measure), math.floor(limit))

    def least_cost(self, measure: Measure, limit: float) -> dict[str, int] | None:
        """Return the bits of least cost whose noise is at most a limit, or None if all make more."""
        return self._solve(self._costs(measure), self._noises, limit)

    @cached_property
    def _options(self) -> list[tuple[int, int]]:
        """Choice and bits of the first columns."""
        return [(n, bits) for n, choice in enumerate(self.choices) for bits in sorted(choice.noise)]

    @cached_property
    def _pairs(self) -> list[tuple[int, int, int]]:
        """Layer, weight bits and activation bits of the other columns."""
        return [
            (n, *both)
            for n, layer in enumerate(self.products)
            for both in product(self._allowed_bits(layer.weight), self._allowed_bits(layer.activation))
        ]

    def _allowed_bits(self, name: str | None) -> list[int]:
        return [FLOAT] if name is None else sorted(self.choices[self._numbers[name]].noise)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """The number of each choice by name."""
        return {choice.name: n for n, choice in enumerate(self.choices)}

    @cached_property
    def _noises(self) -> Reals:
        """The noise of each column. Pairs make none."""
        return np.array([*(self.choices[n].noise[bits] for n, bits in self._options), *np.zeros(len(self._pairs))])

    def _costs(self, measure: Measure) -> Reals:
        """Return the cost of each column. Only options have a size, and only pairs have BitOPs."""
        size = [self.choices[n].elements * bits for n, bits in self._options]
        bops = [self.products[n].macs * weight * activation for n, weight, activation in self._pairs]
        stored = measure == "size"
        return np.array([*np.multiply(size, stored), *np.multiply(bops, not stored)], dtype=np.float64)

    def _solve(self, objective: Reals, limited: Reals, limit: float) -> dict[str, int] | None:
        """Minimize one sum over the columns while another is at most a limit."""
        # A column that exceeds the limit alone is fixed to 0. Its coefficient is dropped as well: one that is orders of
        # magnitude above the limit is too large for the solver's tolerances.
        possible = limited <= limit
        # The solver's tolerances are absolute, about 1e-6 for both feasibility and optimality. So the limit is scaled
        # to 1, and the objective's largest coefficient to 1e6. Neither changes which solution is the best.
        scale = max(abs(limit), 1e-300)
        within = LinearConstraint(np.where(possible, limited, 0)[None] / scale, -np.inf, limit / scale)
        unit = max(float(objective.max(initial=0)), 1e-300)
        solution = milp(
            objective / unit * 1e6,
            integrality=np.ones(len(objective)),
            bounds=(0, possible.astype(float)),
            constraints=[within, *self._ties()],
            options={"mip_rel_gap": 0},
        )
        if solution.x is None:
            return None
        # integers come back as floats such as 0.9999999
        taken = solution.x[: len(self._options)].round()
        return {
            self.choices[n].name: bits for (n, bits), is_taken in zip(self._options, taken, strict=True) if is_taken
        }

    def _ties(self) -> Iterator[LinearConstraint]:
        """Yield the constraints that make every solution a choice of bits.

        The first matrix has a row for each choice, whose options sum to 1, and then one for each layer, whose pairs sum
        to 1. The second has a row for each layer, factor and bits: the pairs with these bits sum to the factor's option
        of these bits.
        """
        width, first = len(self._noises), len(self._options)
        rows = [(n, column, 1.0) for column, (n, _) in enumerate(self._options)]
        rows += [(len(self.choices) + n, column, 1.0) for column, (n, *_) in enumerate(self._pairs, first)]
        yield LinearConstraint(_matrix(rows, width), 1, 1)
        if tied := list(self._pair_entries()):
            yield LinearConstraint(_matrix(tied, width), 0, 0)

    def _pair_entries(self) -> Iterator[Entry]:
        """Yield the second matrix: 1 at each pair and -1 at the option that it agrees with, both in the same row."""
        columns = {option: column for column, option in enumerate(self._options)}
        rows: dict[tuple[int, int, int], int] = {}
        for column, (n, *both) in enumerate(self._pairs, len(columns)):
            layer = self.products[n]
            for factor, (name, bits) in enumerate(zip((layer.weight, layer.activation), both, strict=True)):
                if name is None:  # a float factor is no choice
                    continue
                is_new = (n, factor, bits) not in rows
                row = rows.setdefault((n, factor, bits), len(rows))
                yield row, column, 1.0
                if is_new:
                    yield row, columns[self._numbers[name], bits], -1.0


def _factor_bits(bits: Mapping[str, int], name: str | None) -> int:
    return FLOAT if name is None else bits[name]


def _matrix(entries: Sequence[Entry], width: int) -> coo_array:
    rows, columns, values = zip(*entries, strict=True)
    return coo_array((values, (rows, columns)), shape=(max(rows) + 1, width))
