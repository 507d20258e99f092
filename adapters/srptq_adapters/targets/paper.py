"""Quantizers as papers have them, for simulation: nothing is exported.

`paper`: a real offset, which no integer runtime has. `fqsr`: FQSR's equation (3), M bits of magnitude and a sign, which
what is never negative has not; what convolutions, adds and concats read is rounded, the image that comes out is not.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Size
from srptq_plugin.plugins.protocols import Runtime
from srptq_plugin.quantization.grid import IntGrid

BITS = frozenset(range(1, 17))
SIGN_AND_MAGNITUDE = IntGrid(8, signed=True, symmetric=True, narrow_range=True)
WHY = "paper: a real offset is no integer zero point, no runtime has it; use a recipe of a real target"


class PaperTarget:
    """Simulation only: `paper` has a real offset, `fqsr` the levels of FQSR's equation (3)."""

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
            outputs=frozenset({"add", "cat"}),
            nonnegative_activations=IntGrid(8, symmetric=True),
            sign_bit=True,
            integer_bits=frozenset(),
        ),
    }

    exports: Mapping[str, Sequence[object]] = MappingProxyType({})

    def require(self) -> None:
        """Nothing is written."""

    def write(self, network: Path, table: QuantTable, folder: Path) -> Sequence[Path]:  # noqa: ARG002
        """Nothing to write."""
        return ()

    def load(self, artifact: Path) -> Runtime:
        """Refused."""
        raise SrptqError(f"{artifact}: {WHY}")

    def command(self, artifact: Path, size: Size | None) -> str:  # noqa: ARG002
        """No vendor, no command."""
        return ""


TARGET = PaperTarget()
