"""PAN (Zhao et al., AIM 2020) with the keys of zhaohengyuan1/PAN."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.errors import ArgumentError, SrptqError
from srptq_plugin.models.checkpoint import count_keys, load_into, require_keys
from srptq_plugin.models.model_options import SizeOptions, settle
from srptq_plugin.models.model_record import UNIT, ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3, shuffle_factors

COLORS = 3
SLOPE = 0.2
UPSCALES = (2, 3, 4)
NEEDED = frozenset(
    {"conv_first.weight", "SCPA_trunk.0.conv1_a.weight", "trunk_conv.weight", "upconv1.weight", "att1.conv.weight"}
)


class PixelAttention(nn.Module):
    """A gate for each value, computed by a 1 x 1 convolution."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(x))


class AttentionConvolution(nn.Module):
    """Two convolutions with a gate between them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.k2 = nn.Conv2d(features, features, 1)
        self.k3 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.k4 = nn.Conv2d(features, features, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.k4(self.k3(x) * torch.sigmoid(self.k2(x)))


class SelfCalibratedBlock(nn.Module):
    """A residual block of two branches, one of which has pixel attention."""

    def __init__(self, features: int, inner: int) -> None:
        super().__init__()
        self.conv1_a = nn.Conv2d(features, inner, 1, bias=False)
        self.conv1_b = nn.Conv2d(features, inner, 1, bias=False)
        self.k1 = nn.Sequential(nn.Conv2d(inner, inner, 3, padding=1, bias=False))
        self.PAConv = AttentionConvolution(inner)
        self.conv3 = nn.Conv2d(2 * inner, features, 1, bias=False)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        plain = self.act(self.k1(self.act(self.conv1_a(x))))
        gated = self.act(self.PAConv(self.act(self.conv1_b(x))))
        return self.conv3(torch.cat([plain, gated], dim=1)) + x


class PAN(nn.Module):
    """A network that upscales by 2, 3 or 4. Its output is a residual added to the bilinearly enlarged input.

    >>> PAN(upscale=3, features=8, blocks=1)(torch.zeros(1, 3, 5, 6)).shape
    torch.Size([1, 3, 15, 18])
    """

    def __init__(
        self, upscale: int = 4, features: int = 40, blocks: int = 16, *, inner: int = 20, enlarged: int = 24
    ) -> None:
        super().__init__()
        if upscale not in UPSCALES:
            raise SrptqError(f"pan: upscale={upscale}; give 2, 3 or 4")
        self.upscale = upscale
        self.factor, *more = shuffle_factors(upscale)
        self.conv_first = conv3x3(COLORS, features)
        self.SCPA_trunk = nn.Sequential(*(SelfCalibratedBlock(features, inner) for _ in range(blocks)))
        self.trunk_conv = conv3x3(features, features)
        self.upconv1 = conv3x3(features, enlarged)
        self.att1 = PixelAttention(enlarged)
        self.HRconv1 = conv3x3(enlarged, enlarged)
        self.again = bool(more)
        if more:
            self.upconv2 = conv3x3(enlarged, enlarged)
            self.att2 = PixelAttention(enlarged)
            self.HRconv2 = conv3x3(enlarged, enlarged)
        self.conv_last = conv3x3(enlarged, COLORS)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.conv_first(x)
        features = self.upconv1(self._enlarge(shallow + self.trunk_conv(self.SCPA_trunk(shallow))))
        features = self.act(self.HRconv1(self.act(self.att1(features))))
        if self.again:
            features = self.upconv2(self._enlarge(features))
            features = self.act(self.HRconv2(self.act(self.att2(features))))
        enlarged = functional.interpolate(x, scale_factor=self.upscale, mode="bilinear", align_corners=False)
        return self.conv_last(features) + enlarged

    def _enlarge(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=self.factor, mode="nearest")


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network."""
    return state.keys() >= NEEDED


def build(request: Request[SizeOptions]) -> SRNetwork:
    """Build a PAN with the size of its weights, by default for images of 0 to 1. The caller tells x2 from x3."""
    state = require_keys(request.state, NEEDED, "pan", "zhaohengyuan1/PAN")
    inner, features = state["SCPA_trunk.0.conv1_a.weight"].shape[:2]
    sizes = {"features": features, "blocks": count_keys(state, r"SCPA_trunk\.\d+\.conv3\.weight")}
    settle("pan", request.options, sizes | _find_scale(state, request.options.upscale))
    module = PAN(
        request.options.upscale or UPSCALES[-1], **sizes, inner=inner, enlarged=state["upconv1.weight"].shape[0]
    )
    load_into(module, state)
    return SRNetwork(module, request.input_range or UNIT)


def _find_scale(state: State, given: int | None) -> dict[str, int]:
    """Return the scale if the weights tell it. Raise ArgumentError if neither they nor the caller do."""
    if "upconv2.weight" in state:
        return {"upscale": UPSCALES[-1]}
    if given is None:
        raise ArgumentError(
            "model_args",
            "pan: networks for x2 and x3 have the same weights; give the scale, "
            "`model_args=upscale=2` or `model_args=upscale=3`",
        )
    return {}


FAMILY = ModelFamily(build, recognizes, (NEEDED,))
