"""FSRCNN (Dong et al. 2016) for Y or RGB, with the keys of yjn870/FSRCNN-pytorch or Lornatang/FSRCNN-PyTorch."""

import logging
import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from srptq_plugin.errors import ArgumentError, SrptqError
from srptq_plugin.models.checkpoint import count_keys, load_into
from srptq_plugin.models.model_options import UpscaleOptions, settle
from srptq_plugin.models.model_record import UNIT, ModelFamily, Range, Request, SRNetwork, State

logger = logging.getLogger(__name__)
PARTS = ("first_part", "feature_extraction", "mid_part", "shrink", "map", "expand")
"""The chains of layers of both layouts, in their order."""
KERNEL = 9
"""The side of the deconvolution's kernel in the paper."""
SIDE = 64
"""The side of the gray image that measures the scale. Its center must not see the border."""
SCALES = range(1, KERNEL)
TOLERANCE = 0.1
"""How far gray may change, as a fraction. Trained networks change it by about 1 %, a wrong scale by 23 % or more."""


class FSRCNN(nn.Module):
    """A chain of convolutions, each with its PReLU, and a transposed convolution that upscales.

    >>> FSRCNN(upscale=3, sizes=[(1, 8, 5), (8, 4, 1), (4, 8, 1)])(torch.zeros(1, 1, 5, 6)).shape
    torch.Size([1, 1, 15, 18])

    Args:
        upscale: The stride of the transposed convolution.
        sizes: The inputs, outputs and kernel side of each convolution.
        kernel: The kernel side of the transposed convolution.
    """

    def __init__(self, upscale: int, sizes: list[tuple[int, int, int]], kernel: int = KERNEL) -> None:
        super().__init__()
        self.body = nn.Sequential(*_layers(sizes))
        last, colors = sizes[-1][1], sizes[0][0]
        self.deconv = nn.ConvTranspose2d(
            last, colors, kernel, stride=upscale, padding=kernel // 2, output_padding=upscale - 1
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.deconv(self.body(x))


def _layers(sizes: list[tuple[int, int, int]]) -> Iterator[nn.Module]:
    for inputs, outputs, side in sizes:
        yield nn.Conv2d(inputs, outputs, side, padding=side // 2)
        yield nn.PReLU(outputs)


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint is a chain of convolutions with PReLUs and a transposed convolution, and no more."""
    numbered = _number_layers(state)
    kernels = range(0, 2 * _count_convolutions(numbered), 2)
    chain = {key for layer in kernels for key in (f"body.{layer}.weight", f"body.{layer}.bias")}
    slopes = {f"body.{layer + 1}.weight" for layer in kernels}
    return len(kernels) > 0 and set(numbered) == {"deconv.weight", "deconv.bias"} | chain | slopes


def _count_convolutions(state: State) -> int:
    return count_keys(state, r"body\.\d+\.bias")


def build(request: Request[UpscaleOptions]) -> SRNetwork:
    """Build an FSRCNN with the size and the channels of its weights, by default for images of 0 to 1."""
    if request.state is None or not recognizes(request.state):
        fault = "no weights" if request.state is None else "the weights are no chain of convolutions and PReLUs"
        raise SrptqError(f"fsrcnn: {fault}; give a checkpoint of yjn870/FSRCNN-pytorch or Lornatang/FSRCNN-PyTorch")
    state = _number_layers(request.state)
    kernels = [state[f"body.{number}.weight"] for number in range(0, 2 * _count_convolutions(state), 2)]
    sizes = [(kernel.shape[1], kernel.shape[0], kernel.shape[-1]) for kernel in kernels]
    settle("fsrcnn", request.options, {"features": sizes[0][1]})
    module = FSRCNN(request.options.upscale or 1, sizes, state["deconv.weight"].shape[-1])
    load_into(module, state)
    input_range = request.input_range or UNIT
    if request.options.upscale is None:
        _set_scale(module.deconv, _measure_scale(module, input_range))
    return SRNetwork(module, input_range)


def _number_layers(state: State) -> State:
    """Name the layers `body.0`, `body.1`, ... in the order of use, and `deconv`."""
    layers = {match[0] for key in state if (match := re.match(rf"({'|'.join(PARTS)})\.\d+(?=\.)", key))}
    ordered = sorted(layers, key=lambda layer: (PARTS.index(layer.split(".")[0]), int(layer.split(".")[1])))
    names = {layer: f"body.{number}" for number, layer in enumerate(ordered)} | {"last_part": "deconv"}
    split = {key: key.rpartition(".") for key in state}
    return {f"{names.get(layer, layer)}.{kind}": state[key] for key, (layer, _, kind) in split.items()}


def _measure_scale(module: FSRCNN, input_range: Range) -> int:
    """Return the scale at which the network keeps a gray image's level. Raise ArgumentError if there is none.

    No shape tells the scale. But a transposed convolution of stride s spreads each input over s x s outputs, so the
    sum of its kernel is s^2 times what a single output gets.
    """
    gray = sum(input_range) / 2
    deconv = module.deconv
    with torch.no_grad():
        features = module.body(torch.full((1, deconv.out_channels, SIDE, SIDE), gray))[0, :, SIDE // 2, SIDE // 2]
        spread = float((features @ deconv.weight.sum((2, 3))).mean())
        bias = 0.0 if deconv.bias is None else float(deconv.bias.mean())
    errors = {scale: abs(spread / scale**2 + bias - gray) for scale in SCALES}
    scale = min(errors, key=lambda scale: errors[scale])
    if not errors[scale] <= TOLERANCE * (input_range[1] - input_range[0]) / 2:
        raise ArgumentError(
            "model_args",
            "fsrcnn: no shape tells the scale, and at none of "
            f"{SCALES[0]} to {SCALES[-1]} does the network keep a gray image's level; give the scale, such as "
            "`model_args=upscale=4`, and the range if it is not 0 to 1, such as `input_range=0:255`",
        )
    logger.info("fsrcnn: the scale is %d, at which the network keeps a gray image's level", scale)
    return scale


def _set_scale(deconv: nn.ConvTranspose2d, scale: int) -> None:
    deconv.stride = (scale, scale)
    deconv.output_padding = (scale - 1, scale - 1)


FAMILY = ModelFamily(build, recognizes)
