"""The cheapest finer plan for a limit on its noise, as an integer linear program.

The variables are 0 or 1: an operation stays float, a group of sites has more bits, a group is not rounded at all. The
last one needs all operations around the group to stay float.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from glob import escape

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array

from srptq_plugin.accuracy.options import OptionFinder, Options, Wider
from srptq_plugin.planning.plan import Plan
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.recipes.schema import Override

Reals = NDArray[np.float64]
SLIGHT = 1e-6
"""The weight of prices among plans of least noise."""
SOLVER = {"mip_rel_gap": 1e-3, "node_limit": 20_000}
"""Limits of the solver that do not depend on the time it takes."""


@dataclass(frozen=True)
class Choice:
    """Operations that stay float, and bits of tensors by group."""

    floats: tuple[str, ...] = ()
    bits: tuple[tuple[str, int], ...] = ()
    price: float = 0.0


def cheapest(options: Options, share: float) -> Choice | None:
    """Return the cheapest choice that leaves at most a share of the noise, or None if none does."""
    program = _Program(options)
    return program.solve(program.prices, LinearConstraint(program.saved[None], 1 - share, np.inf))


def finest(options: Options) -> Choice | None:
    """Return the choice that leaves the least noise, the cheapest of several, or None if nothing can be changed."""
    program = _Program(options)
    return program.solve(SLIGHT * program.prices - program.saved)


class _Program:
    """Columns are the operations, the groups that are not rounded, and the groups with more bits, in this order."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.operations, self.groups = list(options.price), list(options.needed)
        self.columns = len(self.operations) + len(self.groups) + len(options.wider)

    @cached_property
    def prices(self) -> Reals:
        """The price of each column."""
        wider = (option.price for option in self.options.wider)
        return np.array([*self.options.price.values(), *np.zeros(len(self.groups)), *wider])

    @cached_property
    def saved(self) -> Reals:
        """The share of the noise that each column takes away."""
        noise = self.options.noise
        wider = (noise[option.group] * option.saved for option in self.options.wider)
        return np.array([*np.zeros(len(self.operations)), *(noise[group] for group in self.groups), *wider])

    def solve(self, objective: Reals, *limits: LinearConstraint) -> Choice | None:
        """Minimize a sum over the columns."""
        if not self.columns:
            return None
        unit = max(float(np.abs(objective).max(initial=0)), 1e-300)
        solution = milp(
            objective / unit * 1e3,
            integrality=np.ones(self.columns),
            bounds=(0, 1),
            constraints=[*limits, *self._rules()],
            options=SOLVER,
        )
        return None if solution.x is None else self._choice(solution.x.round().astype(bool))

    def _choice(self, taken: NDArray[np.bool_]) -> Choice:
        floats = [name for name, is_taken in zip(self.operations, taken, strict=False) if is_taken]
        wider = [option for option, is_taken in zip(self._wider, taken[self._first_wider :], strict=True) if is_taken]
        price = float(self.prices[taken].sum())
        return Choice(tuple(floats), tuple((option.group, option.bits) for option in wider), price)

    @property
    def _wider(self) -> Sequence[Wider]:
        return self.options.wider

    @property
    def _first_wider(self) -> int:
        return len(self.operations) + len(self.groups)

    def _rules(self) -> Iterator[LinearConstraint]:
        rows = list(self._needs())
        if rows:  # a group is not rounded only if each operation around it stays float
            entries = [(n, *entry) for n, row in enumerate(rows) for entry in row]
            yield LinearConstraint(_matrix(entries, len(rows), self.columns), -np.inf, 0)
        once = [*self._once()]
        if once:  # a group is changed in one way
            entries = [(n, column, 1.0) for n, columns in enumerate(once) for column in columns]
            yield LinearConstraint(_matrix(entries, len(once), self.columns), 0, 1)
        layers = [(0, self.operations.index(name), 1.0) for name in self.options.layers if name in self.options.price]
        if layers:  # one layer stays in integers
            yield LinearConstraint(_matrix(layers, 1, self.columns), 0, len(self.options.layers) - 1)

    def _needs(self) -> Iterator[list[tuple[int, float]]]:
        numbers = {name: column for column, name in enumerate(self.operations)}
        for column, group in enumerate(self.groups, len(self.operations)):
            for name in self.options.needed[group]:
                yield [(column, 1.0), (numbers[name], -1.0)]

    def _once(self) -> Iterator[list[int]]:
        numbers = {group: column for column, group in enumerate(self.groups, len(self.operations))}
        for group in dict.fromkeys(option.group for option in self._wider):
            columns = [n for n, option in enumerate(self._wider, self._first_wider) if option.group == group]
            yield [*columns, *([numbers[group]] if group in numbers else [])]


def _matrix(entries: Sequence[tuple[int, int, float]], height: int, width: int) -> coo_array:
    rows, columns, values = zip(*entries, strict=True)
    return coo_array((values, (rows, columns)), shape=(height, width))


@dataclass(frozen=True)
class FinerPlan:
    """A recipe with the overrides of a choice, and the share of the noise that it is expected to leave."""

    bound: BoundRecipe
    choice: Choice
    share: float = 1.0


@dataclass(frozen=True)
class FinerPlans:
    """The finer plans of a network, and the noise that is expected of each."""

    finder: OptionFinder
    options: Options

    def within(self, share: float) -> FinerPlan | None:
        """Return the cheapest plan for a share of the noise, the finest one if none leaves so little, or None."""
        choice = cheapest(self.options, share) or finest(self.options)
        return None if choice is None or choice == Choice() else self._plan(choice)

    def _plan(self, choice: Choice) -> FinerPlan:
        recipe = self.finder.bound.recipe
        overrides = (*recipe.overrides, *self._overrides(choice))
        bound = replace(self.finder.bound, recipe=recipe.model_copy(update={"overrides": overrides}))
        return FinerPlan(bound, choice, self._share(bound.plan(self.finder.network, self.finder.input_range)))

    def _overrides(self, choice: Choice) -> Iterator[Override]:
        yield from (Override(sites=escape(name), quantize=False) for name in choice.floats)
        for group, bits in choice.bits:
            for source in dict.fromkeys(site.source for site in self.finder.plan.groups[group]):
                is_weight = self.finder.plan.groups[group][0].role == "weight"
                widths = {"weights": bits} if is_weight else {"activations": bits}
                yield Override.model_validate({"tensors": escape(source), **widths})

    def _share(self, after: Plan) -> float:
        """Return the noise of the tensors that a plan still rounds, at the bits that it gives them."""
        bits = {site.source: site.grid.bits for site in after.sites}
        share = 0.0
        for group, sites in self.finder.plan.groups.items():
            more = [bits[site.source] - site.grid.bits for site in sites if site.source in bits]
            share += self.options.noise.get(group, 0.0) * 4.0 ** -min(more) if more else 0.0
        return share
