"""A family of networks: one convolution and a pixel shuffle, for any scale."""

import math
from collections.abc import Iterable

from torch import nn

from srptq_plugin.plugin_api import (
    ModelEntry,
    ModelFamily,
    Request,
    SRNetwork,
    SrptqError,
    hookimpl,
    load_into,
    settle,
)

WEIGHT = "0.weight"
"""The name of the convolution's weight in a checkpoint."""


def build(request: Request) -> SRNetwork:
    """Build the network with the scale of its checkpoint, or with the scale that the caller chose."""
    from_weights: dict[str, int] = {}
    if request.state is not None:
        if WEIGHT not in request.state:
            raise SrptqError(f"tiny-sr: the checkpoint has no {WEIGHT}; give a checkpoint of this family")
        from_weights["upscale"] = math.isqrt(len(request.state[WEIGHT]) // 3)
    upscale = int(settle("tiny-sr", {"upscale": 2}, from_weights, request.arguments)["upscale"])
    module = nn.Sequential(nn.Conv2d(3, 3 * upscale**2, 3, padding=1), nn.PixelShuffle(upscale))
    if request.state is not None:
        load_into(module, request.state)
    return SRNetwork(module, request.input_range or (0.0, 1.0))


@hookimpl
def srptq_models() -> Iterable[ModelEntry]:
    """Register the family."""
    family = ModelFamily("tiny-sr", "one convolution and a pixel shuffle", build)
    return [ModelEntry(family.name, family.summary, load=lambda: family)]
