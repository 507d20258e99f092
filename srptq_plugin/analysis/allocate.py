"""Bits for every choice under a budget: an integer programme, solved to the optimum.

Noise of rounding adds up, choice by choice; so do bytes, weight by weight. BitOPs are products of two
choices, a weight's bits and an activation's: each pair is a variable of its own, tied to the two.
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


@dataclass(frozen=True)
class Choice:
    """Something that gets a number of bits: the noise at each, and how many stored numbers have it."""

    name: str
    noise: Mapping[int, float]
    elements: int = 0


@dataclass(frozen=True)
class Product:
    """The multiplications of a layer, and the choices that its two factors are; none is float."""

    macs: int
    weight: str | None
    activation: str | None


@dataclass(frozen=True)
class Problem:
    """What is to be chosen, and what it costs.

    >>> two = [Choice("a", {4: 9.0, 8: 1.0}, 100), Choice("b", {4: 2.0, 8: 1.0}, 100)]
    >>> Problem(two, []).least_noise("size", 12 * 100)
    {'a': 8, 'b': 4}
    """

    choices: Sequence[Choice]
    products: Sequence[Product]

    def cost(self, measure: Measure, bits: Mapping[str, int]) -> int:
        """What a choice of bits costs: bits stored, or operations on bits."""
        if measure == "size":
            return sum(each.elements * bits[each.name] for each in self.choices)
        return sum(each.macs * _of(bits, each.weight) * _of(bits, each.activation) for each in self.products)

    def noise(self, bits: Mapping[str, int]) -> float:
        """The noise that a choice of bits makes, if noises add up."""
        return sum(each.noise[bits[each.name]] for each in self.choices)

    def least(self) -> dict[str, int]:
        """The fewest bits everywhere."""
        return {each.name: min(each.noise) for each in self.choices}

    def most(self) -> dict[str, int]:
        """The most bits everywhere."""
        return {each.name: max(each.noise) for each in self.choices}

    def least_noise(self, measure: Measure, limit: float) -> dict[str, int] | None:
        """The bits of least noise whose cost is within a limit; none where nothing is."""
        return self._solved(self._noises, self._costs(measure), math.floor(limit))

    def least_cost(self, measure: Measure, limit: float) -> dict[str, int] | None:
        """The bits of least cost whose noise is within a limit; none where nothing is."""
        return self._solved(self._costs(measure), self._noises, limit)

    @cached_property
    def _options(self) -> list[tuple[int, int]]:
        """A variable for each choice and number of bits."""
        return [(n, bits) for n, choice in enumerate(self.choices) for bits in sorted(choice.noise)]

    @cached_property
    def _pairs(self) -> list[tuple[int, int, int]]:
        """A variable for each layer and the bits of both its factors; bits that are float are no choice."""
        found: list[tuple[int, int, int]] = []
        for n, layer in enumerate(self.products):
            found += [(n, *both) for both in product(self._bits(layer.weight), self._bits(layer.activation))]
        return found

    def _bits(self, name: str | None) -> list[int]:
        return [FLOAT] if name is None else sorted(self.choices[self._places[name]].noise)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {choice.name: n for n, choice in enumerate(self.choices)}

    @cached_property
    def _noises(self) -> Reals:
        return np.array([*(self.choices[n].noise[bits] for n, bits in self._options), *np.zeros(len(self._pairs))])

    def _costs(self, measure: Measure) -> Reals:
        size = [self.choices[n].elements * bits for n, bits in self._options]
        bops = [self.products[n].macs * weight * activation for n, weight, activation in self._pairs]
        stored = measure == "size"
        return np.array([*np.multiply(size, stored), *np.multiply(bops, not stored)], dtype=np.float64)

    def _solved(self, objective: Reals, limited: Reals, limit: float) -> dict[str, int] | None:
        possible = limited <= limit
        scale = max(abs(limit), 1e-300)
        within = LinearConstraint(np.where(possible, limited, 0)[None] / scale, -np.inf, limit / scale)
        unit = max(float(objective.max(initial=0)), 1e-300)
        found = milp(
            objective / unit * 1e6,
            integrality=np.ones(len(objective)),
            bounds=(0, possible.astype(float)),
            constraints=[within, *self._ties()],
            options={"mip_rel_gap": 0},
        )
        if found.x is None:
            return None
        taken = found.x[: len(self._options)].round()
        return {self.choices[n].name: bits for (n, bits), one in zip(self._options, taken, strict=True) if one}

    def _ties(self) -> Iterator[LinearConstraint]:
        """One number of bits a choice, one pair a layer; and a pair is taken where both its factors are."""
        width, first = len(self._noises), len(self._options)
        rows = [(n, place, 1.0) for place, (n, _) in enumerate(self._options)]
        rows += [(len(self.choices) + n, place, 1.0) for place, (n, *_) in enumerate(self._pairs, first)]
        yield LinearConstraint(_matrix(rows, width), 1, 1)
        if tied := list(self._pair_rows()):
            yield LinearConstraint(_matrix(tied, width), 0, 0)

    def _pair_rows(self) -> Iterator[tuple[int, int, float]]:
        """The pairs of a layer in which a factor has so many bits are one where the factor has them, else none."""
        options = {option: place for place, option in enumerate(self._options)}
        rows: dict[tuple[int, int, int], int] = {}
        for place, (n, *both) in enumerate(self._pairs, len(options)):
            layer = self.products[n]
            for factor, (name, bits) in enumerate(zip((layer.weight, layer.activation), both, strict=True)):
                if name is not None:
                    known = (n, factor, bits) in rows
                    row = rows.setdefault((n, factor, bits), len(rows))
                    yield row, place, 1.0
                    if not known:
                        yield row, options[self._places[name], bits], -1.0


def _of(bits: Mapping[str, int], name: str | None) -> int:
    return FLOAT if name is None else bits[name]


def _matrix(entries: Sequence[tuple[int, int, float]], width: int) -> coo_array:
    rows, columns, values = zip(*entries, strict=True)
    return coo_array((values, (rows, columns)), shape=(max(rows) + 1, width))
