"""A family of networks: one convolution and a pixel shuffle, for any scale."""

import math
from collections.abc import Iterable

from pydantic import Field
from torch import nn

from srptq_plugin.plugin_api import (
    ModelEntry,
    ModelFamily,
    Options,
    Request,
    SRNetwork,
    SrptqError,
    State,
    hookimpl,
    load_into,
    settle,
)


class TinyOptions(Options):
    """The options of the family."""

    upscale: int = Field(default=2, ge=1)
    """The upscaling factor. Weights have a factor of their own."""


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this family."""
    return set(state) == {"0.weight", "0.bias"}


def build(request: Request[TinyOptions]) -> SRNetwork:
    """Build the network, with the scale of its weights if there are any."""
    options, state = request.options, request.state
    if state is not None:
        if not recognizes(state):
            raise SrptqError("tiny-sr: the weights are not 0.weight and 0.bias; give a checkpoint of this family")
        options = settle("tiny-sr", options, {"upscale": math.isqrt(len(state["0.weight"]) // 3)})
    channels = 3 * options.upscale**2
    module = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.PixelShuffle(options.upscale))
    if state is not None:
        load_into(module, state)
    return SRNetwork(module, request.input_range or (0.0, 1.0))


@hookimpl
def srptq_models() -> Iterable[ModelEntry]:
    """Register the family."""
    return [
        ModelEntry(
            "tiny-sr",
            "one convolution and a pixel shuffle",
            load=lambda: ModelFamily(build, recognizes),
            options=TinyOptions,
        )
    ]
