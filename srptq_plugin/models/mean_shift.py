"""Mean shifts: the frozen 1 x 1 convolutions `sub_mean` and `add_mean` at both ends of a network."""

import torch
from torch import Tensor

from srptq_plugin.models.model_record import Range, State

Mean = tuple[float, float, float]
MEAN: Mean = (0.4488, 0.4371, 0.4040)
"""The RGB mean of DIV2K, as a fraction of white."""


def build_shifts(mean: Mean) -> dict[str, Tensor]:
    """Return the weights of both mean shifts for levels of 0 to 255."""
    colors = torch.eye(3).reshape(3, 3, 1, 1)
    levels = 255 * torch.tensor(mean)
    return {
        "sub_mean.weight": colors,
        "sub_mean.bias": -levels,
        "add_mean.weight": colors.clone(),
        "add_mean.bias": levels,
    }


def find_peak(state: State) -> float:
    """Return the level of white inside a network: some are trained on 0 to 255, others on 0 to 1."""
    # Every mean of photographs on 0 to 255 exceeds 1.
    return 1.0 if float(state["add_mean.bias"].abs().max()) <= 1 else 255.0


def read_mean(state: State) -> Mean:
    """Return the mean that a network adds at its output."""
    red, green, blue = (round(float(level), 4) for level in state["add_mean.bias"])
    return red, green, blue


def change_range(state: State, inner: Range, outer: Range) -> State:
    """Return weights for images in the range `outer`, where features keep working on `inner`."""
    if inner == outer:
        return state
    # inner level = gain * outer level + offset. Folded into the mean shifts, the map costs no operation:
    #   sub_mean: W (gain x + offset) + b = (gain W) x + (b + offset * sum of W's row)
    #   add_mean: (W y + b - offset) / gain, the inverse map
    gain = (inner[1] - inner[0]) / (outer[1] - outer[0])
    offset = inner[0] - outer[0] * gain
    weight = state["sub_mean.weight"]
    return {
        **state,
        "sub_mean.weight": weight * gain,
        "sub_mean.bias": state["sub_mean.bias"] + offset * weight.sum(dim=(1, 2, 3)),
        "add_mean.weight": state["add_mean.weight"] / gain,
        "add_mean.bias": (state["add_mean.bias"] - offset) / gain,
    }
