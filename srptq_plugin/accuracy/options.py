"""The ways to round a plan's tensors less: operations that stay float, and tensors of more bits, with their prices."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from srptq_plugin.calibration.costly import iter_around, leave_float, rounds_none
from srptq_plugin.costs.cost import Costs, bits_of
from srptq_plugin.costs.memory import FLOAT
from srptq_plugin.graph.network import INPUT, MOVEMENT, OUTPUT, Network
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.plan import Plan
from srptq_plugin.plugins.bound_recipe import BoundRecipe

WIDER = (8, 16)
"""Bits that a tensor may get instead of fewer."""
TRAFFIC = 64
"""Multiplications in float that take as long as reading and writing a float of a feature map, about."""
LEAST = 1e-3
"""The share of the noise below which a tensor is not worth an option."""


@dataclass(frozen=True)
class Wider:
    """A group of sites with more bits: the share of its noise that this takes away, and the price."""

    group: str
    bits: int
    saved: float
    price: float


@dataclass(frozen=True)
class Options:
    """What may be changed in a plan.

    Prices are shares of the float network's multiplications: the time of a multiplication is taken as proportional to
    the mean bits of its factors, and the time of a feature map to its bits.
    """

    noise: Mapping[str, float]
    """The noise of each group, as a share of the whole."""
    price: Mapping[str, float]
    """The price of leaving each operation float."""
    needed: Mapping[str, Sequence[str]]
    """By group, the operations that have to stay float so that its tensors are not rounded."""
    wider: Sequence[Wider]
    layers: Sequence[str]
    """The layers in integers, of which one has to remain."""


@dataclass(frozen=True)
class OptionFinder:
    """Finds the options of a network's plan on its target."""

    bound: BoundRecipe
    network: Network
    plan: Plan
    input_range: tuple[float, float]
    costs: Costs

    def find(self, noise: Mapping[str, float]) -> Options:
        """Return the options for the noise of each group, in any unit."""
        total = sum(noise.values()) or 1.0
        shares = {group: made / total for group, made in noise.items()}
        loud = [group for group, share in shares.items() if share >= LEAST]
        needed = {group: operations for group in loud if (operations := self._needed(group))}
        named = dict.fromkeys(name for operations in needed.values() for name in operations)
        wider = tuple(option for group in loud for option in self._wider(group))
        return Options(shares, {name: self._price(name) for name in named}, needed, wider, self.plan.convs)

    def _needed(self, group: str) -> Sequence[str]:
        """Return the operations to leave float, or none if the target cannot."""
        rules, sites = self.bound.rules, self.plan.groups[group]
        if rules.every_tensor and rules.placement(self.bound.recipe.placement) == "full":
            return ()
        if sites[0].role == "weight":
            return [edge.consumer for site in sites for edge in site.consumers]
        for operations in self._around(group):
            after = leave_float(self.bound, operations).plan(self.network, self.input_range)
            if rounds_none(after, self.plan, group):
                return operations
        return ()

    def _around(self, group: str) -> Iterator[list[str]]:
        """Yield the operations that read a group's tensors, then more and more around them."""
        readers = dict.fromkeys(edge.consumer for site in self.plan.groups[group] for edge in site.consumers)
        nodes = self.network.nodes
        yield [name for name in readers if self.network.ops[nodes[name]] not in (*MOVEMENT, INPUT, OUTPUT)]
        yield from iter_around(self.network, self.plan, group)

    def _wider(self, group: str) -> Iterator[Wider]:
        site, rules = self.plan.groups[group][0], self.bound.rules
        now = rules.named(site.grid)
        for bits in _more_bits(rules, site.role, now):
            yield Wider(group, bits, 1 - 4.0 ** (now - bits), self._price_of_bits(group, bits - now))

    def _price(self, operation: str) -> float:
        layer = self._layers.get(operation)
        multiplied = 0.0 if layer is None else layer.macs * (2 * FLOAT - layer.bits) / (2 * FLOAT)
        stored = 0 if operation in self.plan.floats else self.costs.elements(operation)
        return (multiplied + TRAFFIC * stored * (1 - self.bound.recipe.activations.bits / FLOAT)) / self._all

    def _price_of_bits(self, group: str, bits: int) -> float:
        sites = self.plan.groups[group]
        readers = {edge.consumer for site in sites for edge in site.consumers}
        multiplied = sum(layer.macs for name, layer in self._layers.items() if name in readers) * bits / (2 * FLOAT)
        maps = {site.source for site in sites if site.role == "activation"}
        return (multiplied + TRAFFIC * sum(map(self.costs.elements, maps)) * bits / FLOAT) / self._all

    @cached_property
    def _layers(self) -> Mapping[str, "_Layer"]:
        costs = self.costs.layer_costs(self.plan)
        return {
            cost.layer.name: _Layer(cost.layer.macs, bits_of(cost.weight) + bits_of(cost.activation)) for cost in costs
        }

    @property
    def _all(self) -> int:
        return self.costs.macs


@dataclass(frozen=True)
class _Layer:
    macs: int
    bits: int
    """The sum of the bits of both factors."""


def _more_bits(rules: Rules, role: str, now: int) -> list[int]:
    allowed = rules.weight_bits if role == "weight" else rules.activation_bits
    return [bits for bits in WIDER if bits in allowed and bits > now]
