"""SRVGGNetCompact, the small network of Real-ESRGAN (Wang et al. 2021), with the keys of BasicSR."""

import math
import re
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.checkpoint import load_into
from srptq_plugin.models.model_options import SizeOptions, settle
from srptq_plugin.models.model_record import UNIT, ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3

COLORS = 3
KERNEL_AXES = 4


class SRVGG(nn.Module):
    """A chain of convolutions and PReLUs. Its output is a residual added to the enlarged input, pixel by pixel.

    >>> import torch
    >>> SRVGG(upscale=2, features=8, blocks=1)(torch.zeros(1, 3, 5, 6)).shape
    torch.Size([1, 3, 10, 12])
    """

    def __init__(self, upscale: int = 4, features: int = 64, blocks: int = 16) -> None:
        super().__init__()
        self.upscale = upscale
        self.body = nn.ModuleList(_layers(upscale, features, blocks))
        self.upsampler = nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        deep = x
        for layer in self.body:
            deep = layer(deep)
        return self.upsampler(deep) + functional.interpolate(x, scale_factor=self.upscale, mode="nearest")


def _layers(upscale: int, features: int, blocks: int) -> Iterator[nn.Module]:
    yield conv3x3(COLORS, features)
    yield nn.PReLU(features)
    for _ in range(blocks):
        yield conv3x3(features, features)
        yield nn.PReLU(features)
    yield conv3x3(features, COLORS * upscale**2)


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the layers of this network, and no others."""
    if not state or any(re.fullmatch(r"body\.\d+\.(weight|bias)", key) is None for key in state):
        return False
    kernels = sorted(_kernels(state))
    slopes = {number + 1 for number in kernels[:-1]}
    own = {int(key.split(".")[1]) for key in state} == {*kernels, *slopes}
    return len(kernels) > 1 and kernels == list(range(0, 2 * len(kernels), 2)) and own


def build(request: Request[SizeOptions]) -> SRNetwork:
    """Build an SRVGGNetCompact with the size of its weights, by default for images of 0 to 1."""
    state = request.state
    if state is None or not recognizes(state):
        fault = "no weights" if state is None else "the weights are no chain of convolutions and PReLUs"
        raise SrptqError(f"srvgg: {fault}; give a checkpoint of Real-ESRGAN's SRVGGNetCompact")
    kernels = _kernels(state)
    outputs = kernels[max(kernels)].shape[0]
    sizes = {"upscale": math.isqrt(outputs // COLORS), "features": kernels[0].shape[0], "blocks": len(kernels) - 2}
    settle("srvgg", request.options, sizes)
    module = SRVGG(**sizes)
    load_into(module, state)
    return SRNetwork(module, request.input_range or UNIT)


def _kernels(state: State) -> dict[int, Tensor]:
    """Return the weights of the convolutions by the number of the layer."""
    return {int(key.split(".")[1]): value for key, value in state.items() if value.ndim == KERNEL_AXES}


FAMILY = ModelFamily(build, recognizes)
