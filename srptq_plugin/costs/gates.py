"""The cost of DDTB's gates, which a trained run holds next to its bounds."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from srptq_plugin.costs.cost import Costs
from srptq_plugin.costs.memory import FLOAT, packed_bytes
from srptq_plugin.deploy.quant_table import QuantTable

BITS = 2
"""Bits of a gate's kernels and of the values that it multiplies."""
KERNELS, NORM = ("gate.narrow", "gate.widen"), ("gate.gain", "gate.shift", "gate.mean", "gate.variance")
"""The tensors of a gate: its two kernels, and its batch norm between them."""


@dataclass(frozen=True)
class GateCosts:
    """The costs of all gates of a network, for one image."""

    number: int = 0
    macs: int = 0
    """Multiplications in both kernels."""
    additions: int = 0
    """Additions in the means of channels, one for each value of a gated map."""
    bytes: int = 0
    """Kernels at their bits, and batch norms in float."""

    @property
    def bops(self) -> int:
        """BitOPs, at two bits on both sides."""
        return self.macs * BITS * BITS

    @classmethod
    def of(cls, costs: Costs, table: QuantTable) -> "GateCosts":
        """Count the gates of a table."""
        gated = {group: state for group, state in table.states.items() if KERNELS[0] in state}
        sites = [table.plan.groups[group] for group in gated]
        return cls(
            len(gated),
            sum(_elements(state, KERNELS) for state in gated.values()),
            sum(costs.elements(site.source) for members in sites for site in members),
            sum(
                packed_bytes(_elements(state, KERNELS), BITS) + packed_bytes(_elements(state, NORM), FLOAT)
                for state in gated.values()
            ),
        )


def _elements(state: Mapping[str, Tensor], names: tuple[str, ...]) -> int:
    return sum(state[name].numel() for name in names)
