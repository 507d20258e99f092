"""OPs and memory in FQSR's Table 2, compared with this package's counts. Nothing is trained or measured.

    python benchmarks/costs.py

SRResNet is SRGAN's generator, with kernels of 9 at both ends. FQSR_Lite has 10 blocks. Prints Markdown.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from srptq_plugin.costs.estimate import Estimate
from srptq_plugin.graph.types import Size
from srptq_plugin.models.loading import describe
from srptq_plugin.models.model_record import SRNetwork
from srptq_plugin.models.srgan import SRGANGenerator
from srptq_plugin.plugins.registry import Registry

SIZES: dict[int, Size] = {2: (1, 3, 678, 1020), 4: (1, 3, 339, 510)}
BLOCKS, LITE = 16, 10
FLOAT = "float"


@dataclass(frozen=True)
class Row:
    """The paper's figures for a setting: OPs in G, memory in MB."""

    scale: int
    setting: str
    operations: float
    memory: float
    blocks: int = BLOCKS

    @property
    def recipe(self) -> str:
        """The recipe of a setting such as 4/4/8. The float network is the same for every recipe."""
        weights, features, skips = ("8", "8", "8") if self.setting == FLOAT else self.setting.split("/")
        return f"paper-w{weights}a{features}-fqsr-s{skips}"


ROWS = (
    Row(2, FLOAT, 997.018, 531.117),
    Row(2, "4/4/8", 62.314, 132.779),
    Row(2, "4/4/32", 62.314, 531.117),
    Row(2, "6/6/8", 93.470, 132.779),
    Row(2, "8/8/8", 124.627, 132.779),
    Row(2, "8/8/32", 124.627, 531.117),
    Row(2, "6/6/8", 63.894, 132.779, LITE),
    Row(4, FLOAT, 383.487, 132.777),
    Row(4, "4/4/8", 23.968, 33.194),
    Row(4, "4/4/32", 23.968, 132.777),
    Row(4, "6/6/8", 35.952, 33.194),
    Row(4, "8/8/8", 47.936, 33.194),
    Row(4, "8/8/32", 47.936, 132.777),
    Row(4, "6/6/8", 28.558, 33.194, LITE),
)


def count(row: Row) -> Iterator[float]:
    """Yield OPs in G, memory in MB by FQSR's convention, peak memory in MB by liveness, and the model in MB."""
    loaded = describe("SRResNet", SRNetwork(SRGANGenerator(row.scale, 64, row.blocks)))
    estimate = Estimate.of_recipe(row.recipe, loaded, Registry(), SIZES[row.scale])
    total = estimate.plain if row.setting == FLOAT else estimate.quantized
    yield total.fqsr_operations / 1e9
    yield (total.fqsr_memory or 0) / 1e6
    yield total.memory.bytes / 1e6
    yield total.size / 1e6


def main() -> None:
    """Print the table."""
    print("| scale | setting | OPs, paper | OPs | memory, paper | memory | most at once | model |")
    print("| --- |" + " --- |" * 7)
    for row in ROWS:
        operations, memory, peak, size = count(row)
        name = row.setting + (" Lite" if row.blocks == LITE else "")
        figures = f"{row.operations:.2f} | {operations:.2f} | {row.memory:.1f} | {memory:.1f} | {peak:.0f} | {size:.2f}"
        print(f"| x{row.scale} | {name} | {figures} |")


if __name__ == "__main__":
    main()
