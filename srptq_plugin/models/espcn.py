"""ESPCN (Shi et al. 2016) for Y or RGB, with the keys of yjn870/ESPCN-pytorch or Lornatang/ESPCN-PyTorch."""

import math

from torch import Tensor, nn

from srptq_plugin.models.checkpoint import Renames, load_into, rename_keys, require_keys
from srptq_plugin.models.model_options import UpscaleOptions, settle
from srptq_plugin.models.model_record import UNIT, ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3

LAYERS = ("first_part.0", "first_part.2", "last_part.0")
NEEDED = frozenset(f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias"))
RENAMES: Renames = (
    (r"feature_maps\.(.*)", r"first_part.\1"),
    (r"sub_pixel\.(.*)", r"last_part.\1"),
)
"""The keys of Lornatang/ESPCN-PyTorch to the keys of yjn870/ESPCN-pytorch."""


class ESPCN(nn.Module):
    """Three convolutions with tanh between them, and a pixel shuffle.

    >>> import torch
    >>> ESPCN(upscale=3, features=8)(torch.zeros(1, 1, 5, 6)).shape
    torch.Size([1, 1, 15, 18])
    """

    def __init__(self, upscale: int = 3, features: int = 64, inner: int = 32, colors: int = 1) -> None:
        super().__init__()
        first = nn.Conv2d(colors, features, 5, padding=2)
        self.first_part = nn.Sequential(first, nn.Tanh(), conv3x3(features, inner), nn.Tanh())
        self.last_part = nn.Sequential(conv3x3(inner, colors * upscale**2), nn.PixelShuffle(upscale))

    def forward(self, x: Tensor) -> Tensor:
        return self.last_part(self.first_part(x))


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network, and no others."""
    return rename_keys(state, RENAMES).keys() == NEEDED


def build(request: Request[UpscaleOptions]) -> SRNetwork:
    """Build an ESPCN with the size and the channels of its weights, by default for images of 0 to 1."""
    renamed = request.state and rename_keys(request.state, RENAMES)
    state = require_keys(renamed, NEEDED, "espcn", "yjn870/ESPCN-pytorch or Lornatang/ESPCN-PyTorch")
    (features, colors), inner = state["first_part.0.weight"].shape[:2], state["first_part.2.weight"].shape[0]
    upscale = math.isqrt(state["last_part.0.weight"].shape[0] // colors)
    settle("espcn", request.options, {"upscale": upscale, "features": features})
    module = ESPCN(upscale, features, inner, colors)
    load_into(module, state)
    return SRNetwork(module, request.input_range or UNIT)


FAMILY = ModelFamily(build, recognizes, (NEEDED,))
