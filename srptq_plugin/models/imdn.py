"""IMDN (Hui et al., ACM Multimedia 2019) with the keys of Zheng222/IMDN."""

import torch
from torch import Tensor, nn

from srptq_plugin.models.checkpoint import load_into, require_keys
from srptq_plugin.models.distillation import SLOPE, DistillationNetwork, read_sizes
from srptq_plugin.models.model_options import SizeOptions, settle
from srptq_plugin.models.model_record import UNIT, ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3

NEEDED = frozenset(
    {"fea_conv.weight", "IMDB1.c1.weight", "IMDB1.cca.conv_du.0.weight", "LR_conv.weight", "upsampler.0.weight"}
)
REDUCTION = 16
"""The factor by which channel attention reduces the channels."""


class ContrastAttention(nn.Module):
    """A gate for each channel, computed from its mean and its standard deviation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        hidden = features // REDUCTION
        self.conv_du = nn.Sequential(
            nn.Conv2d(features, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, features, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        deviation = (x - mean).square().mean((2, 3), keepdim=True).sqrt()
        return x * self.conv_du(deviation + mean)


class DistillationBlock(nn.Module):
    """A residual block of which each convolution keeps a quarter of its channels and hands on the rest."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.kept, self.handed_on = features // 4, features - features // 4
        self.c1 = conv3x3(features, features)
        self.c2 = conv3x3(self.handed_on, features)
        self.c3 = conv3x3(self.handed_on, features)
        self.c4 = conv3x3(self.handed_on, self.kept)
        self.act = nn.LeakyReLU(SLOPE)
        self.c5 = nn.Conv2d(4 * self.kept, features, 1)
        self.cca = ContrastAttention(4 * self.kept)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        rest = x
        for conv in (self.c1, self.c2, self.c3):
            part, rest = torch.split(self.act(conv(rest)), [self.kept, self.handed_on], dim=1)
            kept.append(part)
        return self.c5(self.cca(torch.cat([*kept, self.c4(rest)], dim=1))) + x


class IMDN(DistillationNetwork):
    """A network of information multi-distillation blocks.

    >>> IMDN(upscale=2, features=16, blocks=2)(torch.zeros(1, 3, 5, 6)).shape
    torch.Size([1, 3, 10, 12])
    """

    def __init__(self, upscale: int = 4, features: int = 64, blocks: int = 6) -> None:
        names = (f"IMDB{number}" for number in range(1, blocks + 1))
        super().__init__({name: DistillationBlock(features) for name in names}, features, upscale)


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network."""
    return state.keys() >= NEEDED


def build(request: Request[SizeOptions]) -> SRNetwork:
    """Build an IMDN with the size of its weights, by default for images of 0 to 1."""
    state = require_keys(request.state, NEEDED, "imdn", "Zheng222/IMDN")
    sizes = read_sizes(state, r"IMDB\d+\.c1\.weight")
    settle("imdn", request.options, sizes)
    module = IMDN(**sizes)
    load_into(module, state)
    return SRNetwork(module, request.input_range or UNIT)


FAMILY = ModelFamily(build, recognizes, (NEEDED,))
