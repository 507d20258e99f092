"""RRDBNet, the generator of ESRGAN (Wang et al. 2018) and Real-ESRGAN, with the keys of BasicSR."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.checkpoint import Renames, count_keys, load_into, rename_keys
from srptq_plugin.models.model_options import RrdbOptions, settle
from srptq_plugin.models.model_record import UNIT, ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3

UPSCALES = (2, 4)
ENLARGED = 4
"""The factor of the two nearest-neighbor interpolations. A network for x2 first halves its image by pixel unshuffle."""
NEEDED = frozenset({"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_up1.weight", "conv_up2.weight"})
RENAMES: Renames = (
    (r"RRDB_trunk\.(\d+)\.RDB(\d)\.(.*)", r"body.\1.rdb\2.\3"),
    (r"trunk_conv\.(.*)", r"conv_body.\1"),
    (r"upconv(\d)\.(.*)", r"conv_up\1.\2"),
    (r"HRconv\.(.*)", r"conv_hr.\1"),
    (r"model\.0\.(.*)", r"conv_first.\1"),
    (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(.*)", r"body.\1.rdb\2.conv\3.\4"),
    (r"model\.1\.sub\.\d+\.(weight|bias)", r"conv_body.\1"),
    (r"model\.3\.(.*)", r"conv_up1.\1"),
    (r"model\.6\.(.*)", r"conv_up2.\1"),
    (r"model\.8\.(.*)", r"conv_hr.\1"),
    (r"model\.10\.(.*)", r"conv_last.\1"),
)
"""Keys of ESRGAN's code, and of its older code with numbered layers, to BasicSR's keys."""


class DenseBlock(nn.Module):
    """A residual block of five densely connected convolutions, with the residual scaled by 0.2."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(features, growth)
        self.conv2 = conv3x3(features + growth, growth)
        self.conv3 = conv3x3(features + 2 * growth, growth)
        self.conv4 = conv3x3(features + 3 * growth, growth)
        self.conv5 = conv3x3(features + 4 * growth, features)
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        dense = [x, self.lrelu(self.conv1(x))]
        for conv in (self.conv2, self.conv3, self.conv4):
            dense.append(self.lrelu(conv(torch.cat(dense, dim=1))))
        return x + 0.2 * self.conv5(torch.cat(dense, dim=1))


class ResidualInResidual(nn.Module):
    """A residual block of three dense blocks, with the residual scaled by 0.2."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(features, growth)
        self.rdb2 = DenseBlock(features, growth)
        self.rdb3 = DenseBlock(features, growth)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDB(nn.Module):
    """A network that upscales by 4, or by 2 after a pixel unshuffle of the image, as Real-ESRGAN does.

    >>> RRDB(upscale=2, features=8, growth=4, blocks=1)(torch.zeros(1, 3, 5, 6)).shape
    torch.Size([1, 3, 10, 12])
    """

    def __init__(self, upscale: int = 4, features: int = 64, growth: int = 32, blocks: int = 23) -> None:
        super().__init__()
        if upscale not in UPSCALES:
            raise SrptqError(f"rrdb: upscale={upscale}; give 2 or 4")
        self.upscale = upscale
        self.unshuffle = ENLARGED // upscale
        self.conv_first = conv3x3(3 * self.unshuffle**2, features)
        self.body = nn.Sequential(*(ResidualInResidual(features, growth) for _ in range(blocks)))
        self.conv_body = conv3x3(features, features)
        self.conv_up1 = conv3x3(features, features)
        self.conv_up2 = conv3x3(features, features)
        self.conv_hr = conv3x3(features, features)
        self.conv_last = conv3x3(features, 3)
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        if self.unshuffle == 1:
            return self._enlarge(x)
        # The remainder by 2 is also the padding that makes a side even.
        bottom, right = x.shape[2] % self.unshuffle, x.shape[3] % self.unshuffle
        even = functional.pad(x, (0, right, 0, bottom), mode="replicate")
        enlarged = self._enlarge(functional.pixel_unshuffle(even, self.unshuffle))
        # Negative padding crops. From a slice torch.export would conclude that all sizes are even.
        return functional.pad(enlarged, (0, -right * self.upscale, 0, -bottom * self.upscale))

    def _enlarge(self, x: Tensor) -> Tensor:
        shallow = self.conv_first(x)
        features = shallow + self.conv_body(self.body(shallow))
        for conv in (self.conv_up1, self.conv_up2):
            features = self.lrelu(conv(functional.interpolate(features, scale_factor=2.0, mode="nearest")))
        return self.conv_last(self.lrelu(self.conv_hr(features)))


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of one of the three layouts."""
    return rename_keys(state, RENAMES).keys() >= NEEDED


def build(request: Request[RrdbOptions]) -> SRNetwork:
    """Build an RRDBNet with the size of its weights, by default for images of 0 to 1."""
    state = rename_keys(request.state or {}, RENAMES)
    if not state.keys() >= NEEDED:
        lacking = f"the weights lack {', '.join(sorted(NEEDED - state.keys()))}"
        fault = "no weights" if request.state is None else lacking
        raise SrptqError(f"rrdb: {fault}; give a checkpoint of ESRGAN, Real-ESRGAN or BasicSR")
    sizes = _sizes(state)
    settle("rrdb", request.options, sizes)
    module = RRDB(**sizes)
    load_into(module, state)
    return SRNetwork(module, request.input_range or UNIT)


def _sizes(state: State) -> dict[str, int]:
    features, channels = state["conv_first.weight"].shape[:2]
    unshuffle = math.isqrt(channels // 3)
    if 3 * unshuffle**2 != channels:
        raise SrptqError(f"rrdb: conv_first reads {channels} channels; a network of RGB images has 3, or 12 for x2")
    growth = state["body.0.rdb1.conv1.weight"].shape[0]
    blocks = count_keys(state, r"body\.\d+\.rdb1\.conv1\.weight")
    return {"upscale": ENLARGED // unshuffle, "features": features, "growth": growth, "blocks": blocks}


FAMILY = ModelFamily(build, recognizes, (NEEDED,))
