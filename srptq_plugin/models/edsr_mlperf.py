"""The small EDSR of the MLPerf Mobile benchmark (edsr_f32b5), which ends in a single pixel shuffle."""

import math

from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.checkpoint import count_keys, load_into, require_keys
from srptq_plugin.models.model_options import SizeOptions, settle
from srptq_plugin.models.model_record import LEVELS, ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3

COLORS = 3
NEEDED = frozenset({"head.weight", "body.0.0.weight", "body.0.2.weight", "tail.weight"})


class ResidualBlock(nn.Sequential):
    """A residual block of two convolutions."""

    def __init__(self, features: int) -> None:
        super().__init__(conv3x3(features, features), nn.ReLU(), conv3x3(features, features))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in nn.Sequential
        return input + super().forward(input)


class MLPerfEDSR(nn.Module):
    """A network whose output is clamped to 0 to 255 before the pixel shuffle.

    >>> import torch
    >>> MLPerfEDSR(upscale=2, features=8, blocks=1)(torch.zeros(1, 3, 5, 6)).shape
    torch.Size([1, 3, 10, 12])
    """

    def __init__(self, upscale: int = 2, features: int = 32, blocks: int = 5) -> None:
        super().__init__()
        self.head = conv3x3(COLORS, features)
        self.body = nn.Sequential(*(ResidualBlock(features) for _ in range(blocks)), conv3x3(features, features))
        self.tail = conv3x3(features, COLORS * upscale**2)
        self.pixel_shuffle = nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        return self.pixel_shuffle(self.tail(shallow + self.body(shallow)).clamp(*LEVELS))


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network."""
    return state.keys() >= NEEDED


def build(request: Request[SizeOptions]) -> SRNetwork:
    """Build the network with the size of its weights, for images of 0 to 255."""
    state = require_keys(request.state, NEEDED, "edsr-mlperf", "MLPerf's edsr_f32b5")
    if request.input_range not in {None, LEVELS}:
        raise SrptqError(
            f"edsr-mlperf: input range {request.input_range}; its output is in 0 to 255, leave the range out"
        )
    features = state["head.weight"].shape[0]
    upscale = math.isqrt(state["tail.weight"].shape[0] // COLORS)
    sizes = {"upscale": upscale, "features": features, "blocks": count_keys(state, r"body\.\d+\.0\.weight")}
    settle("edsr-mlperf", request.options, sizes)
    module = MLPerfEDSR(**sizes)
    load_into(module, state)
    return SRNetwork(module, LEVELS)


FAMILY = ModelFamily(build, recognizes, (NEEDED,))
