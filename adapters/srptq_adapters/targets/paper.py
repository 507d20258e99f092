"""The quantizers of papers, for simulation. Nothing is exported.

`paper` has a real offset, which no integer runtime has. `fqsr` is FQSR (Wang et al. 2020). By its equation (3) signed
tensors have M bits and a sign bit, tensors that are never negative M bits. By its equation (7) the outputs of
convolutions and adds are rounded, with the bits of skips. What a convolution or a concat reads has the bits of
activations.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.fusion import Fusion
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Size
from srptq_plugin.plugins.protocols import Runtime
from srptq_plugin.quantization.grid import IntGrid

BITS = frozenset(range(1, 17))
SIGN_AND_MAGNITUDE = IntGrid(8, signed=True, symmetric=True, narrow_range=True)
WHY = "paper: a real offset is no integer zero point, no runtime has it; use a recipe of a real target"
"""Why nothing runs."""


class PaperTarget:
    """Simulation only: `paper` has a real offset, `fqsr` has the levels of FQSR's equation (3)."""

    presets: Mapping[str, Rules] = {
        "paper": Rules(
            weights=IntGrid(8, float_zero_point=True),
            activations=IntGrid(8, float_zero_point=True),
            weight_bits=BITS,
            activation_bits=BITS,
            placements=("convs", "full"),
            integer_bits=frozenset(),
        ),
        "fqsr": Rules(
            weights=SIGN_AND_MAGNITUDE,
            activations=SIGN_AND_MAGNITUDE,
            weight_bits=BITS - {16},
            activation_bits=BITS - {16},
            placements=("full", "convs"),
            outputs_as_skips=True,
            fusions=(Fusion("relu"), Fusion("scale", behind="conv")),
            nonnegative_activations=IntGrid(8, symmetric=True),
            sign_bit=True,
            integer_bits=frozenset(),
        ),
    }

    def require(self) -> None:
        """Accept every machine: nothing is written."""

    def write(self, network: Path, table: QuantTable, folder: Path) -> Sequence[Path]:  # noqa: ARG002
        """Write nothing."""
        return ()

    def load(self, artifact: Path) -> Runtime:
        """Refuse to run: no runtime computes on these grids."""
        raise SrptqError(f"{artifact}: {WHY}")

    def command(self, artifact: Path, size: Size, *, fixed: bool) -> str:  # noqa: ARG002
        """Return no command."""
        return ""


TARGET = PaperTarget()
