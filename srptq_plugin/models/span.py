"""SPAN (Wan et al., NTIRE 2024) with the keys of hongyuanyu/SPAN, of training or folded for inference."""

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.checkpoint import Renames, count_keys, load_into, rename_keys, require_keys
from srptq_plugin.models.mean_shift import MEAN, build_shifts, change_range
from srptq_plugin.models.model_options import SizeOptions, settle
from srptq_plugin.models.model_record import LEVELS, UNIT, ModelFamily, Range, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3

COLORS = 3
NEEDED = frozenset(
    f"{layer}.weight" for layer in ("conv_1", "block_1.c1_r", "block_1.c3_r", "conv_cat", "conv_2", "upsampler.0")
)
RENAMES: Renames = ((r"(.*)\.(?:sk|eval_conv)\.(weight|bias)", r"\1.\2"),)
"""The keys of a shortcut, or of the folded convolution, to the layer's keys."""
UNNORMALIZED = "no_norm"
"""A tensor that marks networks trained without mean shift, as neosr writes it."""
BRANCHES = tuple(f"{name}.{kind}" for name in ("sk", "conv.0", "conv.1", "conv.2") for kind in ("weight", "bias"))
"""The tensors of a layer in training: a 1 x 1 shortcut, and a chain of convolutions of 1 x 1, 3 x 3 and 1 x 1."""


class AttentionBlock(nn.Module):
    """A residual block whose output is multiplied by an odd function of its residual."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.c1_r = conv3x3(features, features)
        self.c2_r = conv3x3(features, features)
        self.c3_r = conv3x3(features, features)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output, and the activated output of its first convolution."""
        first = self.act(self.c1_r(x))
        residual = self.c3_r(self.act(self.c2_r(first)))
        return (residual + x) * (torch.sigmoid(residual) - 0.5), first


class SPAN(nn.Module):
    """A chain of attention blocks, of which four maps are fused.

    >>> SPAN(upscale=2, features=8, blocks=2)(torch.zeros(1, 3, 5, 6)).shape
    torch.Size([1, 3, 10, 12])

    Args:
        upscale: The factor of the pixel shuffle.
        features: The channels of all maps.
        blocks: The number of attention blocks.
        normalized: Whether a mean shift, `sub_mean`, precedes the network.
    """

    def __init__(self, upscale: int = 4, features: int = 48, blocks: int = 6, *, normalized: bool = True) -> None:
        super().__init__()
        self.names = tuple(f"block_{number}" for number in range(1, blocks + 1))
        self.sub_mean = nn.Conv2d(COLORS, COLORS, 1).requires_grad_(requires_grad=False) if normalized else None
        self.conv_1 = conv3x3(COLORS, features)
        for name in self.names:
            self.add_module(name, AttentionBlock(features))
        self.conv_cat = nn.Conv2d(4 * features, features, 1)
        self.conv_2 = conv3x3(features, features)
        self.upsampler = nn.Sequential(conv3x3(features, COLORS * upscale**2), nn.PixelShuffle(upscale))

    def forward(self, x: Tensor) -> Tensor:
        shallow = deep = self.conv_1(x if self.sub_mean is None else self.sub_mean(x))
        outputs: list[Tensor] = []
        first = shallow
        for name in self.names:
            deep, first = self.get_submodule(name)(deep)
            outputs.append(deep)
        return self.upsampler(self.conv_cat(torch.cat([shallow, self.conv_2(deep), outputs[0], first], dim=1)))


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network."""
    return rename_keys(state, RENAMES).keys() >= NEEDED


def build(request: Request[SizeOptions]) -> SRNetwork:
    """Build a SPAN with the size of its weights, and fold what it has for training only."""
    renamed = request.state and rename_keys(request.state, RENAMES)
    require_keys(renamed, NEEDED, "span", "hongyuanyu/SPAN or neosr")
    folded = _fold(request.state or {})
    normalized = folded.pop(UNNORMALIZED, None) is None
    sizes = {
        "upscale": math.isqrt(folded["upsampler.0.weight"].shape[0] // COLORS),
        "features": folded["conv_1.weight"].shape[0],
        "blocks": count_keys(folded, r"block_\d+\.c1_r\.weight"),
    }
    settle("span", request.options, sizes)
    module = SPAN(**sizes, normalized=normalized)
    load_into(module, folded | (_shift() if normalized else {}))
    return SRNetwork(module, _choose_range(request.input_range, normalized=normalized), MEAN if normalized else None)


def _choose_range(input_range: Range | None, *, normalized: bool) -> Range:
    if normalized and input_range not in {None, UNIT}:
        raise SrptqError(
            f"span: input range {input_range}; its mean shift is for images of 0 to 1, leave the range out"
        )
    return input_range or UNIT


def _shift() -> dict[str, Tensor]:
    """Return a mean shift that turns images of 0 to 1 into levels of 0 to 255 without their mean."""
    shifts = change_range(build_shifts(MEAN), LEVELS, UNIT)
    return {key: value for key, value in shifts.items() if key.startswith("sub_mean.")}


def _fold(state: State) -> dict[str, Tensor]:
    """Return the weights with one convolution in place of each layer's branches.

    A checkpoint saved in training holds folded convolutions, too, but stale ones.
    """
    pattern = re.compile(rf"(.*)\.(?:{'|'.join(map(re.escape, BRANCHES))})")
    layers = {match[1] for key in state if (match := pattern.fullmatch(key))}
    missing = [
        f"{layer}.{branch}" for layer in sorted(layers) for branch in BRANCHES if f"{layer}.{branch}" not in state
    ]
    if missing:
        raise SrptqError(f"span: the weights lack {', '.join(missing)}; give a complete checkpoint")
    own = {f"{layer}.{branch}" for layer in layers for branch in BRANCHES}
    plain = rename_keys({key: value for key, value in state.items() if key not in own}, RENAMES)
    for layer in layers:
        weight, bias = _fold_branches([state[f"{layer}.{branch}"].double() for branch in BRANCHES])
        plain |= {f"{layer}.weight": weight.float(), f"{layer}.bias": bias.float()}
    return plain


def _fold_branches(branches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the 3 x 3 convolution that computes what a layer's branches compute together."""
    shortcut, shortcut_bias, first, first_bias, middle, middle_bias, last, last_bias = branches
    first, last = first[..., 0, 0], last[..., 0, 0]
    weight = torch.einsum("on,nmhw,mi->oihw", last, middle, first)
    weight[..., 1:2, 1:2] += shortcut
    # The chain pads its input, before the first bias is added. So this bias passes through the whole kernel everywhere.
    bias = last @ (middle.sum((2, 3)) @ first_bias + middle_bias) + last_bias
    return weight, bias + shortcut_bias


FAMILY = ModelFamily(build, recognizes, (NEEDED,))
