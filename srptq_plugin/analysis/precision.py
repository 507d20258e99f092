"""The choice of bits for each tensor within a budget.

Each tensor's noise is measured alone, an integer program chooses the bits, and the mixture is measured as a whole.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from srptq_plugin.analysis.allocate import Choice, Measure, Problem, Product
from srptq_plugin.analysis.analyze import Quality, analyze
from srptq_plugin.analysis.widths import EIGHT, Uniform, mixed
from srptq_plugin.costs.cost import Costs
from srptq_plugin.errors import ArgumentError
from srptq_plugin.evaluation.pairs import Pair
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.plan import Edge, Site

Unit = Literal["site", "stage"]
POINTS = 10
"""Budgets of a curve."""
BISECTIONS = 10
"""How often the interval of noise limits is halved for a budget of dB."""


@dataclass(frozen=True)
class Budget:
    """A limit: a share of the size or BitOPs of 8 bits everywhere, or dB of PSNR lost against the truth.

    >>> str(Budget("bops", 0.3))
    'bops=0.3'
    """

    measure: Literal["size", "bops", "drop"]
    amount: float

    def __str__(self) -> str:
        return f"{self.measure}={self.amount:g}"


@dataclass(frozen=True)
class Mixture:
    """Bits by group, their costs as shares of 8 bits everywhere, and the measured quality.

    `expected` is the sum of the noises that the tensors make alone.
    """

    bits: Mapping[str, int]
    size: float
    bops: float
    expected: float
    quality: Quality

    def record(self) -> dict[str, Any]:
        """Return this record for JSON."""
        return {**self.costs(), **self.quality.record(), "bits": dict(self.bits)}

    def costs(self) -> dict[str, float]:
        """Return the costs, and the noise expected for them."""
        return {"size": self.size, "bops": self.bops, "expected_noise": self.expected}

    def point(self) -> dict[str, float | None]:
        """Return this mixture as a point of a curve, for JSON."""
        return {**self.costs(), "noise": self.quality.noise, "psnr": self.quality.psnr}


class Precision:
    """A network measured at several numbers of bits, and the mixtures that can be made of them.

    Budgets of size and BitOPs are shares of the cost of 8 bits everywhere. With `by="stage"` all weights of a stage
    have the same bits, and so have all activations of a stage.
    """

    def __init__(self, uniforms: Sequence[Uniform], by: Unit = "site", pairs: Sequence[Pair] = ()) -> None:
        self.uniforms, self.pairs = uniforms, pairs
        self.plan = uniforms[0].subject.table.plan
        self.units = {group: _unit(sites[0], by) for group, sites in self.plan.groups.items()}
        self.problem = Problem(list(self._choices()), list(self._products()))
        self.eight = dict.fromkeys(self.units.values(), EIGHT)

    def record(self) -> dict[str, Any]:
        """Return for JSON each measured network with the same bits everywhere, and the stage and role of each group."""
        rows: list[dict[str, Any]] = []
        for uniform in self.uniforms:
            bits = {unit: uniform.bits_of(group) for group, unit in self.units.items()}
            rows.append({"width": uniform.bits, **self._mixture(bits).record()})
        stages = {group: [sites[0].stage, sites[0].role] for group, sites in self.plan.groups.items()}
        return {"uniform": rows, "groups": stages}

    def within(self, budget: Budget) -> Mixture:
        """Return the mixture of least noise within a budget. For a drop, return the one of fewest BitOPs."""
        if budget.measure == "drop":
            return self._cheapest(budget)
        whole = self.problem.cost(budget.measure, self.eight)
        bits = self.problem.least_noise(budget.measure, budget.amount * whole)
        if bits is None:
            least = self.problem.cost(budget.measure, self.problem.least()) / whole
            raise ArgumentError("budget", f"nothing costs so little; the least is {budget.measure}={least:.4g}", budget)
        return self._mixture(bits)

    def curve(self, measure: Measure) -> list[Mixture]:
        """Return the mixtures of least noise for budgets from the least cost to the most, in equal ratios."""
        least, most = (self.problem.cost(measure, bits) for bits in (self.problem.least(), self.problem.most()))
        steps = ((n / (POINTS - 1)) for n in range(POINTS))
        limits = [least * (most / max(least, 1)) ** step for step in steps]
        choices = (self.problem.least_noise(measure, max(round(limit), least)) for limit in limits)
        return [self._mixture(bits, ()) for bits in choices if bits is not None]

    @cached_property
    def plain(self) -> Quality:
        """The quality of the float network."""
        return analyze(self.uniforms[0].subject, self.pairs, ()).float

    def _cheapest(self, budget: Budget) -> Mixture:
        """Find the fewest BitOPs at which PSNR drops by at most the budget, by bisecting a limit on the noise.

        The integer program can only limit the sum of noises, which predicts the drop without being equal to it. So each
        limit is tried: its cheapest mixture is measured, and a drop within the budget allows a higher limit.
        """
        if not self.pairs:
            raise ArgumentError(
                "budget", "a drop is measured against high-resolution images, which are missing; give `pairs`", budget
            )
        best = self._mixture(self.problem.most())
        if (lost := self._drop(best)) > budget.amount:
            raise ArgumentError("budget", f"the most bits lose more; the least is drop={lost:.3f}", budget)
        # Invariant: `best` was measured and is within the budget. The interval is in logarithms, as noise spans orders
        # of magnitude, and 1e-12 stands for no noise.
        low, high = (
            math.log(max(self.problem.noise(bits), 1e-12)) for bits in (self.problem.most(), self.problem.least())
        )
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            bits = self.problem.least_cost("bops", math.exp(middle))
            mixture = self._mixture(bits) if bits else best
            if self._drop(mixture) <= budget.amount:
                low, best = middle, min(best, mixture, key=lambda candidate: candidate.bops)
            else:
                high = middle
        return best

    def _drop(self, mixture: Mixture) -> float:
        return (self.plain.psnr_y or 0) - (mixture.quality.psnr_y or 0)

    def _mixture(self, bits: Mapping[str, int], pairs: Sequence[Pair] | None = None) -> Mixture:
        """Measure bits by unit, on all pairs unless others are given."""
        size, bops = (self._share(measure, bits) for measure in ("size", "bops"))
        groups = {group: bits[unit] for group, unit in self.units.items()}
        subject = replace(self.uniforms[0].subject, table=mixed(self.uniforms, groups))
        quality = analyze(subject, self.pairs if pairs is None else pairs, ()).quantized
        return Mixture(groups, size, bops, self.problem.noise(bits), quality)

    def _share(self, measure: Measure, bits: Mapping[str, int]) -> float:
        return self.problem.cost(measure, bits) / self.problem.cost(measure, self.eight)

    def _choices(self) -> Iterator[Choice]:
        """Yield a choice for each unit. Its noise is the sum over its groups."""
        noise: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        elements: Counter[str] = Counter()
        for group, unit in self.units.items():
            # two uniforms may have the same bits here, where the target has fewer widths: only one of them counts
            by_bits = {uniform.bits_of(group): uniform for uniform in self.uniforms}
            for bits, uniform in by_bits.items():
                noise[unit][bits] += uniform.noise[group]
        for site in self.plan.weights:
            elements[self.units[site.group]] += self.uniforms[0].subject.table.weights[site.name].numel()
        yield from (Choice(unit, dict(by_width), elements[unit]) for unit, by_width in noise.items())

    def _products(self) -> Iterator[Product]:
        """Yield the product of weight and input for each layer. The MACs of all are counted at the same image size."""
        subject = self.uniforms[0].subject
        height, width = subject.patches.shape[2:]
        for layer in Costs.of(Network(subject.network), (1, 3, height, width)).layers:
            sites = (self.plan.by_edge.get(Edge(layer.name, index)) for index in (1, 0))  # weight, then input
            weight, activation = (None if site is None else self.units[site.group] for site in sites)
            yield Product(layer.macs, weight, activation)


def _unit(site: Site, by: Unit) -> str:
    return site.group if by == "site" else f"{site.stage} {site.role}s"
