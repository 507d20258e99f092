"""CARN and CARN-M (Ahn et al., ECCV 2018) with the keys of nmhkahn/CARN-pytorch."""

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from srptq_plugin.errors import ArgumentError, SrptqError
from srptq_plugin.models.checkpoint import Renames, count_keys, load_into, rename_keys, require_keys
from srptq_plugin.models.mean_shift import change_range, find_peak, read_mean
from srptq_plugin.models.model_options import UpscaleOptions, settle
from srptq_plugin.models.model_record import ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.residual import shuffle_factors

COLORS = 3
STEPS = 3
"""Blocks of a cascade."""
logger = logging.getLogger(__name__)
NEEDED = frozenset(
    {"sub_mean.weight", "sub_mean.bias", "add_mean.weight", "add_mean.bias", "entry.weight", "exit.weight"}
    | {"b1.b1.body.0.weight", "b1.c1.body.0.weight", "c3.body.0.weight"}
)
RENAMES: Renames = ((r"(sub|add)_mean\.shifter\.(.*)", r"\1_mean.\2"),)


class ResidualBlock(nn.Module):
    """A residual block with an activation at its end. A light one ends in a 1 x 1 convolution and has groups."""

    def __init__(self, features: int, groups: int, *, light: bool) -> None:
        super().__init__()
        layers = [_grouped(features, features, groups), nn.ReLU(), _grouped(features, features, groups)]
        more = [nn.ReLU(), nn.Conv2d(features, features, 1)] if light else []
        self.body = nn.Sequential(*layers, *more)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + x)


class Fusion(nn.Module):
    """A 1 x 1 convolution and a ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Cascade(nn.Module):
    """Three blocks, behind each of which all maps so far are fused.

    Args:
        features: The channels of each map.
        build_block: Builds a block.
        shared: Whether all three blocks are the same one.
    """

    def __init__(self, features: int, build_block: Callable[[], nn.Module], *, shared: bool) -> None:
        super().__init__()
        self.names = ("b1",) * STEPS if shared else tuple(f"b{step}" for step in range(1, STEPS + 1))
        for name in dict.fromkeys(self.names):
            self.add_module(name, build_block())
        for step in range(1, STEPS + 1):
            self.add_module(f"c{step}", Fusion((step + 1) * features, features))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for step, name in enumerate(self.names, start=1):
            maps.append(self.get_submodule(name)(x))
            x = self.get_submodule(f"c{step}")(torch.cat(maps, dim=1))
        return x


class CARN(Cascade):
    """A cascade of cascades of residual blocks. CARN-M has light blocks, one for each cascade.

    Frozen 1 x 1 convolutions subtract the mean at its input and add it at its output.

    >>> CARN(upscale=2, features=8, groups=4, light=True)(torch.zeros(1, 3, 5, 6)).shape
    torch.Size([1, 3, 10, 12])
    """

    def __init__(self, upscale: int = 4, features: int = 64, groups: int = 1, *, light: bool = False) -> None:
        def build_block() -> nn.Module:
            return ResidualBlock(features, groups, light=light)

        super().__init__(features, lambda: Cascade(features, build_block, shared=light), shared=False)
        self.sub_mean = nn.Conv2d(COLORS, COLORS, 1).requires_grad_(requires_grad=False)
        self.entry = nn.Conv2d(COLORS, features, 3, padding=1)
        self.upsample = nn.Sequential(*_upsampler(upscale, features, groups))
        self.exit = nn.Conv2d(features, COLORS, 3, padding=1)
        self.add_mean = nn.Conv2d(COLORS, COLORS, 1).requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        deep = super().forward(self.entry(self.sub_mean(x)))
        return self.add_mean(self.exit(self.upsample(deep)))


def _grouped(inputs: int, outputs: int, groups: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)


def _upsampler(upscale: int, features: int, groups: int) -> Iterator[nn.Module]:
    for factor in shuffle_factors(upscale):
        yield _grouped(features, factor**2 * features, groups)
        yield nn.ReLU()
        yield nn.PixelShuffle(factor)


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network."""
    return rename_keys(state, RENAMES).keys() >= NEEDED


def build(request: Request[UpscaleOptions]) -> SRNetwork:
    """Build a CARN or CARN-M with the size, mean and range of its weights, for one of its scales."""
    renamed = request.state and rename_keys(request.state, RENAMES)
    state = require_keys(renamed, NEEDED, "carn", "nmhkahn/CARN-pytorch")
    features = state["entry.weight"].shape[0]
    state, upscale = _choose_scale(state, features, request.options.upscale)
    settle("carn", request.options, {"upscale": upscale, "features": features})
    inner = (0.0, find_peak(state))
    input_range = request.input_range or inner
    state = change_range(state, inner, input_range)
    groups = features // state["b1.b1.body.0.weight"].shape[1]
    module = CARN(upscale, features, groups, light=count_keys(state, r"b1\.b2\..*") == 0)
    load_into(module, state)
    return SRNetwork(module, input_range, read_mean(state))


def _choose_scale(state: State, features: int, given: int | None) -> tuple[State, int]:
    """Return the weights with one upsampler, and its scale.

    Networks of one scale have `upsample.up`, networks of several scales `upsample.up2` and others.
    """
    pattern = re.compile(r"upsample\.(up\d*)\.body\.(\d+\..*)")
    parts = {key: match for key in state if (match := pattern.fullmatch(key))}
    scales: dict[str, int] = {}
    for key, match in parts.items():
        if key.endswith(".weight"):
            scales[match[1]] = scales.get(match[1], 1) * math.isqrt(state[key].shape[0] // features)
    name = _choose_upsampler(scales, given)
    rest = {key: value for key, value in state.items() if key not in parts}
    own = {f"upsample.{match[2]}": state[key] for key, match in parts.items() if match[1] == name}
    return rest | own, scales[name]


def _choose_upsampler(scales: Mapping[str, int], given: int | None) -> str:
    """Return the name of the upsampler for the given scale, by default the largest one, with a warning."""
    if not scales:
        raise SrptqError("carn: the weights lack an upsampler, upsample.up; give a complete checkpoint")
    largest = max(scales, key=scales.__getitem__)
    if len(scales) == 1:
        return largest
    held = ", ".join(str(scale) for scale in sorted(scales.values()))
    if given is None:
        logger.warning(
            "carn: the weights are for scales %s, and %d is taken; `model_args=upscale=%d` takes another",
            *(held, scales[largest], min(scales.values())),
        )
        return largest
    chosen = [name for name, scale in scales.items() if scale == given]
    if not chosen:
        raise ArgumentError("model_args", f"carn: upscale={given} is none of the scales of the weights: {held}")
    return chosen[0]


FAMILY = ModelFamily(build, recognizes, (NEEDED,))
