"""FSRCNN in two layouts of keys, and one that enlarges."""

import re

import torch

from helpers.reference_networks import State, drawn
from srptq_plugin.models.fsrcnn import FSRCNN

SIZES = [(1, 7, 5), (7, 4, 1), (4, 4, 3), (4, 4, 3), (4, 7, 1)]
YJN870 = ("first_part.0", "first_part.1", *(f"mid_part.{number}" for number in range(8)))
LORNATANG = (
    *("feature_extraction.0", "feature_extraction.1", "shrink.0", "shrink.1"),
    *("map.0", "map.1", "map.2", "map.3", "expand.0", "expand.1"),
)
"""The names of the layers in their order, in two layouts of FSRCNN."""


def fsrcnn_layout(state: State, names: tuple[str, ...], last: str) -> State:
    """Rename the numbered layers of an FSRCNN."""
    state = {re.sub(r"^body\.(\d+)", lambda match: names[int(match[1])], key): value for key, value in state.items()}
    return {key.replace("deconv", last): value for key, value in state.items()}


def keeps_gray(upscale: int) -> State:
    """Return an FSRCNN that enlarges by the bilinear kernel, but for small errors."""
    state = {key: torch.zeros_like(value) for key, value in FSRCNN(upscale, SIZES).state_dict().items()}
    for layer in range(0, 10, 2):
        middle = state[f"body.{layer}.weight"].shape[-1] // 2
        state[f"body.{layer}.weight"][0, 0, middle, middle] = 1.0
    ramp = torch.tensor([max(0.0, 1 - abs(tap - 4) / upscale) for tap in range(9)])
    state["deconv.weight"][0, 0] = torch.outer(ramp, ramp)
    return {key: value + 1e-3 * noise for (key, value), noise in zip(state.items(), drawn(state).values(), strict=True)}
