"""The paper's quantizer, for simulation: a real offset, which no integer runtime has, so nothing is exported."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from srptq_plugin.contracts import Rules, Runtime, Size
from srptq_plugin.errors import SrptqError
from srptq_plugin.grid import IntGrid
from srptq_plugin.table import QuantTable

BITS = frozenset(range(2, 17))
WHY = "paper: a real offset is no integer zero point, no runtime has it; use a recipe of a real target"


class PaperTarget:
    """Simulation only."""

    presets: Mapping[str, Rules] = {
        "paper": Rules(
            weights=IntGrid(8, real_offset=True),
            activations=IntGrid(8, real_offset=True),
            weight_bits=BITS,
            activation_bits=BITS,
            placements=("convs", "full"),
            integer_bits=frozenset(),
        )
    }

    exports: Mapping[str, Sequence[object]] = MappingProxyType({})

    def require(self) -> None:
        """Nothing is written."""

    def write(self, network: Path, table: QuantTable, folder: Path) -> Sequence[Path]:  # noqa: ARG002
        """Nothing to write."""
        return ()

    def load(self, artefact: Path) -> Runtime:
        """Refused."""
        raise SrptqError(f"{artefact}: {WHY}")

    def command(self, artefact: Path, size: Size | None) -> str:  # noqa: ARG002
        """No vendor, no command."""
        return ""


TARGET = PaperTarget()
