"""RLFN (Kong et al., NTIRE 2022) with the keys of bytedance/RLFN and of the challenge."""

import math
import re

from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.checkpoint import Renames, load_into, rename_keys
from srptq_plugin.models.model_options import SizeOptions, settle
from srptq_plugin.models.model_record import ModelFamily, Range, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3
from srptq_plugin.models.spatial_attention import SpatialAttention

NEEDED = frozenset({"fea_conv.weight", "B1.c1_r.weight", "B1.c5.weight", "B1.esa.conv3.weight", "upsampler.0.weight"})
FOREIGN = frozenset({"B1.c1_d.weight", "c.0.weight"})
"""Keys of RFDN and its relatives, whose other keys are the same."""
RENAMES: Renames = (
    (r"conv_1\.(.*)", r"fea_conv.\1"),
    (r"block_(\d+)\.(.*)", r"B\1.\2"),
    (r"conv_2\.(.*)", r"LR_conv.\1"),
)
"""The keys of bytedance/RLFN to the challenge's."""
COLORS = 3
LEVELS: Range = (0.0, 255.0)
"""The range of the published weights. No key tells."""


class ResidualLocalFeatureBlock(nn.Module):
    """A residual block of three convolutions, a fusion and spatial attention."""

    def __init__(self, features: int, inner: int, hidden: int) -> None:
        super().__init__()
        self.c1_r = conv3x3(features, inner)
        self.c2_r = conv3x3(inner, inner)
        self.c3_r = conv3x3(inner, features)
        self.c5 = nn.Conv2d(features, features, 1)
        self.esa = SpatialAttention(features, hidden)
        self.act = nn.LeakyReLU(0.05)

    def forward(self, x: Tensor) -> Tensor:
        refined = x
        for conv in (self.c1_r, self.c2_r, self.c3_r):
            refined = self.act(conv(refined))
        return self.esa(self.c5(refined + x))


class RLFN(nn.Module):
    """A chain of residual local feature blocks with a long skip, before one pixel shuffle.

    >>> import torch
    >>> RLFN(upscale=2, features=8, blocks=2, inner=6, hidden=4)(torch.zeros(1, 3, 24, 24)).shape
    torch.Size([1, 3, 48, 48])
    """

    def __init__(
        self, upscale: int = 4, features: int = 46, blocks: int = 4, inner: int = 48, hidden: int = 16
    ) -> None:
        super().__init__()
        self.names = tuple(f"B{number}" for number in range(1, blocks + 1))
        self.fea_conv = conv3x3(COLORS, features)
        for name in self.names:
            self.add_module(name, ResidualLocalFeatureBlock(features, inner, hidden))
        self.LR_conv = conv3x3(features, features)
        self.upsampler = nn.Sequential(conv3x3(features, COLORS * upscale**2), nn.PixelShuffle(upscale))

    def forward(self, x: Tensor) -> Tensor:
        shallow = deep = self.fea_conv(x)
        for name in self.names:
            deep = self.get_submodule(name)(deep)
        return self.upsampler(self.LR_conv(deep) + shallow)


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network."""
    keys = rename_keys(state, RENAMES).keys()
    return keys >= NEEDED and not keys & FOREIGN


def build(request: Request[SizeOptions]) -> SRNetwork:
    """Build an RLFN with the size of its weights, by default for images of 0 to 255."""
    if request.state is None:
        raise SrptqError("rlfn: no weights; give a checkpoint of bytedance/RLFN")
    if not recognizes(request.state):
        raise SrptqError("rlfn: the weights have other blocks; give a checkpoint of bytedance/RLFN")
    state = rename_keys(request.state, RENAMES)
    features, inner, hidden = (state[f"{name}.weight"].shape[0] for name in ("fea_conv", "B1.c1_r", "B1.esa.conv1"))
    sizes = {
        "upscale": math.isqrt(state["upsampler.0.weight"].shape[0] // COLORS),
        "features": features,
        "blocks": sum(re.fullmatch(r"B\d+\.c1_r\.weight", key) is not None for key in state),
    }
    settle("rlfn", request.options, sizes)
    module = RLFN(**sizes, inner=inner, hidden=hidden)
    load_into(module, state)
    return SRNetwork(module, request.input_range or LEVELS)


FAMILY = ModelFamily(build, recognizes)
