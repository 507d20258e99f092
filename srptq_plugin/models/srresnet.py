"""SRResNet without batch norm, as BasicSR publishes it (MSRResNet)."""

import math

from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.checkpoint import count_keys, load_into, require_keys
from srptq_plugin.models.model_options import SizeOptions, settle
from srptq_plugin.models.model_record import UNIT, ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3, shuffle_factors

UPSCALES = (2, 3, 4)
NEEDED = frozenset({"conv_first.weight", "body.0.conv1.weight", "upconv1.weight", "conv_hr.weight"})


class SRResNetBlock(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(features, features)
        self.relu = nn.ReLU()
        self.conv2 = conv3x3(features, features)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.relu(self.conv1(x)))


class SRResNet(nn.Module):
    """A network that upscales by 2, 3 or 4. Its output is a residual added to the bilinearly enlarged input.

    >>> import torch
    >>> SRResNet(upscale=3, features=8, blocks=1)(torch.zeros(1, 3, 5, 6)).shape
    torch.Size([1, 3, 15, 18])
    """

    def __init__(self, upscale: int = 4, features: int = 64, blocks: int = 16) -> None:
        super().__init__()
        if upscale not in UPSCALES:
            raise SrptqError(f"srresnet: upscale={upscale}; give 2, 3 or 4")
        factor, *more = shuffle_factors(upscale)
        self.upscale = upscale
        self.conv_first = conv3x3(3, features)
        self.body = nn.Sequential(*(SRResNetBlock(features) for _ in range(blocks)))
        self.upconv1 = conv3x3(features, factor**2 * features)
        self.upconv2 = conv3x3(features, factor**2 * features) if more else None
        self.pixel_shuffle = nn.PixelShuffle(factor)
        self.conv_hr = conv3x3(features, features)
        self.conv_last = conv3x3(features, 3)
        self.lrelu = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(self.lrelu(self.conv_first(x)))
        features = self.lrelu(self.pixel_shuffle(self.upconv1(features)))
        if self.upconv2 is not None:
            features = self.lrelu(self.pixel_shuffle(self.upconv2(features)))
        enlarged = functional.interpolate(x, scale_factor=self.upscale, mode="bilinear", align_corners=False)
        return self.conv_last(self.lrelu(self.conv_hr(features))) + enlarged


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network."""
    return state.keys() >= NEEDED


def build(request: Request[SizeOptions]) -> SRNetwork:
    """Build an SRResNet with the size of its weights, by default for images of 0 to 1."""
    state = require_keys(request.state, NEEDED, "srresnet", "BasicSR's MSRResNet")
    outputs, features = state["upconv1.weight"].shape[:2]
    blocks = count_keys(state, r"body\.\d+\.conv1\.weight")
    upscale = 4 if "upconv2.weight" in state else math.isqrt(outputs // features)
    sizes = {"upscale": upscale, "features": features, "blocks": blocks}
    settle("srresnet", request.options, sizes)
    module = SRResNet(upscale, features, blocks)
    load_into(module, state)
    return SRNetwork(module, request.input_range or UNIT)


FAMILY = ModelFamily(build, recognizes, (NEEDED,))
