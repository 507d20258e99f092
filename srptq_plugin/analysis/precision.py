"""Which tensors get which bits, within a budget: measured alone, chosen together, measured together."""

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
from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.pairs import Pair
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.plan import Edge, Site

Unit = Literal["site", "stage"]
POINTS = 10
"""Budgets of a curve."""
TRIES = 10
"""How often the noise that a drop allows is halved in on."""


@dataclass(frozen=True)
class Budget:
    """How much may be spent: a share of the size or BitOPs of 8 bits everywhere, or dB of PSNR against the truth.

    >>> str(Budget("bops", 0.3))
    'bops=0.3'
    """

    measure: Literal["size", "bops", "drop"]
    amount: float

    def __str__(self) -> str:
        return f"{self.measure}={self.amount:g}"


@dataclass(frozen=True)
class Mixture:
    """Bits by group, what they cost as shares of 8 bits everywhere, and how the network draws with them.

    `expected` is the noise if what each tensor makes alone adds up.
    """

    bits: Mapping[str, int]
    size: float
    bops: float
    expected: float
    quality: Quality

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**self.costs(), **self.quality.record(), "bits": dict(self.bits)}

    def costs(self) -> dict[str, float]:
        """What it costs, and what noise that should make."""
        return {"size": self.size, "bops": self.bops, "expected_noise": self.expected}

    def point(self) -> dict[str, float | None]:
        """What a curve has of it, as JSON has it."""
        return {**self.costs(), "noise": self.quality.noise, "psnr": self.quality.psnr}


class Precision:
    """A network measured at several numbers of bits, and what can be chosen for it.

    Budgets of size and BitOPs are shares of what 8 bits everywhere take.
    With `by="stage"` all weights of a stage have as many bits, and so have all its activations.
    """

    def __init__(self, uniforms: Sequence[Uniform], by: Unit = "site", pairs: Sequence[Pair] = ()) -> None:
        self.uniforms, self.pairs = uniforms, pairs
        self.plan = uniforms[0].subject.table.plan
        self.units = {group: _unit(sites[0], by) for group, sites in self.plan.groups.items()}
        self.problem = Problem(list(self._choices()), list(self._products()))
        self.eight = dict.fromkeys(self.units.values(), EIGHT)

    def record(self) -> dict[str, Any]:
        """One number of bits everywhere, for each that was measured, as JSON has it; and the stages of the groups."""
        same = ({unit: found.bits_of(group) for group, unit in self.units.items()} for found in self.uniforms)
        rows = [self._mixture(bits).record() for bits in same]
        stages = {group: [sites[0].stage, sites[0].role] for group, sites in self.plan.groups.items()}
        return {
            "uniform": [{"width": e.bits, **row} for e, row in zip(self.uniforms, rows, strict=True)],
            "groups": stages,
        }

    def within(self, budget: Budget) -> Mixture:
        """The least noise for a budget; for a drop, the fewest BitOPs."""
        if budget.measure == "drop":
            return self._cheapest(budget)
        whole = self.problem.cost(budget.measure, self.eight)
        found = self.problem.least_noise(budget.measure, budget.amount * whole)
        if found is None:
            least = self.problem.cost(budget.measure, self.problem.least()) / whole
            raise SrptqError(f"budget {budget}: nothing costs so little; the least is {budget.measure}={least:.4g}")
        return self._mixture(found)

    def curve(self, measure: Measure) -> list[Mixture]:
        """The least noise at a ladder of budgets from the least to the most, even steps of a logarithm apart."""
        least, most = (self.problem.cost(measure, bits) for bits in (self.problem.least(), self.problem.most()))
        steps = ((n / (POINTS - 1)) for n in range(POINTS))
        limits = [least * (most / max(least, 1)) ** step for step in steps]
        found = (self.problem.least_noise(measure, max(round(limit), least)) for limit in limits)
        return [self._mixture(bits, ()) for bits in found if bits is not None]

    def _cheapest(self, budget: Budget) -> Mixture:
        """The noise that may be is halved in on, as noises that add up are no measured drop."""
        if not self.pairs:
            raise SrptqError(f"budget {budget}: a drop is against the truth; give high-resolution images with --data")
        best = self._mixture(self.problem.most())
        if (lost := self._drop(best)) > budget.amount:
            raise SrptqError(f"budget {budget}: the most bits lose more; the least is drop={lost:.3f}")
        low, high = (
            math.log(max(self.problem.noise(bits), 1e-12)) for bits in (self.problem.most(), self.problem.least())
        )
        for _ in range(TRIES):
            middle = (low + high) / 2
            found = self.problem.least_cost("bops", math.exp(middle))
            tried = self._mixture(found) if found else best
            if self._drop(tried) <= budget.amount:
                low, best = middle, min(best, tried, key=lambda each: each.bops)
            else:
                high = middle
        return best

    @cached_property
    def plain(self) -> Quality:
        """The float network."""
        return analyze(self.uniforms[0].subject, self.pairs, ()).float

    def _drop(self, mixture: Mixture) -> float:
        return (self.plain.psnr_y or 0) - (mixture.quality.psnr_y or 0)

    def _mixture(self, bits: Mapping[str, int], pairs: Sequence[Pair] | None = None) -> Mixture:
        size, bops = (self._share(measure, bits) for measure in ("size", "bops"))
        groups = {group: bits[unit] for group, unit in self.units.items()}
        subject = replace(self.uniforms[0].subject, table=mixed(self.uniforms, groups))
        quality = analyze(subject, self.pairs if pairs is None else pairs, ()).quantized
        return Mixture(groups, size, bops, self.problem.noise(bits), quality)

    def _share(self, measure: Measure, bits: Mapping[str, int]) -> float:
        return self.problem.cost(measure, bits) / self.problem.cost(measure, self.eight)

    def _choices(self) -> Iterator[Choice]:
        noise: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        elements: Counter[str] = Counter()
        for group, unit in self.units.items():
            for each in {found.bits_of(group): found for found in self.uniforms}.values():
                noise[unit][each.bits_of(group)] += each.noise[group]
        for site in self.plan.weights:
            elements[self.units[site.group]] += self.uniforms[0].subject.table.weights[site.name].numel()
        yield from (Choice(unit, dict(found), elements[unit]) for unit, found in noise.items())

    def _products(self) -> Iterator[Product]:
        subject = self.uniforms[0].subject
        height, width = subject.patches.shape[2:]
        for layer in Costs.of(Network(subject.network), (1, 3, height, width)).layers:
            sites = (self.plan.by_edge.get(Edge(layer.name, place)) for place in (1, 0))
            yield Product(layer.macs, *(None if site is None else self.units[site.group] for site in sites))


def _unit(site: Site, by: Unit) -> str:
    return site.group if by == "site" else f"{site.stage} {site.role}s"
