"""OPs and memory in FQSR's Table 2, compared with this package's counts. Nothing is trained or measured.

    python benchmarks/costs.py

SRResNet is SRGAN's generator, with kernels of 9 at both ends. FQSR_Lite has 10 blocks, "w/o M" none and no skip.
BAM has a body of 1 bit. Prints Markdown.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from srptq_plugin import Recipe
from srptq_plugin.costs.conventions import fqsr_memory
from srptq_plugin.costs.estimate import Estimate, Total
from srptq_plugin.costs.memory import packed_bytes
from srptq_plugin.graph.types import Size
from srptq_plugin.models.loading import describe
from srptq_plugin.models.model_record import SRNetwork
from srptq_plugin.models.srgan import SRGANGenerator
from srptq_plugin.plugins.registry import Registry

SIZES: dict[int, Size] = {2: (1, 3, 678, 1020), 4: (1, 3, 339, 510)}
BLOCKS, LITE = 16, 10
FLOAT, BAM, WITHOUT_M = "float", "BAM", "w/o M"
BAM_MAPS = 33
"""Feature maps that the paper counts for BAM: the outputs of all convolutions of the body."""
BAM_OVERRIDES = (
    "weights.bits=1",
    "activations.bits=1",
    *(f"stages.{stage}.quantize=false" for stage in ("head", "upsample", "tail")),
)


class WithoutMapping(nn.Module):
    """The generator without its nonlinear mapping M: the first convolution and the upsampling remain."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        first, *_, upsample = SRGANGenerator(scale).children()
        self.first, self.upsample = first, upsample

    def forward(self, image: Tensor) -> Tensor:
        """Upscale an image."""
        return (torch.tanh(self.upsample(self.first(image))) + 1) / 2


@dataclass(frozen=True)
class Row:
    """The paper's figures for a setting: OPs in G, memory in MB."""

    scale: int
    setting: str
    operations: float
    memory: float
    blocks: int = BLOCKS

    @property
    def recipe(self) -> Recipe:
        """The recipe of a setting such as 4/4/8. Float networks are the same for every recipe."""
        if self.setting == BAM:
            return Recipe.load("paper-w4a4-fqsr-s32", BAM_OVERRIDES)
        is_float = self.setting in (FLOAT, WITHOUT_M)
        weights, features, skips = ("8", "8", "8") if is_float else self.setting.split("/")
        return Recipe.load(f"paper-w{weights}a{features}-fqsr-s{skips}")

    @property
    def network(self) -> nn.Module:
        """SRResNet, or the part of it without the mapping."""
        return WithoutMapping(self.scale) if self.setting == WITHOUT_M else SRGANGenerator(self.scale, 64, self.blocks)


ROWS = (
    Row(2, FLOAT, 997.018, 531.117),
    Row(2, BAM, 168.894, 5842.287),
    Row(2, WITHOUT_M, 155.749, 177.039),
    Row(2, "4/4/8", 62.314, 132.779),
    Row(2, "4/4/32", 62.314, 531.117),
    Row(2, "6/6/8", 93.470, 132.779),
    Row(2, "8/8/8", 124.627, 132.779),
    Row(2, "8/8/32", 124.627, 531.117),
    Row(2, "6/6/8", 63.894, 132.779, LITE),
    Row(4, FLOAT, 383.487, 132.777),
    Row(4, BAM, 176.461, 1460.580),
    Row(4, WITHOUT_M, 173.175, 44.260),
    Row(4, "4/4/8", 23.968, 33.194),
    Row(4, "4/4/32", 23.968, 132.777),
    Row(4, "6/6/8", 35.952, 33.194),
    Row(4, "8/8/8", 47.936, 33.194),
    Row(4, "8/8/32", 47.936, 132.777),
    Row(4, "6/6/8", 28.558, 33.194, LITE),
)


def count(row: Row) -> Iterator[float]:
    """Yield OPs in G, memory in MB by FQSR's convention, peak memory in MB by liveness, and the model in MB."""
    loaded = describe("SRResNet", SRNetwork(row.network))
    estimate = Estimate.of_recipe(row.recipe, loaded, Registry(), SIZES[row.scale])
    total = estimate.plain if row.setting in (FLOAT, WITHOUT_M) else estimate.quantized
    yield total.fqsr_operations / 1e9
    yield _memory(row.setting, estimate, total) / 1e6
    yield total.memory.bytes / 1e6
    yield total.size / 1e6


def _memory(setting: str, estimate: Estimate, total: Total) -> int:
    if setting == WITHOUT_M:  # one map: the first convolution's output
        return packed_bytes(estimate.costs.elements(estimate.costs.layers[0].name), 32)
    if setting == BAM:
        return fqsr_memory(estimate.costs, estimate.plan, BAM_MAPS) or 0
    return total.fqsr_memory or 0


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
