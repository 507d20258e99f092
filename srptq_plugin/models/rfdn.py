"""RFDN (Liu et al., AIM 2020) with the keys of njulj/RFDN."""

import torch
from torch import Tensor, nn

from srptq_plugin.models.checkpoint import load_into, require_keys
from srptq_plugin.models.distillation import SLOPE, DistillationNetwork, read_sizes
from srptq_plugin.models.model_options import SizeOptions, settle
from srptq_plugin.models.model_record import LEVELS, ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3
from srptq_plugin.models.spatial_attention import SpatialAttention

NEEDED = frozenset(
    {"fea_conv.weight", "B1.c1_d.weight", "B1.c1_r.weight", "B1.esa.conv3_.weight", "c.0.weight", "upsampler.0.weight"}
)


class DeepSpatialAttention(SpatialAttention):
    """Spatial attention of three convolutions at the small size."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__(features, hidden)
        self.conv_max = conv3x3(hidden, hidden)
        self.conv3_ = conv3x3(hidden, hidden)
        self.relu = nn.ReLU()

    def refine(self, pooled: Tensor) -> Tensor:
        """Compute the attention of each region from its pooled features."""
        return self.conv3_(self.relu(self.conv3(self.relu(self.conv_max(pooled)))))


class FeatureDistillationBlock(nn.Module):
    """A block that keeps a part of its features at each of three steps, fuses them, and gates the result."""

    def __init__(self, features: int, kept: int, hidden: int) -> None:
        super().__init__()
        self.c1_d, self.c1_r = nn.Conv2d(features, kept, 1), conv3x3(features, features)
        self.c2_d, self.c2_r = nn.Conv2d(features, kept, 1), conv3x3(features, features)
        self.c3_d, self.c3_r = nn.Conv2d(features, kept, 1), conv3x3(features, features)
        self.c4 = conv3x3(features, kept)
        self.c5 = nn.Conv2d(4 * kept, features, 1)
        self.esa = DeepSpatialAttention(features, hidden)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for keep, refine in ((self.c1_d, self.c1_r), (self.c2_d, self.c2_r), (self.c3_d, self.c3_r)):
            kept.append(self.act(keep(x)))
            x = self.act(refine(x) + x)
        return self.esa(self.c5(torch.cat([*kept, self.act(self.c4(x))], dim=1)))


class RFDN(DistillationNetwork):
    """A network of residual feature distillation blocks.

    >>> RFDN(upscale=2, features=8, blocks=2, kept=4, hidden=2)(torch.zeros(1, 3, 24, 24)).shape
    torch.Size([1, 3, 48, 48])
    """

    def __init__(self, upscale: int = 4, features: int = 50, blocks: int = 4, kept: int = 25, hidden: int = 12) -> None:
        names = (f"B{number}" for number in range(1, blocks + 1))
        super().__init__({name: FeatureDistillationBlock(features, kept, hidden) for name in names}, features, upscale)


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network."""
    return state.keys() >= NEEDED


def build(request: Request[SizeOptions]) -> SRNetwork:
    """Build an RFDN with the size of its weights, by default for images of 0 to 255."""
    state = require_keys(request.state, NEEDED, "rfdn", "njulj/RFDN")
    sizes = read_sizes(state, r"B\d+\.c1_d\.weight")
    settle("rfdn", request.options, sizes)
    kept, hidden = (state[f"B1.{name}.weight"].shape[0] for name in ("c1_d", "esa.conv1"))
    module = RFDN(**sizes, kept=kept, hidden=hidden)
    load_into(module, state)
    # The published weights have this range. No key tells.
    return SRNetwork(module, request.input_range or LEVELS)


FAMILY = ModelFamily(build, recognizes)
