"""Random weights with the keys of published checkpoints."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
FEATURES, GROWTH, BLOCKS = 6, 4, 2
ORIGINAL = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_hr": "HRconv"}
NUMBERED = {"conv_first": "0", "conv_body": f"1.sub.{BLOCKS}", "conv_up1": "3", "conv_up2": "6", "conv_hr": "8"}


def _shapes(channels: int) -> dict[str, tuple[int, int]]:
    """Return the outputs and inputs of each convolution by its name in Real-ESRGAN."""
    sizes = {"conv_first": (FEATURES, channels), "conv_last": (3, FEATURES)}
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        sizes[name] = (FEATURES, FEATURES)
    for block in range(BLOCKS):
        for dense in (1, 2, 3):
            for n in range(5):
                outputs = FEATURES if n == 4 else GROWTH
                sizes[f"body.{block}.rdb{dense}.conv{n + 1}"] = (outputs, FEATURES + n * GROWTH)
    return sizes


def esrgan_state(channels: int = 3) -> State:
    """Draw random weights with the names of Real-ESRGAN."""
    generator = torch.Generator().manual_seed(channels)
    state: State = {}
    for name, (outputs, inputs) in _shapes(channels).items():
        state[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) / (3 * inputs**0.5)
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator) / 10
    return state


def _original(key: str) -> str:
    """Return ESRGAN's name of a tensor."""
    name, _, kind = key.rpartition(".")
    return re.sub(r"body\.(\d+)\.rdb(\d)", r"RRDB_trunk.\1.RDB\2", f"{ORIGINAL.get(name, name)}.{kind}")


def _numbered(key: str) -> str:
    """Return the name of a tensor in ESRGAN's older code."""
    name, _, kind = key.rpartition(".")
    inner = re.sub(r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"1.sub.\1.RDB\2.conv\3.0", name)
    return f"model.{(NUMBERED | {'conv_last': '10'}).get(name, inner)}.{kind}"


LAYOUTS = {"Real-ESRGAN": str, "ESRGAN": _original, "older ESRGAN": _numbered}
"""Functions that rename a tensor from Real-ESRGAN's keys."""


def basicsr_state(blocks: int, convs: Mapping[str, int], features: int) -> dict[str, Tensor]:
    """Draw random weights with BasicSR's names.

    Args:
        blocks: The number of residual blocks in the body.
        convs: The output channels of the convolutions outside the body.
        features: The channels in the body.
    """
    generator = torch.Generator().manual_seed(1)
    outputs = {f"body.{block}.conv{conv}": features for block in range(blocks) for conv in (1, 2)}
    outputs.update(convs)
    state: dict[str, Tensor] = {}
    for name, count in outputs.items():
        inputs = 3 if name == "conv_first" else features
        state[f"{name}.weight"] = torch.randn(count, inputs, 3, 3, generator=generator) / (3 * inputs**0.5)
        state[f"{name}.bias"] = torch.randn(count, generator=generator) / 10
    return state
