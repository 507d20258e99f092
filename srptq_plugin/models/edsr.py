"""EDSR (Lim et al. 2017) in the layout of EDSR-PyTorch, which loads BasicSR's checkpoints too."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.checkpoint import Renames, count_keys, load_into, load_state, rename_keys
from srptq_plugin.models.mean_shift import MEAN, Mean, build_shifts, change_range, find_peak, read_mean
from srptq_plugin.models.model_options import EdsrOptions, settle
from srptq_plugin.models.model_record import LEVELS, UNIT, ModelFamily, Range, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3, shuffle_factors

MINI = {scale: Path(__file__).parent / "weights" / f"edsr_mini_x{scale}.safetensors" for scale in ("2", "4")}
MINI_SIZE = (32, 16)
"""The features and blocks of the bundled networks."""
SHIFTS = frozenset({"sub_mean.weight", "sub_mean.bias", "add_mean.weight", "add_mean.bias"})
NATIVE = SHIFTS | {"head.0.weight", "body.0.body.0.weight", "tail.0.0.weight", "tail.1.weight"}
"""Keys of EDSR-PyTorch that its RCAN and MDSR do not have together."""
IN_BASICSR = frozenset({"conv_first.weight", "body.0.conv1.weight", "conv_after_body.weight", "upsample.0.weight"})
"""Keys of BasicSR's EDSR that its RCAN and SwinIR do not have together."""
LARGE = 256
"""The features of the published networks that scale their residuals by 0.1. No checkpoint records that factor."""
BASICSR: Renames = (
    (r"conv_first\.(.*)", r"head.0.\1"),
    (r"body\.(\d+)\.conv1\.(.*)", r"body.\1.body.0.\2"),
    (r"body\.(\d+)\.conv2\.(.*)", r"body.\1.body.2.\2"),
    (r"upsample\.(.*)", r"tail.0.\1"),
    (r"conv_last\.(.*)", r"tail.1.\1"),
)


class EDSRBlock(nn.Module):
    """A residual block of two convolutions without batch norm."""

    def __init__(self, features: int, residual_scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(conv3x3(features, features), nn.ReLU(), conv3x3(features, features))
        self.residual_scale = residual_scale

    def forward(self, x: Tensor) -> Tensor:
        residual = self.body(x)
        # A factor of 1 is left out, so that the exported graph has no multiplication to quantize.
        return x + (residual if self.residual_scale == 1 else residual * self.residual_scale)


class EDSR(nn.Module):
    """A network whose features work on levels of 0 to 255.

    Frozen 1 x 1 convolutions subtract the mean at its input and add it at its output. They also convert between
    `input_range` and these levels.

    >>> import torch
    >>> EDSR(upscale=2, features=8, blocks=1)(torch.zeros(1, 3, 5, 6)).shape
    torch.Size([1, 3, 10, 12])
    """

    def __init__(
        self,
        upscale: int = 4,
        features: int = 64,
        blocks: int = 16,
        residual_scale: float = 1.0,
        *,
        input_range: Range = LEVELS,
        mean: Mean = MEAN,
    ) -> None:
        super().__init__()
        body = [EDSRBlock(features, residual_scale) for _ in range(blocks)]
        self.sub_mean = nn.Conv2d(3, 3, 1).requires_grad_(requires_grad=False)
        self.head = nn.Sequential(conv3x3(3, features))
        self.body = nn.Sequential(*body, conv3x3(features, features))
        self.tail = nn.Sequential(nn.Sequential(*_upsampler(upscale, features)), conv3x3(features, 3))
        self.add_mean = nn.Conv2d(3, 3, 1).requires_grad_(requires_grad=False)
        self.load_state_dict(change_range(build_shifts(mean), LEVELS, input_range), strict=False)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(self.sub_mean(x))
        return self.add_mean(self.tail(shallow + self.body(shallow)))


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of EDSR-PyTorch or BasicSR, and another size than the bundled ones."""
    return (state.keys() >= NATIVE or state.keys() >= IN_BASICSR) and not recognizes_mini(state)


def recognizes_mini(state: State) -> bool:
    """Tell whether a checkpoint has the keys of EDSR-PyTorch and the size of the bundled networks."""
    return state.keys() >= NATIVE and (state["head.0.weight"].shape[:1].numel(), _blocks(state)) == MINI_SIZE


def build(request: Request[EdsrOptions]) -> SRNetwork:
    """Build an EDSR with the size, mean and input range of its weights."""
    if request.state is None:
        raise SrptqError("edsr: no weights; give a checkpoint of EDSR-PyTorch or BasicSR")
    state = _native(request.state)
    peak = find_peak(state)
    # BasicSR feeds images of 0 to 1 into networks that work on 0 to 255 inside.
    input_range = request.input_range or (UNIT if "conv_first.weight" in request.state else (0.0, peak))
    state = change_range(state, (0.0, peak), input_range)
    module = _sized(state, request.options)
    load_into(module, state)
    return SRNetwork(module, input_range, read_mean(state))


def build_mini(request: Request[EdsrOptions]) -> SRNetwork:
    """Build one of the networks bundled with this package, for x4 by default."""
    if request.state is not None:
        return build(request)
    upscale = str(request.options.upscale or 4)
    if upscale not in MINI:
        raise SrptqError(f"edsr-mini: upscale={upscale}; give {' or '.join(MINI)}, or the weights of another network")
    return build(replace(request, state=load_state(MINI[upscale])))


def _sized(state: State, options: EdsrOptions) -> EDSR:
    features = state["head.0.weight"].shape[0]
    blocks = _blocks(state)
    # The convolution before a pixel shuffle by r has r^2 times as many outputs as inputs.
    upsampling = [weight for key, weight in state.items() if re.fullmatch(r"tail\.0\.\d+\.weight", key)]
    upscale = math.prod(math.isqrt(weight.shape[0] // weight.shape[1]) for weight in upsampling)
    options = settle("edsr", options, {"upscale": upscale, "features": features, "blocks": blocks})
    return EDSR(upscale, features, blocks, options.residual_scale or (0.1 if features >= LARGE else 1.0))


def _blocks(state: State) -> int:
    return count_keys(state, r"body\.\d+\.body\.0\.weight")


def _native(state: State) -> State:
    """Rename BasicSR's keys and add the mean shifts that its code keeps outside the checkpoint."""
    if "head.0.weight" in state and state.keys() >= SHIFTS:
        return state
    if "conv_first.weight" not in state:
        raise SrptqError(
            "edsr: the weights have neither head.0 with sub_mean and add_mean (EDSR-PyTorch) nor conv_first "
            f"(BasicSR); their first keys are {', '.join(list(state)[:3])}"
        )
    blocks = count_keys(state, r"body\.\d+\.conv1\.weight")
    renames = (*BASICSR, (r"conv_after_body\.(.*)", rf"body.{blocks}.\1"))
    return rename_keys(state, renames) | build_shifts(MEAN)


def _upsampler(upscale: int, features: int) -> Iterator[nn.Module]:
    for factor in shuffle_factors(upscale):
        yield conv3x3(features, factor**2 * features)
        yield nn.PixelShuffle(factor)


FAMILY = ModelFamily(build, recognizes, (NATIVE, IN_BASICSR))
MINI_FAMILY = ModelFamily(build_mini, recognizes_mini)
