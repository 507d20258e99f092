"""RDN (Zhang et al., CVPR 2018) with the keys of EDSR-PyTorch."""

import math

import torch
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.checkpoint import count_keys, load_into, require_keys
from srptq_plugin.models.model_options import RdnOptions, settle
from srptq_plugin.models.model_record import UNIT, ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3, shuffle_factors

UPSCALES = (2, 3, 4)
NEEDED = frozenset({"SFENet1.weight", "RDBs.0.convs.0.conv.0.weight", "UPNet.0.weight"})


class DenseLayer(nn.Module):
    """A convolution whose output is concatenated to its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv3x3(inputs, growth), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(x)), dim=1)


class ResidualDenseBlock(nn.Module):
    """A residual block of dense layers that a 1 x 1 convolution fuses."""

    def __init__(self, features: int, growth: int, layers: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(DenseLayer(features + n * growth, growth) for n in range(layers)))
        self.LFF = nn.Conv2d(features + layers * growth, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.LFF(self.convs(x)) + x


class RDN(nn.Module):
    """A network that upscales by 2, 3 or 4. The paper's D, C, G and G0 are `blocks`, `layers`, `growth`, `features`.

    >>> RDN(upscale=3, features=8, growth=4, blocks=2, layers=2)(torch.zeros(1, 3, 5, 6)).shape
    torch.Size([1, 3, 15, 18])
    """

    def __init__(
        self, upscale: int = 4, features: int = 64, growth: int = 64, blocks: int = 16, layers: int = 8
    ) -> None:
        super().__init__()
        if upscale not in UPSCALES:
            raise SrptqError(f"rdn: upscale={upscale}; give 2, 3 or 4")
        self.SFENet1 = conv3x3(3, features)
        self.SFENet2 = conv3x3(features, features)
        self.RDBs = nn.ModuleList(ResidualDenseBlock(features, growth, layers) for _ in range(blocks))
        self.GFF = nn.Sequential(nn.Conv2d(blocks * features, features, 1), conv3x3(features, features))
        self.UPNet = _upsampler(upscale, features, growth)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.SFENet1(x)
        deep = self.SFENet2(shallow)
        outputs: list[Tensor] = []
        for block in self.RDBs:
            deep = block(deep)
            outputs.append(deep)
        return self.UPNet(self.GFF(torch.cat(outputs, dim=1)) + shallow)


def _upsampler(upscale: int, features: int, growth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for factor in shuffle_factors(upscale):
        layers += [conv3x3(growth if layers else features, factor**2 * growth), nn.PixelShuffle(factor)]
    return nn.Sequential(*layers, conv3x3(growth, 3))


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network."""
    return state.keys() >= NEEDED


def build(request: Request[RdnOptions]) -> SRNetwork:
    """Build an RDN with the size of its weights, by default for images of 0 to 1."""
    state = require_keys(request.state, NEEDED, "rdn", "EDSR-PyTorch's RDN")
    sizes = _sizes(state)
    settle("rdn", request.options, sizes)
    module = RDN(**sizes)
    load_into(module, state)
    return SRNetwork(module, request.input_range or UNIT)


def _sizes(state: State) -> dict[str, int]:
    growth, features = state["RDBs.0.convs.0.conv.0.weight"].shape[:2]
    blocks = count_keys(state, r"RDBs\.\d+\.LFF\.weight")
    layers = count_keys(state, r"RDBs\.0\.convs\.\d+\.conv\.0\.weight")
    # Two shuffles by 2 make x4. Otherwise one shuffle by r reads r^2 * growth channels.
    upscale = 4 if "UPNet.4.weight" in state else math.isqrt(state["UPNet.0.weight"].shape[0] // growth)
    return {"upscale": upscale, "features": features, "growth": growth, "blocks": blocks, "layers": layers}


FAMILY = ModelFamily(build, recognizes, (NEEDED,))
