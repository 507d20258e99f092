"""The frames of IMDN, RFDN, BSRN and RLFN: blocks in a chain, a long skip, and one pixel shuffle."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from srptq_plugin.models.checkpoint import count_keys
from srptq_plugin.models.model_record import State
from srptq_plugin.models.residual import Conv, conv3x3

COLORS = 3
SLOPE = 0.05
"""The slope of every leaky ReLU."""


class BlockNetwork(nn.Module):
    """A head, blocks in a chain, the long skip, and a pixel shuffle.

    Args:
        blocks: The blocks in their order, by the names that they have in checkpoints.
        features: The channels of all maps between them.
        upscale: The factor of the pixel shuffle.
        conv: Builds the convolutions before and behind the blocks.
    """

    def __init__(self, blocks: Mapping[str, nn.Module], features: int, upscale: int, conv: Conv = conv3x3) -> None:
        super().__init__()
        self.names = tuple(blocks)
        self.fea_conv = conv(COLORS, features)
        for name, block in blocks.items():
            self.add_module(name, block)
        self.LR_conv = conv(features, features)
        self.upsampler = nn.Sequential(conv3x3(features, COLORS * upscale**2), nn.PixelShuffle(upscale))

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.fea_conv(x)
        return self.upsampler(self.LR_conv(self.join(list(self._chain(shallow)))) + shallow)

    def join(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the map that the outputs of all blocks give: the last one."""
        return outputs[-1]

    def _chain(self, x: Tensor) -> Iterator[Tensor]:
        for name in self.names:
            x = self.get_submodule(name)(x)
            yield x


class DistillationNetwork(BlockNetwork):
    """A network that fuses the outputs of all blocks, and activates the result."""

    def __init__(
        self,
        blocks: Mapping[str, nn.Module],
        features: int,
        upscale: int,
        conv: Conv = conv3x3,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__(blocks, features, upscale, conv)
        self.c = nn.Sequential(nn.Conv2d(len(blocks) * features, features, 1), activation or nn.LeakyReLU(SLOPE))

    def join(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the fused outputs of all blocks."""
        return self.c(torch.cat([*outputs], dim=1))


class FeatureDistillationBlock(nn.Module):
    """A block that keeps a part of its features at each of three steps, fuses them, and gates the result.

    Args:
        features: The channels of the map.
        kept: The channels that each step keeps.
        attention: The gate.
        conv: Builds the 3 x 3 convolutions.
        activation: The activation of each step.
    """

    def __init__(
        self, features: int, kept: int, attention: nn.Module, conv: Conv = conv3x3, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.c1_d, self.c1_r = nn.Conv2d(features, kept, 1), conv(features, features)
        self.c2_d, self.c2_r = nn.Conv2d(features, kept, 1), conv(features, features)
        self.c3_d, self.c3_r = nn.Conv2d(features, kept, 1), conv(features, features)
        self.c4 = conv(features, kept)
        self.c5 = nn.Conv2d(4 * kept, features, 1)
        self.esa = attention
        self.act = activation or nn.LeakyReLU(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for keep, refine in ((self.c1_d, self.c1_r), (self.c2_d, self.c2_r), (self.c3_d, self.c3_r)):
            kept.append(self.act(keep(x)))
            x = self.act(refine(x) + x)
        return self.esa(self.c5(torch.cat([*kept, self.act(self.c4(x))], dim=1)))


def read_sizes(state: State, block: str) -> dict[str, int]:
    """Return the upscaling factor, the features and the number of blocks of a checkpoint.

    Args:
        state: The checkpoint.
        block: A pattern that matches one key of each block.
    """
    return {
        "upscale": math.isqrt(state["upsampler.0.weight"].shape[0] // COLORS),
        "features": state["fea_conv.weight"].shape[0],
        "blocks": count_keys(state, block),
    }
